"""Data sets whose units take their repeats in orders of their own, and the windows of all of them.

They lie in folders that are named after their content, so that none is made twice.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from encoder_training.data_set.pool import PoolOptions, pool_data_sets
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_facts import FACTS, load_facts
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import TrainingSet, thinned
from encoder_training.evaluation.movie_runs import movie_runs, run_seconds
from encoder_training.evaluation.movie_time import movie_time
from evaluation.questions.inputs import EvaluateRequest, EvaluationInputs

FOLDER = "exchanged"
"""In the folder of results."""

N_EXCHANGES = 5
SEEDS_STREAM = 17

FEWEST_FRAMES = 20
"""With fewer no interval over frames is of use."""


@dataclass(frozen=True, slots=True, eq=False)
class PairedInputs:
    """The same windows as they were recorded, and after each exchange."""

    intact: EvaluationInputs
    exchanged: tuple[EvaluationInputs, ...]
    n_repeats: float  # Mean number of windows of a frame
    apart: float  # Share of the pairs of units that an exchange separates


def pair_inputs(inputs: EvaluationInputs) -> PairedInputs:
    """Make the exchanges, and choose frames that have windows in several repeats in all of them.

    Raises
    ------
    UserError
        If there are too few such frames.
    """
    lag_ns = inputs.manifest.window_spec.lag_ns
    prepared = load_prepared(inputs.request.dataset)
    data, parts = prepared.windows(lag_ns)
    captioned = np.array([bool(caption.strip()) for caption in prepared.frames.captions])
    _check_repeats(inputs, data.frame[parts.test])
    folders = exchanged_data_sets(inputs.request)
    others = [(one, one.windows(lag_ns)[0]) for one in map(load_prepared, folders)]
    common = parts.test[captioned[data.frame[parts.test]]]
    for _, other in others:  # the rows of the counts are the same bins in all of them
        common = common[np.isin(data.first_bin[common], other.first_bin)]
    rows = _whole_frames(data.frame, common, inputs.request.windows)
    _check_repeats(inputs, data.frame[rows])
    first_bin = data.first_bin[rows]
    intact = _cut(inputs, inputs.request.dataset, prepared, data, first_bin)
    n_of = intact.positions.n_windows
    return PairedInputs(
        intact,
        tuple(
            _cut(inputs, folder, one, windows, first_bin)
            for folder, (one, windows) in zip(folders, others, strict=True)
        ),
        n_repeats=float(n_of.mean()),
        apart=float((1 - 1 / n_of).mean()),
    )


def exchanged_data_sets(request: EvaluateRequest) -> list[Path]:
    """Return the folders of the exchanges, which are made where they are not there yet."""
    seeds = np.random.SeedSequence([request.seed, SEEDS_STREAM]).generate_state(N_EXCHANGES)
    name = load_facts(request.dataset).data_sha256[:12]
    folders = []
    for seed in seeds.tolist():
        folder = request.out.resolve() / FOLDER / f"{name}-{seed}"
        if not (folder / FACTS).exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with redirect_stderr(io.StringIO()):  # five bars of a few seconds each
                pool_data_sets(PoolOptions((request.dataset,), folder, True, seed, request.command))
        folders.append(folder)
    return folders


def _check_repeats(inputs: EvaluationInputs, frame: NDArray[np.int64]) -> None:
    times = np.bincount(frame)
    n_repeated = int((times > 1).sum())
    if n_repeated < FEWEST_FRAMES:
        raise UserError(
            f"repeats can be exchanged where held-out frames were shown twice or more: "
            f"{FEWEST_FRAMES} such frames are needed, and {inputs.request.dataset} has "
            f"{n_repeated}. Hold out frames that are repeated (--split middle, front or movies of "
            "'neurrate prepare'), or two repeats (--split repeats --held-out 2); then train and "
            "export again."
        )


def _whole_frames(
    frame: NDArray[np.int64], rows: NDArray[np.int64], at_most: int
) -> NDArray[np.int64]:
    """Return windows of frames that have several, all of each frame, evenly thinned."""
    times = np.bincount(frame[rows], minlength=int(frame.max()) + 1)
    repeated = np.flatnonzero(times > 1)
    if not len(repeated):
        return rows[:0]
    n_frames = max(FEWEST_FRAMES, int(at_most / times[repeated].mean()))
    return rows[np.isin(frame[rows], thinned(repeated, n_frames))]


def _cut(
    inputs: EvaluationInputs,
    dataset: Path,
    prepared: PreparedSet,
    data: TrainingSet,
    first_bin: NDArray[np.int64],
) -> EvaluationInputs:
    """Return the inputs with this data set and its windows, in the order of `first_bin`."""
    rows = np.searchsorted(data.first_bin, first_bin)
    windows = replace(
        inputs.windows,
        data=data,
        rows=rows,
        first_bin=prepared.spans.bins_of(first_bin),
        group=movie_runs(data.frame[rows], movie_time(prepared), run_seconds(data.window)),
    )
    return replace(inputs, request=replace(inputs.request, dataset=dataset), windows=windows)


def residual_correlation(
    spikes: NDArray[np.int64],
    position: NDArray[np.int64],
    sessions: Sequence[NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """Return of each window its part in the mean correlation of pairs of units of one session.

    Spikes are less their mean over the windows of the frame, so that what frames evoke is gone:
    the mean over windows is the mean pairwise noise correlation.

    Parameters
    ----------
    spikes : array, shape (n_windows, n_units), int64
    position : array, shape (n_windows,), int64
        The frame of each window.
    sessions : sequence of array, shape (n_units,), bool
        Pairs are taken within each. NaN is returned if there is no pair.
    """
    n_windows = np.bincount(position)[:, np.newaxis]
    sums = np.zeros((len(n_windows), spikes.shape[1]))
    np.add.at(sums, position, spikes)
    residual = spikes - (sums / np.maximum(n_windows, 1))[position]
    scale = np.sqrt((residual**2).mean(axis=0))
    products, n_pairs = np.zeros(len(spikes)), 0
    for session in sessions:
        varies = session & (scale > 1e-9)
        z = residual[:, varies] / scale[varies]
        products += z.sum(axis=1) ** 2 - (z**2).sum(axis=1)
        n_pairs += int(varies.sum()) * (int(varies.sum()) - 1)
    return products / n_pairs if n_pairs else np.full(len(spikes), np.nan)
