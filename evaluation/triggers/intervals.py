"""Stretches of session time: sorted, apart, half open, in integer nanoseconds. No file here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

Span = tuple[int, int]
"""Start and stop, session nanoseconds, half open."""

Spans = tuple[Span, ...]
"""In order, and apart from each other."""


def merged(spans: Iterable[Span], *, gap_ns: int = 0) -> Spans:
    """Put spans in order, and those that overlap, touch or lie near each other into one.

    Parameters
    ----------
    spans : iterable of (int, int)
    gap_ns : int
        The longest gap that is closed.

    Returns
    -------
    spans : tuple of (int, int)

    Examples
    --------
    >>> merged([(5, 9), (0, 2), (2, 4), (8, 12)])
    ((0, 4), (5, 12))
    >>> merged([(0, 2), (4, 6), (9, 10)], gap_ns=2)
    ((0, 6), (9, 10))
    """
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start - found[-1][1] <= gap_ns:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        elif stop > start:
            found.append((start, stop))
    return tuple(found)


def common(one: Spans, other: Spans) -> Spans:
    """Return what lies in both.

    >>> common(((0, 4), (6, 9)), ((3, 7),))
    ((3, 4), (6, 7))
    """
    found = []
    for start, stop in one:
        at = max(0, bisect_right(other, start, key=lambda span: span[0]) - 1)
        while at < len(other) and other[at][0] < stop:
            low, high = max(start, other[at][0]), min(stop, other[at][1])
            found += [(low, high)] if low < high else []
            at += 1
    return tuple(found)


def without(one: Spans, other: Spans) -> Spans:
    """Return what lies in the first and not in the second.

    >>> without(((0, 10),), ((2, 3), (9, 12)))
    ((0, 2), (3, 9))
    """
    found = []
    for start, stop in one:
        at = start
        for low, high in common(((start, stop),), other):
            found += [(at, low)] if at < low else []
            at = high
        found += [(at, stop)] if at < stop else []
    return tuple(found)


def total_ns(spans: Spans) -> int:
    """Return how long all of them are together."""
    return sum(stop - start for start, stop in spans)


def index_at(spans: Spans, time_ns: int) -> int | None:
    """Return which span a time lies in; None for none of them.

    >>> [index_at(((0, 4), (6, 9)), time) for time in (0, 3, 4, 6)]
    [0, 0, None, 1]
    """
    at = bisect_right(spans, time_ns, key=lambda span: span[0]) - 1
    return at if at >= 0 and time_ns < spans[at][1] else None
