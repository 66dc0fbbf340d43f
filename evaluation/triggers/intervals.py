"""Intervals of session time: sorted, disjoint, half open, in integer nanoseconds. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

TimeInterval = tuple[int, int]  # Start and stop, session nanoseconds, half open
TimeIntervals = tuple[TimeInterval, ...]  # Sorted and disjoint


def merged(intervals: Iterable[TimeInterval], *, gap_ns: int = 0) -> TimeIntervals:
    """Sort intervals, and join those that overlap or are no further apart than `gap_ns`.

    >>> merged([(5, 9), (0, 2), (2, 4), (8, 12)])
    ((0, 4), (5, 12))
    >>> merged([(0, 2), (4, 6), (9, 10)], gap_ns=2)
    ((0, 6), (9, 10))
    """
    joined: list[TimeInterval] = []
    for start, stop in sorted(intervals):
        if joined and start - joined[-1][1] <= gap_ns:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        elif stop > start:
            joined.append((start, stop))
    return tuple(joined)


def common(first: TimeIntervals, second: TimeIntervals) -> TimeIntervals:
    """Return the intersection.

    >>> common(((0, 4), (6, 9)), ((3, 7),))
    ((3, 4), (6, 7))
    """
    shared = []
    for start, stop in first:
        row = max(0, bisect_right(second, start, key=lambda interval: interval[0]) - 1)
        while row < len(second) and second[row][0] < stop:
            low, high = max(start, second[row][0]), min(stop, second[row][1])
            if low < high:
                shared.append((low, high))
            row += 1
    return tuple(shared)


def without(first: TimeIntervals, second: TimeIntervals) -> TimeIntervals:
    """Return the first intervals less the second.

    >>> without(((0, 10),), ((2, 3), (9, 12)))
    ((0, 2), (3, 9))
    """
    rest = []
    for start, stop in first:
        for low, high in common(((start, stop),), second):
            if start < low:
                rest.append((start, low))
            start = high
        if start < stop:
            rest.append((start, stop))
    return tuple(rest)


def total_ns(intervals: TimeIntervals) -> int:
    """Return the total duration, nanoseconds."""
    return sum(stop - start for start, stop in intervals)


def index_at(intervals: TimeIntervals, time_ns: int) -> int | None:
    """Return the index of the interval that holds a time; None if none does.

    >>> [index_at(((0, 4), (6, 9)), time) for time in (0, 3, 4, 6)]
    [0, 0, None, 1]
    """
    row = bisect_right(intervals, time_ns, key=lambda interval: interval[0]) - 1
    return row if row >= 0 and time_ns < intervals[row][1] else None
