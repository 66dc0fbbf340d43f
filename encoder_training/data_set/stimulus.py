"""From presentation tables to what was shown: targets, blocks and repeats. No file here.

A presentation keeps the frame number that its row has, and its own start and stop. Nothing is
counted on from the row before, so that a dropped frame, a hole, or a frame that stayed twice as
long moves no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.errors import UserError, listed
from encoder_training.data_set.alignment import MAX_GAP_NS
from encoder_training.data_set.counting import CountedIntervals
from stream_sources.recordings.presentations import GREY, Presentations

SHUFFLED_SHARE = 0.4
"""Of the steps from row to row, those that go back, above which images come in random order. They
are half of the steps of a random order, and one step of each repeat of a movie."""


@dataclass(frozen=True, slots=True, eq=False)
class StimulusTable:
    """The presentations of the chosen movies, and which of their frames are targets."""

    movies: tuple[str, ...]  # Names, in the order of their first presentation
    n_frames: tuple[int, ...]
    is_shuffled: tuple[bool, ...]  # Whether a movie's images came in random order
    # (n_shown,), session nanoseconds
    start_ns: NDArray[np.int64]
    stop_ns: NDArray[np.int64]
    movie: NDArray[np.int64]  # (n_shown,): index into `movies`
    number: NDArray[np.int64]  # (n_shown,): frame number, -1 for a blank
    frame: NDArray[np.int64]  # (n_shown,): row of the targets; -1 for a frame that is none
    block: NDArray[np.int64]  # (n_shown,): changes where no window may cross
    # (n_shown,), session nanoseconds: since when the screen was blank before the block of a
    # presentation; the start of the block where it was not
    blank_from_ns: NDArray[np.int64]
    # (n_shown,): which showing of its movie a presentation belongs to, from 0. Of an image in
    # random order: how often it was shown before.
    repeat: NDArray[np.int64]
    # (n_targets,): what each row of the targets shows
    target_movie: NDArray[np.int64]
    target_number: NDArray[np.int64]
    n_empty: int

    @property
    def n_repeats(self) -> tuple[int, ...]:
        """Showings of each movie."""
        return tuple(
            int(self.repeat[self.movie == movie].max()) + 1 for movie in range(len(self.movies))
        )


def read_presented(
    table: Presentations, n_frames: Mapping[str, int], *, every: int = 1, blank_ns: int = 0
) -> StimulusTable:
    """Choose the presentations of some movies and find their blocks and repeats.

    A repeat begins where the frame number goes back. A block ends there too, and at each change
    of the movie or of the recording's own block, and at each pause longer than `MAX_GAP_NS` of
    ``alignment.py``. Blanks belong to the block that they stand in. Images in random order have
    no joins; their blocks end at changes and pauses alone.

    Targets are the frames whose number `every` divides. `n_frames` names the chosen movies. Of a
    blank before a block, at most `blank_ns` nanoseconds count to the block.

    Raises
    ------
    UserError
        If a movie is not in the table or has other frames, or two presentations overlap.
    """
    _check_names(table, n_frames)
    is_chosen = np.isin(
        table.stimulus, [row for row, name in enumerate(table.names) if name in n_frames]
    )
    is_empty = table.stop_ns <= table.start_ns
    rows = np.flatnonzero(is_chosen & ~is_empty)
    present, first = np.unique(table.stimulus[rows], return_index=True)
    order = present[np.argsort(first)]
    movies = tuple(table.names[stimulus] for stimulus in order.tolist())
    movie = _ranks(order, table.stimulus[rows])
    is_blank = ~(table.frame[rows] >= 0)  # NaN too
    number = np.where(is_blank, -1, table.frame[rows]).astype(np.int64)
    start_ns, stop_ns = table.start_ns[rows], table.stop_ns[rows]
    _check_order(movies, movie, start_ns)
    counts = tuple(n_frames[name] for name in movies)
    _check_counts(movies, movie, number, counts)
    is_shuffled = tuple(is_shuffled_order(number[movie == row]) for row in range(len(movies)))
    repeat, is_join = repeats(movie, number, is_shuffled)
    target_movie, target_number = _targets(counts, every)
    block = _blocks(start_ns, stop_ns, movie, table.block[rows], is_join)
    offset = np.cumsum([0, *(-(-n // every) for n in counts)])[:-1]
    is_target = (number >= 0) & (number % every == 0)
    return StimulusTable(
        movies=movies,
        n_frames=counts,
        is_shuffled=is_shuffled,
        start_ns=start_ns,
        stop_ns=stop_ns,
        movie=movie,
        number=number,
        frame=np.where(is_target, offset[movie] + number // every, -1),
        block=block,
        blank_from_ns=_blank_from(
            _picture_stop_ns(table, is_chosen)[rows],
            start_ns,
            block,
            _misses_rows(movie, number, is_shuffled),
            blank_ns,
        ),
        repeat=repeat,
        target_movie=target_movie,
        target_number=target_number,
        n_empty=int((is_chosen & is_empty).sum()),
    )


def spans_of(
    presented: StimulusTable, rate: BinRate, *, recorded_ns: tuple[int, int] | None = None
) -> CountedIntervals:
    """Return the bins that windows of any lag may need: the blocks and the blanks before them.

    `recorded_ns` is the recording's start and stop; bins that it does not hold whole are left
    out.

    Raises
    ------
    UserError
        If no presentation lies within the recording.
    """
    is_first = np.concatenate(([True], np.diff(presented.block) != 0))
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(presented.block)) - 1
    first_bin: NDArray[np.int64] = rate.bin_of(presented.blank_from_ns[firsts])
    # A block of blanks alone may begin within the blank before the next one.
    first_bin = np.minimum.accumulate(first_bin[::-1])[::-1]
    stop_bin: NDArray[np.int64] = rate.bin_of(presented.stop_ns[lasts] - 1) + 1
    if recorded_ns is not None:
        first_bin = np.maximum(first_bin, rate.first_bin_at_or_after(recorded_ns[0]))
        stop_bin = np.minimum(stop_bin, rate.bin_of(recorded_ns[1]))
    kept = first_bin < stop_bin
    if not kept.any():
        start_ns, stop_ns = recorded_ns or (0, 0)
        raise UserError(
            "the movies must have been shown while spikes were recorded: the first presentation "
            f"is at {presented.start_ns[0] / 1e9:.3f} s, the last ends at "
            f"{presented.stop_ns[-1] / 1e9:.3f} s, and the spikes run from {start_ns / 1e9:.3f} to "
            f"{stop_ns / 1e9:.3f} s. Do both count from the same zero?"
        )
    first_bin, stop_bin = first_bin[kept], np.maximum.accumulate(stop_bin[kept])
    begins = np.concatenate(([True], first_bin[1:] > stop_bin[:-1]))
    starts = np.flatnonzero(begins)
    return CountedIntervals(first_bin[starts], stop_bin[np.append(starts[1:], len(first_bin)) - 1])


def _ranks(order: NDArray[np.int64], stimulus: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each stimulus in the order."""
    rank = np.full(int(order.max(initial=0)) + 1, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    ranks: NDArray[np.int64] = rank[stimulus]
    return ranks


def _check_names(table: Presentations, n_frames: Mapping[str, int]) -> None:
    presented = [name for row, name in enumerate(table.names) if (table.stimulus == row).any()]
    missing = [name for name in n_frames if name not in presented]
    if missing or not n_frames:
        raise UserError(
            "a movie must be a stimulus that the recording presents; "
            f"{listed(missing) or 'none at all'} is not among "
            f"{listed(sorted(presented)) or '(none)'}. Choose with --stimuli; a table "
            "of the recording's intervals with start_time, stop_time and frame may be named too."
        )


def _check_order(
    movies: tuple[str, ...], movie: NDArray[np.int64], start_ns: NDArray[np.int64]
) -> None:
    bad = np.flatnonzero(np.diff(start_ns) <= 0)
    if len(bad):
        names = sorted({movies[row] for row in movie[[*bad, *(bad + 1)]].tolist()})
        raise UserError(
            f"one frame is on the screen at a time, but {len(bad)} presentations of "
            f"{listed(names)} start together with the one before, first at "
            f"{start_ns[bad[0]] / 1e9:.6f} s. Prepare one stimulus at a time with --stimuli, or "
            "mend the table."
        )


def _check_counts(
    movies: tuple[str, ...],
    movie: NDArray[np.int64],
    number: NDArray[np.int64],
    counts: tuple[int, ...],
) -> None:
    problems = []
    for row, (name, n_frames) in enumerate(zip(movies, counts, strict=True)):
        shown = number[(movie == row) & (number >= 0)]
        if not len(shown):
            problems.append(
                f"{name} has no frame numbers in the recording, only blanks: which of its "
                f"{n_frames:,} frames was on the screen is not known. Leave it out of --stimuli."
            )
        elif int(shown.max()) + 1 != n_frames:
            counts_from = (
                " The numbers must count from 0; do they count from 1?"
                if int(shown.max()) == n_frames and int(shown.min()) == 1
                else ""
            )
            problems.append(
                f"{name} has {n_frames:,} frames in --frames, and the recording shows numbers "
                f"{int(shown.min()):,} to {int(shown.max()):,}, so {int(shown.max()) + 1:,} "
                f"frames.{counts_from} Give the frames of this very stimulus, all of them and in "
                "its order."
            )
    if problems:
        raise UserError("\n".join(problems))


def is_shuffled_order(number: NDArray[np.int64]) -> bool:
    """Say whether images with these numbers, in the order of their start, came in random order."""
    steps = np.diff(number[number >= 0])
    return bool(len(steps) and (steps < 0).mean() > SHUFFLED_SHARE)


def repeats(
    movie: NDArray[np.int64], number: NDArray[np.int64], is_shuffled: tuple[bool, ...]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each presentation's repeat, and whether one begins with it.

    `movie` is an index into `is_shuffled`.
    """
    repeat = np.zeros(len(movie), dtype=np.int64)
    is_join = np.zeros(len(movie), dtype=np.bool_)
    for row, shuffled in enumerate(is_shuffled):
        rows = np.flatnonzero(movie == row)
        if shuffled:
            repeat[rows] = _times_before(number[rows])
            continue
        shown = rows[number[rows] >= 0]
        is_join[shown[1:]] = np.diff(number[shown]) < 0
        repeat[rows] = np.cumsum(is_join[rows])
    return repeat, is_join


def _times_before(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each number stood in the list before."""
    order = np.argsort(number, kind="stable")
    together = number[order]
    is_first = np.diff(together, prepend=together[:1] - 1) != 0
    firsts = np.flatnonzero(is_first)
    times = np.empty(len(number), dtype=np.int64)
    times[order] = np.arange(len(number)) - firsts[np.cumsum(is_first) - 1]
    times[number < 0] = 0
    return times


def _blocks(
    start_ns: NDArray[np.int64],
    stop_ns: NDArray[np.int64],
    movie: NDArray[np.int64],
    own: NDArray[np.float64],
    is_join: NDArray[np.bool_],
) -> NDArray[np.int64]:
    both_known = ~(np.isnan(own[1:]) & np.isnan(own[:-1]))
    is_first = np.zeros(len(start_ns), dtype=np.bool_)
    is_first[1:] = (
        (np.diff(movie) != 0)
        | ((own[1:] != own[:-1]) & both_known)
        | (start_ns[1:] - stop_ns[:-1] > MAX_GAP_NS)
    )
    return np.cumsum(is_first | is_join).astype(np.int64)


def _picture_stop_ns(table: Presentations, is_chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return when the last picture before each row of the table ended, whatever stimulus it was.

    Shape (n_rows,), session nanoseconds; the smallest int64 where there was none.
    """
    is_grey = np.array([name == GREY for name in table.names], dtype=np.bool_)[table.stimulus]
    is_blank = is_grey | (table.frame < 0) | (is_chosen & np.isnan(table.frame))
    is_blank |= table.stop_ns <= table.start_ns
    nothing = np.iinfo(np.int64).min
    stop_ns = np.maximum.accumulate(np.where(is_blank, nothing, table.stop_ns))
    return np.concatenate(([nothing], stop_ns[:-1])).astype(np.int64)


def _misses_rows(
    movie: NDArray[np.int64], number: NDArray[np.int64], is_shuffled: tuple[bool, ...]
) -> NDArray[np.bool_]:
    """Mark the presentations before which frames of the same movie have no row.

    A hole in the table is no blank there: the movie may have gone on.
    """
    misses = np.zeros(len(movie), dtype=np.bool_)
    misses[1:] = (np.diff(movie) == 0) & (number[:-1] >= 0) & (np.diff(number) > 1)
    in_order: NDArray[np.bool_] = ~np.array(is_shuffled, dtype=np.bool_)[movie]
    return misses & in_order


def _blank_from(
    picture_stop_ns: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    block: NDArray[np.int64],
    misses_rows: NDArray[np.bool_],
    blank_ns: int,
) -> NDArray[np.int64]:
    """Return since when the screen was blank before the block of each presentation.

    A gap as short as that of dropped frames is no blank: the picture before stays on the screen.
    """
    is_first = np.diff(block, prepend=block[:1] - 1) != 0
    begins_ns, picture_ns = start_ns[is_first], picture_stop_ns[is_first]
    earliest_ns = np.minimum(begins_ns, np.maximum(begins_ns - blank_ns, 0))  # no bin before zero
    is_blank = (picture_ns < begins_ns - MAX_GAP_NS) & ~misses_rows[is_first]
    from_ns = np.where(is_blank, np.maximum(picture_ns, earliest_ns), begins_ns)
    blank_from_ns: NDArray[np.int64] = from_ns[np.cumsum(is_first) - 1]
    return blank_from_ns


def _targets(counts: tuple[int, ...], every: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    numbers = [np.arange(0, n_frames, every, dtype=np.int64) for n_frames in counts]
    movie = np.repeat(np.arange(len(counts)), [len(of_movie) for of_movie in numbers])
    return movie, np.concatenate(numbers)
