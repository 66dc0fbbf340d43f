"""A small recording with a planted code: the first units tell the frame, the last ones nothing."""

from __future__ import annotations

import numpy as np

from contracts.binning import BinRate
from contracts.clock import NS_PER_S
from contracts.embedding import PatchGrid
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from encoder_training.data_set.training_set import TrainingSet
from tests.support.manual_clock import ManualClock

RATE = BinRate(120)
WINDOW = WindowSpec(RATE, n_bins=8, stride_bins=4, lag_ns=0)
GRID = PatchGrid(2, 2, 6)
N_SEEING, N_BLIND = 12, 6
BINS_PER_SCENE = 24


def population() -> Population:
    """Return twelve units of VISp and LGd, a third of them PV, and six of CA1."""
    seeing = [
        Unit(str(k), area="VISp" if k % 2 else "LGd", cell_type="PV" if k % 3 == 0 else "")
        for k in range(N_SEEING)
    ]
    blind = [Unit(str(N_SEEING + k), area="CA1") for k in range(N_BLIND)]
    return Population([*seeing, *blind])


def planted(*, n_scenes: int = 120, seed: int = 0) -> TrainingSet:
    """Return scenes of two hidden numbers, which rates and patches follow linearly.

    The dimensions of the patches differ in scale by a factor of a hundred, and have a mean.
    """
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, (n_scenes, 2))
    rates = 1.5 + hidden @ rng.uniform(-0.9, 0.9, (2, N_SEEING))
    rates = np.hstack([np.maximum(rates, 0.05), np.full((n_scenes, N_BLIND), 1.0)])
    counts = rng.poisson(np.repeat(rates, BINS_PER_SCENE, axis=0)).astype(np.uint8)
    to_patches = rng.normal(size=(2, GRID.n_patches * GRID.dim))
    targets = (hidden @ to_patches).reshape(n_scenes, GRID.n_patches, GRID.dim)
    targets = 3.0 + targets * np.geomspace(0.05, 5.0, GRID.dim)
    per_scene = np.array([2, 8, 14])  # a window and its margin stay inside the scene
    return TrainingSet(
        population=population(),
        window=WINDOW,
        counts=counts,
        first_bin=(np.arange(n_scenes)[:, None] * BINS_PER_SCENE + per_scene).ravel(),
        frame=np.repeat(np.arange(n_scenes), len(per_scene)),
        targets=targets.astype(np.float16),
        group=np.repeat(np.arange(n_scenes), len(per_scene)),
    )


class TickingClock(ManualClock):
    """A second passes whenever it is read."""

    def now_ns(self) -> int:
        """Return the time, a second later each time."""
        self.ns += NS_PER_S
        return self.ns
