"""A prepared data set: counts, presentations and patches of one recording, for any lag.

`PreparedSet.windows` pairs counts and patches for one lag, so that the lag may be chosen after the
patches were computed. The files are ``prepared_files.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import LanguageModel, TrainingData
from contracts.population import Population
from contracts.window import WindowSpec
from encoder_training.data_set.alignment import MARGIN_BINS, align
from encoder_training.data_set.counting import CountedIntervals
from encoder_training.data_set.training_set import Split, TrainingSet, split_by_role


class Role(IntEnum):
    """What a presentation is for."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The frames whose patches are known, in the order of the targets."""

    movies: tuple[str, ...]
    movie: NDArray[np.int64]  # (n_frames,): index into `movies`
    number: NDArray[np.int64]  # (n_frames,): frame number within the movie
    captions: tuple[str, ...]  # One for each frame, empty where unknown

    def label(self, row: int) -> str:
        """Return a frame's name, for people: ``natural_movie_one 17``."""
        return f"{self.movies[self.movie[row]]} {self.number[row]}"


@dataclass(frozen=True, slots=True, eq=False)
class PresentationRows:
    """The presentations, in the order of their start."""

    # (n_shown,), session nanoseconds: when each was on the screen
    start_ns: NDArray[np.int64]
    stop_ns: NDArray[np.int64]
    # (n_shown,): row of the targets that it shows, -1 if it shows none of them
    frame: NDArray[np.int64]
    # (n_shown,): changes at each join of two repeats, change of stimulus and pause. No window
    # holds spikes of two blocks.
    block: NDArray[np.int64]
    # (n_shown,): what is held out, and drawn in a bootstrap, as a whole: a repeat, or a chunk of
    # neighbouring frames
    group: NDArray[np.int64]
    role: NDArray[np.int8]  # (n_shown,): a `Role`
    # (n_shown,), session nanoseconds: since when the screen was blank before the block, its start
    # where it was not. None in data sets of earlier versions, whose windows all begin in a block.
    blank_from_ns: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSet:
    """One recording, its presentations and the patches of its frames."""

    population: Population
    window: WindowSpec
    grid: PatchGrid
    language_model: LanguageModel  # Whose vision tower made the targets
    training_data: TrainingData
    spans: CountedIntervals
    counts: NDArray[np.uint8]  # (n_rows, n_units), spikes per bin: may be a map of a file
    shown: PresentationRows
    # (n_invalid, 2), session nanoseconds: start and stop of the intervals that the recording calls
    # invalid
    invalid_ns: NDArray[np.int64]
    frames: FrameTable
    targets: NDArray[np.float16]  # (n_frames, n_patches, dim): may be a map of a file

    def windows(self, lag_ns: int, *, margin_bins: int = MARGIN_BINS) -> tuple[TrainingSet, Split]:
        """Pair windows with the frames that they describe at one lag.

        `first_bin` of the result counts rows of `counts`.

        A window that ends at t describes the frame shown at t - lag.

        Raises
        ------
        UserError
            If no presentation, or none of one of the roles, has a window.
        MisuseError
            If a window lies in bins that are not counted.
        """
        spec = replace(self.window, lag_ns=lag_ns)
        shown = self.shown
        first_bin, row = align(
            shown.start_ns,
            shown.stop_ns,
            spec,
            recorded_bins=(int(self.spans.first_bin[0]), int(self.spans.stop_bin[-1])),
            chosen=np.flatnonzero(shown.frame >= 0),
            margin_bins=margin_bins,
            block=shown.block,
            blank_from_ns=shown.blank_from_ns,
            invalid_ns=self.invalid_ns,
        )
        if not len(first_bin):
            raise UserError(
                f"with a lag of {lag_ns / 1e6:g} ms no presentation has a window of "
                f"{1e3 * spec.duration_s:g} ms: all stand too near the start of a block "
                "without a blank before it, the end of a block, an invalid interval or an end "
                "of the recording. Use a shorter lag or window."
            )
        rows = self.spans.rows_of(first_bin)
        if (rows < 0).any():
            raise MisuseError(f"{int((rows < 0).sum())} windows lie in bins that are not counted")
        data = TrainingSet(
            population=self.population,
            window=spec,
            counts=self.counts,
            first_bin=rows,
            frame=shown.frame[row],
            targets=self.targets,
            group=shown.group[row],
            margin_bins=margin_bins,
        )
        parts = split_by_role(data, shown.role[row])
        missing = [
            role.name.lower()
            for role, windows in zip(Role, (parts.train, parts.validation, parts.test), strict=True)
            if not len(windows)
        ]
        if missing:
            raise UserError(
                f"with a lag of {lag_ns / 1e6:g} ms no window is left for {', '.join(missing)}. "
                "Hold out more, or use a shorter lag."
            )
        return data, parts
