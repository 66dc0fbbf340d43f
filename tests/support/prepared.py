"""A small prepared set in memory whose truth is known: units that follow latents of a movie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.manifest import LanguageModel, TrainingData
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from encoder_training.data_set.counting import CountedIntervals, count_bins
from encoder_training.data_set.prepared import FrameTable, PreparedSet, PresentationRows, Role
from stream_sources.recordings.presentations import Presentations

FRAME_NS = 33_361_193
GRID = PatchGrid(rows=2, cols=2, dim=6)
WORDS = ("car", "dog", "tree")


def presentations(
    names: tuple[str, ...],
    start_ns: NDArray[np.int64],
    stop_ns: NDArray[np.int64],
    stimulus: NDArray[np.int64],
    number: NDArray[np.float64],
    block: NDArray[np.float64],
) -> Presentations:
    """Return a table of presentations without captions."""
    return Presentations(
        start_ns, stop_ns, np.arange(len(start_ns)), number, stimulus, block, (), names
    )


def prepared_set(
    *,
    n_frames: int = 90,
    n_repeats: int = 6,
    units_each: int = 8,
    latency_ns: int = 50_000_000,
    rate_hz: float = 60.0,
    frames_per_scene: int = 3,
    held_out: str = "repeats",
    seed: int = 0,
) -> PreparedSet:
    """Return a set of one movie shown again and again, with a pause in the middle.

    Units of VISp and LGd follow the frame's latents after `latency_ns`; those of CA1 do not see
    it. Captions name a latent that is above its mean. `held_out` is "repeats" (the last one is
    test, the one before validation) or "middle" (the third fifth of the frames is test, the
    second half of the second fifth validation).
    """
    rng = np.random.default_rng(seed)
    rate = BinRate(120)
    n_scenes = -(-n_frames // frames_per_scene)
    latent = rng.normal(size=(n_scenes, len(WORDS))).repeat(frames_per_scene, axis=0)[:n_frames]
    mixing = rng.normal(size=(len(WORDS), GRID.n_patches * GRID.dim))
    targets = (latent @ mixing + 0.5).reshape(n_frames, GRID.n_patches, GRID.dim)

    repeat = np.repeat(np.arange(n_repeats), n_frames)
    frame = np.tile(np.arange(n_frames), n_repeats)
    start_ns = 2_000_000_000 + np.arange(len(frame)) * FRAME_NS
    start_ns[repeat >= n_repeats // 2] += 4_000_000_000
    stop_ns = start_ns + FRAME_NS

    areas = ("VISp", "LGd", "CA1")
    population = Population(
        [
            Unit(unit_id=str(100 * a + u), probe="A", area=area, cell_type=("", "PV")[u % 2])
            for a, area in enumerate(areas)
            for u in range(units_each)
        ]
    )
    n_units = len(population)
    weights = rng.normal(size=(n_units, len(WORDS)))
    weights[2 * units_each :] = 0
    drive = rate_hz * np.exp(0.8 * (latent @ weights.T) - 0.5)[frame]
    n_spikes = rng.poisson(drive * FRAME_NS / 1e9)
    shown_row, unit_index = np.nonzero(n_spikes)
    many = n_spikes[shown_row, unit_index]
    at_ns = np.repeat(start_ns[shown_row], many) + latency_ns
    at_ns = at_ns + rng.integers(0, FRAME_NS, size=len(at_ns))

    last_bin = rate.bin_of(int(stop_ns[-1])) + 1
    counts = count_bins(
        at_ns, np.repeat(unit_index, many), n_units=n_units, rate=rate, n_bins=last_bin
    )
    role = np.full(len(frame), Role.TRAIN, dtype=np.int8)
    group = repeat.copy()
    if held_out == "repeats":
        role[repeat == n_repeats - 1] = Role.TEST
        role[repeat == n_repeats - 2] = Role.VALIDATION
    else:
        fifth = n_frames // 5
        role[(frame >= 2 * fifth) & (frame < 3 * fifth)] = Role.TEST
        role[(frame >= 3 * fifth // 2) & (frame < 2 * fifth)] = Role.VALIDATION
        group = frame // frames_per_scene
    captions = tuple(
        "A " + " and a ".join([w for w, x in zip(WORDS, row, strict=True) if x > 0] or ["street"])
        for row in latent
    )
    return PreparedSet(
        population=population,
        window=WindowSpec(rate, n_bins=12, stride_bins=8, lag_ns=100_000_000),
        grid=GRID,
        language_model=LanguageModel(model_id="a-model"),
        training_data=TrainingData(recording="simulated", sha256="0" * 64),
        spans=CountedIntervals(np.array([0]), np.array([last_bin])),
        counts=counts,
        shown=PresentationRows(start_ns, stop_ns, frame.astype(np.int64), repeat, group, role),
        invalid_ns=np.empty((0, 2), dtype=np.int64),
        frames=FrameTable(
            ("natural_movie_one",), np.zeros(n_frames, np.int64), np.arange(n_frames), captions
        ),
        targets=targets.astype(np.float16),
    )


def thinned_targets(prepared: PreparedSet, every: int) -> PreparedSet:
    """Return the set as ``--every`` makes it: the frames between have no patches."""
    frames, shown = prepared.frames, prepared.shown
    kept = slice(None, None, every)
    frame = np.where(shown.frame % every == 0, shown.frame // every, -1)
    return replace(
        prepared,
        shown=replace(shown, frame=frame),
        frames=replace(
            frames,
            movie=frames.movie[kept],
            number=frames.number[kept],
            captions=frames.captions[kept],
        ),
        targets=prepared.targets[kept],
    )
