"""What the encoder decodes from each unit alone, without a language model.

Patches are compared within the principal components of the true ones: 64 numbers a window in place
of 576 x 1,024, and nothing of the size of a grid is kept for more than one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.manifest import MAX_ENCODER_BATCH
from contracts.population import CONTROLS, Population, Selection
from contracts.progress import ProgressBar
from daemon.encoders.graph_check import cpu_graph
from encoder_training.evaluation.bootstrap import Interval, interval
from evaluation.caption_scores.inputs import OF_SESSION
from evaluation.questions.chance import ShiftTest, block_draws, shift_test
from evaluation.questions.inputs import EvaluationInputs
from evaluation.scores import own_and_others

N_COMPONENTS = 64
"""Of the simulated animal's 362 scored frames they hold 97 % of the variance."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchComponents:
    """Principal components of the patches of the scored frames."""

    mean: NDArray[np.float32]  # (n_numbers,)
    axes: NDArray[np.float32]  # (n_numbers, n_components), of length one
    shown: NDArray[np.float64]  # (n_positions, n_components): the frames
    share: float  # Of the variance

    @classmethod
    def of(cls, patches: NDArray[np.float32]) -> PatchComponents:
        """Find them in the patches of frames, shape (n_positions, n_numbers)."""
        mean = patches.mean(axis=0)
        centred = patches - mean
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        total = float(np.clip(values, 0, None).sum())
        best = np.argsort(values)[::-1][:N_COMPONENTS]
        best = best[values[best] > 1e-6 * max(total, 1e-12)]
        scale = np.sqrt(values[best])
        axes = centred.T @ (vectors[:, best] / scale).astype(np.float32)
        return cls(
            mean, axes, vectors[:, best] * scale, float(values[best].sum() / max(total, 1e-12))
        )


@dataclass(frozen=True, slots=True)
class UnitRank:
    """What is known of a unit before it is narrated."""

    reach: float  # How much its patches vary, as a share of how much those of frames do
    lead: Interval  # Centred cosine with the own frame's patches, less other frames'
    test: ShiftTest  # Of that cosine


@dataclass(eq=False)
class UnitDecoder:
    """Decodes the scored windows through one unit at a time."""

    inputs: EvaluationInputs

    def __post_init__(self) -> None:
        windows, positions = self.inputs.windows, self.inputs.positions
        request = self.inputs.request
        self.counts = windows.data.counts_of(windows.rows)
        first = windows.rows[positions.first_window]
        self.components = PatchComponents.of(windows.data.targets_of(first).reshape(len(first), -1))
        self._graph = cpu_graph(self.inputs.manifest, threads=request.local_workers)
        self._draws = block_draws(positions, self.inputs.positions_of_group, seed=request.seed)

    def decode(self, unit: int) -> NDArray[np.float64]:
        """Return what it decodes, less its mean, shape (n_windows, n_components)."""
        # With all others masked, patches follow from its own counts: equal ones are decoded once.
        _, once, which = np.unique(
            self.counts[:, :, unit], axis=0, return_index=True, return_inverse=True
        )
        parts = []
        for first in range(0, len(once), MAX_ENCODER_BATCH):
            some = self.counts[once[first : first + MAX_ENCODER_BATCH]].astype(np.float32)
            mask: NDArray[np.float32] = np.zeros((len(some), self.counts.shape[2]), np.float32)
            mask[:, unit] = 1
            parts.append(self.project(self._graph.run(some, mask)))
        decoded = np.concatenate(parts)[which.reshape(-1)]
        centred: NDArray[np.float64] = decoded - decoded.mean(axis=0)
        return centred

    def project(self, patches: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return patches, shape (n, n_patches, dim), in the space of the components."""
        flat = patches.reshape(len(patches), -1).astype(np.float32) - self.components.mean
        projected: NDArray[np.float64] = (flat @ self.components.axes).astype(np.float64)
        return projected

    def test(self, decoded: NDArray[np.float64], shown: NDArray[np.float64]) -> ShiftTest:
        """Test the centred cosine with what positions show, shape (n_positions, n_components)."""
        cosines = _unit_length(decoded) @ _unit_length(shown).T
        return shift_test(
            self.inputs.positions.table(cosines) / len(cosines),
            self.inputs.positions,
            minimal_lags=self.inputs.minimal_lags,
            seed=self.inputs.request.seed,
        )

    def spikes(self, unit: int) -> NDArray[np.int64]:
        """Return its spikes in each window."""
        spikes: NDArray[np.int64] = self.counts[:, :, unit].sum(axis=1, dtype=np.int64)
        return spikes

    def rank(self) -> list[UnitRank]:
        """Measure every unit, in the order of the population."""
        n_units = len(self.inputs.manifest.population)
        with ProgressBar(total=n_units, desc="decoding", unit="unit") as bar:
            found = []
            for unit in range(n_units):
                found.append(self._measure(self.decode(unit)))
                bar.update()
        return found

    def patch_map(self, decoded: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much each patch varies, root mean square, shape (rows, cols)."""
        grid = self.inputs.manifest.patch_grid
        values, vectors = np.linalg.eigh(decoded.T @ decoded / len(decoded))
        root = (vectors * np.sqrt(np.clip(values, 0, None))).astype(np.float32)
        varied = (self.components.axes @ root).reshape(grid.n_patches, -1)
        map_: NDArray[np.float64] = np.sqrt((varied.astype(np.float64) ** 2).sum(axis=1))
        return map_.reshape(grid.rows, grid.cols)

    def _measure(self, decoded: NDArray[np.float64]) -> UnitRank:
        inputs, shown = self.inputs, self.components.shown
        cosines = _unit_length(decoded) @ _unit_length(shown).T
        own, others = own_and_others(cosines, inputs.positions.of_window)
        return UnitRank(
            reach=float(np.sqrt((decoded**2).mean() / (shown**2).mean())),
            lead=interval(self._draws.ratio(own - others)),
            test=self.test(decoded, shown),
        )


def choose_units(
    population: Population, groups: Mapping[str, Selection], reach: Sequence[float], n: int
) -> list[int]:
    """Return up to `n` units: in turn the one with the longest reach of each area and cell type.

    Reach looks at no frame and no caption, so that what is tested of these units was not what
    they were chosen by. `groups` are those of `EvaluationInputs.selections`; sessions are none.
    """
    order = sorted(range(len(population)), key=lambda unit: -reach[unit])
    labelled = [
        one.mask
        for name, one in groups.items()
        if name not in {"all", *CONTROLS} and not name.startswith(OF_SESSION)
    ]
    chosen: list[int] = []
    while len(chosen) < min(n, len(order)):
        before = len(chosen)
        for mask in labelled:
            best = next((unit for unit in order if mask[unit] and unit not in chosen), None)
            if best is not None and len(chosen) < n:
                chosen.append(best)
        if len(chosen) == before:  # no groups, or all of their units are chosen
            rest = [unit for unit in order if unit not in chosen]
            chosen += rest[: n - len(chosen)]
    return chosen


def _unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row to length one; one of zeros stays."""
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scaled: NDArray[np.float64] = vectors / length
    return scaled
