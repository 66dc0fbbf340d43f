"""The parity gate: an exported graph is near enough to the network in float64, or not written.

The two are compared on real windows, in patches and in narrations. Patches can be near and
narrations differ, where two words are equally likely; narrations can be equal and patches far,
where the language model answers the same to everything. So both must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - the reference is the torch network
from numpy.typing import NDArray

from contracts.embedding import patch_cosines
from contracts.errors import UserError
from contracts.manifest import sha256_of
from contracts.progress import ProgressBar
from daemon.encoders.onnx import import_runtime, open_session
from encoder_export.onnx_graph import Precision, reference_model
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork

GraphRun = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Counts (n, n_bins, n_units) and mask (n, n_units) to grids (n, n_patches, dim)."""

Narrate = Callable[[NDArray[np.float32]], Sequence[str]]
"""Grids (n, n_patches, dim) to one narration each."""

POISSON_WINDOWS = 8
"""Windows of an encoder without a data set: random weights, or weights in the package."""

BATCH = 8
"""Windows at once: eight grids of LLaVA-1.5 in float64 are 38 MB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a graph must keep, over all patches and narrations."""

    min_cosine: float
    mean_cosine: float
    max_relative_error: float  # length of the difference over length of the reference patch
    min_agreement: float  # share of narrations that are equal word for word


LIMITS: dict[Precision, Limits] = {
    "float32": Limits(0.999999, 0.9999999, 1e-4, 0.95),
    "float16": Limits(0.9999, 0.99999, 0.02, 0.9),
    "int8": Limits(0.99, 0.999, 0.15, 0.9),
}
"""Several times what the trained encoder of the simulated animal loses on 256 of its windows
(docs/decisions/0014-engines.md has the numbers), so that a change of runtime passes and a wrong
scale or a lost layer does not. Of 32 narrations one may differ in float32: where two words are
equally likely, the last bit decides."""


