"""Which frame a window describes: looked up in the presentation table, never tiled.

Frames of a real session last 33.361 ms and some are dropped, so that labels laid out at an ideal
30 Hz are off after a few seconds. A window that ends at t describes the frame shown at
``t - lag``; where no frame was on the screen, there is no label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError, UserError
from contracts.window import WindowSpec

MAX_GAP_NS = 100_000_000
"""A pause between two presentations that makes two blocks of them: longer than a few dropped
frames (33 ms each), shorter than any pause between two blocks of stimuli (seconds)."""

MARGIN_BINS = 2
"""How far training may move a window."""


def needed_blank_ns(spec: WindowSpec) -> int:
    """Return how much time before a block the window of its first frame may need, nanoseconds.

    The same for every lag: the window and its margin, and a bin on each side for rounding.
    """
    return spec.rate.start_ns(spec.n_bins + MARGIN_BINS + 2)


def frame_at(
    frame_start_ns: NDArray[np.int64],
    frame_stop_ns: NDArray[np.int64],
    session_ns: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return which presentation was on the screen.

    Returns rows of presentations, int64 of shape (n,); -1 where there was none.

    `frame_start_ns` and `frame_stop_ns` are int64 of shape (n_presentations,) on the session
    clock, in the order of their start. A presentation holds its start and not its stop.

    Raises
    ------
    UserError
        If the presentations are not in order, or one ends before it starts.
    """
    _check_table(frame_start_ns, frame_stop_ns)
    row = np.searchsorted(frame_start_ns, session_ns, side="right") - 1
    is_on = (row >= 0) & (session_ns < frame_stop_ns[row])
    return np.where(is_on, row, -1).astype(np.int64)


def align(
    frame_start_ns: NDArray[np.int64],
    frame_stop_ns: NDArray[np.int64],
    spec: WindowSpec,
    *,
    recorded_bins: tuple[int, int],
    chosen: NDArray[np.integer] | None = None,
    margin_bins: int = MARGIN_BINS,
    max_gap_ns: int = MAX_GAP_NS,
    block: NDArray[np.int64] | None = None,
    blank_from_ns: NDArray[np.int64] | None = None,
    invalid_ns: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the causal window of each presentation.

    It ends at the last bin edge up to `lag` after the middle of the presentation, so that
    serving, which describes what was shown `lag` before the window's end, labels it the same.
    Left out are windows that, moved by up to `margin_bins` either way, would reach outside the
    recording, or whose stimulus would: the screen from `lag` before the window starts until it
    ends must belong to one block, or to the blank before it.

    Parameters
    ----------
    frame_start_ns, frame_stop_ns : array, shape (n_presentations,), int64, nanoseconds
        The whole presentation table, in the order of the starts.
    recorded_bins : (int, int)
        First bin that was recorded whole, and the first one after the recording.
    chosen : array, shape (n_chosen,), int, optional
        Rows of the table that want a window; all, if not given.
    margin_bins : int
        How far training may move a window.
    max_gap_ns : int
        A longer pause between two presentations ends a block.
    block : array, shape (n_presentations,), int64, optional
        Where it changes from one row to the next, a block ends too: at a join of two repeats.
    blank_from_ns : array, shape (n_presentations,), int64, nanoseconds, optional
        Since when the screen was blank before the block of each presentation; the start of the
        block where it was not. Without it no window begins before its block.
    invalid_ns : array, shape (n_invalid, 2), int64, optional
        Start and stop of intervals that no window, moved by the margin, may touch.

    Returns
    -------
    first_bin : array, shape (n_windows,), int64
        First bin of each window, on the absolute grid.
    row : array, shape (n_windows,), int64
        Its presentation.

    Raises
    ------
    MisuseError
        If the margin is negative.
    """
    if margin_bins < 0:
        raise MisuseError(f"margin_bins must be 0 or more, got {margin_bins}")
    _check_table(frame_start_ns, frame_stop_ns)
    row = np.arange(len(frame_start_ns)) if chosen is None else chosen.astype(np.int64)
    middle_ns = frame_start_ns[row] + (frame_stop_ns[row] - frame_start_ns[row]) // 2
    stop_bin = spec.rate.bin_of(middle_ns + spec.lag_ns)
    first_bin = stop_bin - spec.n_bins
    shown = frame_at(frame_start_ns, frame_stop_ns, spec.rate.starts_ns(stop_bin) - spec.lag_ns)

    earliest, latest = first_bin - margin_bins, stop_bin + margin_bins
    is_recorded = (earliest >= recorded_bins[0]) & (latest <= recorded_bins[1])
    seen_from_ns = spec.rate.starts_ns(earliest) - max(spec.lag_ns, 0)
    seen_until_ns = spec.rate.starts_ns(latest) - min(spec.lag_ns, 0)
    block_start_ns, block_stop_ns = _blocks(frame_start_ns, frame_stop_ns, max_gap_ns, block)
    if blank_from_ns is not None:
        block_start_ns = np.minimum(block_start_ns, blank_from_ns)
    is_in_block = (seen_from_ns >= block_start_ns[row]) & (seen_until_ns <= block_stop_ns[row])
    kept = (shown == row) & is_recorded & is_in_block
    if invalid_ns is not None:
        kept &= ~_touches(invalid_ns, seen_from_ns, seen_until_ns)
    return first_bin[kept], row[kept]


def _check_table(frame_start_ns: NDArray[np.int64], frame_stop_ns: NDArray[np.int64]) -> None:
    if not len(frame_start_ns) or frame_start_ns.shape != frame_stop_ns.shape:
        raise UserError(
            "a presentation table needs one row or more, each with a start and a stop; got "
            f"{len(frame_start_ns)} starts and {len(frame_stop_ns)} stops"
        )
    out_of_order = int((np.diff(frame_start_ns) <= 0).sum())
    backwards = int((frame_stop_ns <= frame_start_ns).sum())
    if out_of_order or backwards:
        raise UserError(
            "presentations must be in the order of their start and end after it; "
            f"{out_of_order} rows are out of order, {backwards} end too early. "
            "Sort the table by start_time and leave empty rows out."
        )


def _blocks(
    frame_start_ns: NDArray[np.int64],
    frame_stop_ns: NDArray[np.int64],
    max_gap_ns: int,
    block: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and the stop of the block that each presentation belongs to."""
    is_first = np.ones(len(frame_start_ns), dtype=np.bool_)
    is_first[1:] = frame_start_ns[1:] - frame_stop_ns[:-1] > max_gap_ns
    if block is not None:
        is_first[1:] |= np.diff(block) != 0
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(frame_start_ns)) - 1
    which = np.cumsum(is_first) - 1
    return frame_start_ns[firsts][which], frame_stop_ns[lasts][which]


def _touches(
    invalid_ns: NDArray[np.int64], from_ns: NDArray[np.int64], until_ns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Mark the spans that meet an invalid interval. There are few of those."""
    touches = np.zeros(len(from_ns), dtype=np.bool_)
    for start_ns, stop_ns in invalid_ns.tolist():
        touches |= (from_ns < stop_ns) & (until_ns > start_ns)
    return touches