@dataclass(frozen=True, slots=True, eq=False)
class ParityGate:
    """The windows on which a graph is compared: through a random population, and all units."""

    counts: NDArray[np.float32]  # shape (n, n_bins, n_units), spikes per bin
    masks: NDArray[np.float32]  # shape (n, n_units), the random populations
    narrate: Narrate | None = None  # the bundle's language model; None compares no narrations
    n_narrations: int = 0  # windows that are narrated, from all units, spread over all of them

    @classmethod
    def of_windows(
        cls,
        counts: NDArray[np.integer],
        *,
        seed: int,
        narrate: Narrate | None = None,
        n_narrations: int = 0,
    ) -> ParityGate:
        """Return a gate for real windows, counts of shape (n, n_bins, n_units).

        The random population of each is a share of the units that is itself random.
        """
        n, _, n_units = counts.shape
        rng = np.random.default_rng(seed)
        masks = rng.random((n, n_units)) < rng.random((n, 1))
        return cls(
            counts.astype(np.float32),
            masks.astype(np.float32),
            narrate,
            min(n_narrations, n) if narrate else 0,
        )

    @classmethod
    def poisson(cls, scaling: Scaling, *, n_bins: int, seed: int = 0) -> ParityGate:
        """Return a gate without a recording: Poisson counts of the units' mean rates."""
        rng = np.random.default_rng(seed)
        rate = np.maximum(scaling.mean, 0)
        shape = (POISSON_WINDOWS, n_bins, len(rate))
        return cls.of_windows(rng.poisson(rate, shape), seed=seed)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph is from the network, in patches and in narrations."""

    precision: Precision
    runtime: str  # what ran the graph
    onnx_sha256: str  # empty if it was not run from a file
    n_windows: int  # each compared twice: through all units, and through a random population
    min_cosine: float
    mean_cosine: float
    max_relative_error: float
    mean_relative_error: float
    n_narrations: int
    n_equal: int
    limits: Limits

    @property
    def agreement(self) -> float | None:
        """Share of equal narrations; None where nothing was narrated."""
        return self.n_equal / self.n_narrations if self.n_narrations else None

    def failures(self) -> list[str]:
        """Return what is beyond a limit, one clause each with both numbers."""
        limits, failed = self.limits, []
        for name, value, limit in (
            ("the lowest cosine of a patch", self.min_cosine, limits.min_cosine),
            ("the mean cosine of the patches", self.mean_cosine, limits.mean_cosine),
        ):
            if not value >= limit:
                failed.append(f"{name} is {value:.7g}, {limit - value:.2g} below {limit:.7g}")
        if not self.max_relative_error <= limits.max_relative_error:
            failed.append(
                f"the largest relative error of a patch is {self.max_relative_error:.2g}, limit "
                f"{limits.max_relative_error:g}"
            )
        if self.agreement is not None and self.agreement < limits.min_agreement:
            failed.append(
                f"{self.n_equal} of {self.n_narrations} narrations are equal, limit "
                f"{limits.min_agreement:.0%}"
            )
        return failed

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Parity:
        """Read a report; fields that only older versions wrote are ignored."""
        document = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: document[field.name] for field in fields(cls)}
        return cls(**known | {"limits": Limits(**document["limits"])})


class ParityError(UserError):
    """A graph is too far from the network; `outcome` tells what was written and what to do."""

    def __init__(self, parity: Parity, outcome: str) -> None:
        self.parity = parity
        super().__init__(
            f"the {parity.precision} graph is too far from the network, on {parity.n_windows} "
            f"windows with {parity.runtime}: {'; '.join(parity.failures())}. {outcome}"
        )


def check_parity(parity: Parity, *, outcome: str = "") -> None:
    """Refuse a graph that is beyond its limits; without an `outcome` nothing was written.

    Raises
    ------
    ParityError
        With every number that failed.
    """
    if parity.failures():
        raise ParityError(parity, outcome or f"Nothing was written. {_remedy(parity.precision)}")


def _remedy(precision: Precision) -> str:
    if precision == "float32":
        return (
            "The exporter is at fault, or the weights are out of all bounds: look at the run's "
            "report."
        )
    return "Export with --precision float32, or float16 for a GPU."


def measure_file(
    encoder: EncoderNetwork, scaling: Scaling, gate: ParityGate, path: Path, precision: Precision
) -> Parity:
    """Compare the graph in a file, run by ONNX Runtime on a CPU, as `measure_parity` does.

    Raises
    ------
    DependencyError
        If ONNX Runtime is not installed.
    ManifestError
        If it cannot read the graph.
    """
    ort_session = open_session(path, threads=0)

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        grids: NDArray[np.float32]
        (grids,) = ort_session.run(["grid"], {"counts": counts, "mask": mask})
        return grids

    return measure_parity(
        encoder,
        scaling,
        gate,
        run,
        precision=precision,
        runtime=f"ONNX Runtime {import_runtime().__version__} on a CPU",
        onnx_sha256=sha256_of(path),
    )


def measure_parity(
    encoder: EncoderNetwork,
    scaling: Scaling,
    gate: ParityGate,
    run: GraphRun,
    *,
    precision: Precision,
    runtime: str,
    onnx_sha256: str = "",
) -> Parity:
    """Compare a compiled graph, `run`, with the torch network in float64.

    The precision decides the limits; `runtime` and `onnx_sha256` are for the report. Values
    that are not finite count as a cosine of -1 and an infinite error.
    """
    reference = _reference_run(encoder, scaling)
    n = len(gate.counts)
    narrated = set(np.linspace(0, n - 1, gate.n_narrations).astype(int).tolist())
    totals = _Totals()
    grids: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for first in ProgressBar(range(0, n, BATCH), desc="comparing", unit="batch", leave=False):
        rows = slice(first, min(first + BATCH, n))
        counts, masks = gate.counts[rows], gate.masks[rows]
        totals.add(reference(counts, masks), run(counts, masks))
        all_units = np.ones_like(masks)
        expected, actual = reference(counts, all_units), run(counts, all_units)
        totals.add(expected, actual)
        grids += [
            (expected[row - first].astype(np.float32), actual[row - first])
            for row in range(rows.start, rows.stop)
            if row in narrated
        ]
    return Parity(
        precision=precision,
        runtime=runtime,
        onnx_sha256=onnx_sha256,
        n_windows=n,
        min_cosine=totals.min_cosine,
        mean_cosine=totals.sum_cosine / totals.n,
        max_relative_error=totals.max_error,
        mean_relative_error=totals.sum_error / totals.n,
        n_narrations=len(grids),
        n_equal=_count_equal(gate.narrate, grids),
        limits=LIMITS[precision],
    )


@dataclass(slots=True)
class _Totals:
    n: int = 0
    min_cosine: float = 1.0
    sum_cosine: float = 0.0
    max_error: float = 0.0
    sum_error: float = 0.0

    def add(self, expected: NDArray[np.float64], actual: NDArray[np.floating]) -> None:
        """Add each patch of two arrays of shape (n, n_patches, dim)."""
        cosine = patch_cosines(actual, expected)
        with np.errstate(all="ignore"):
            error = np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        error = np.where(np.isfinite(error), error, np.inf)
        self.n += cosine.size
        self.min_cosine = min(self.min_cosine, float(cosine.min()))
        self.sum_cosine += float(cosine.sum())
        self.max_error = max(self.max_error, float(error.max()))
        self.sum_error += float(error.sum())


def _count_equal(
    narrate: Narrate | None, pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> int:
    if narrate is None or not pairs:
        return 0
    expected, actual = (narrate(np.stack(grids)) for grids in zip(*pairs, strict=True))
    return sum(one == other for one, other in zip(expected, actual, strict=True))


def _reference_run(
    encoder: EncoderNetwork, scaling: Scaling
) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]:
    model = reference_model(encoder)
    mean, std = scaling.mean.astype(np.float64), scaling.std.astype(np.float64)

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float64]:
        z = (counts - mean) / std * mask[:, np.newaxis]
        with torch.inference_mode():
            grid = model(torch.from_numpy(z), torch.from_numpy(mask))
            grids: NDArray[np.float64] = grid.double().numpy()
        return grids

    return run
