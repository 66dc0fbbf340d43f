"""Which presentation of one session shows the same frame as one of another, and may stand for it.

Presentations are matched by movie, frame number and repeat, never by time. Repeats are counted
within what they are for: the first repeat held out for the test is matched with the first one that
the other session holds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from encoder_training.data_set.prepared import PresentationRows
from encoder_training.data_set.stimulus import is_shuffled_order, repeats

MOST_APART = 0.75
MOST_APART_NS = 25_000_000
"""By which two presentations of a frame may differ in length: a dropped refresh of the screen makes
a frame half as long again, a dropped frame makes the one before it twice as long."""

KEY_BITS = (22, 17, 14)
"""Of a frame number, of how often it comes in a repeat, and of a repeat, in one int64."""


@dataclass(frozen=True, eq=False)
class Showings:
    """The presentations of one session, with what they are matched by."""

    shown: PresentationRows
    movie: NDArray[np.int64]  # (n_shown,), as is number; -1 where no target of a movie is shown
    number: NDArray[np.int64]

    @cached_property
    def is_first(self) -> NDArray[np.bool_]:
        """Whether a block begins with it."""
        block = self.shown.block
        is_first: NDArray[np.bool_] = np.diff(block, prepend=block[:1] - 1) != 0
        return is_first

    @cached_property
    def period_ns(self) -> NDArray[np.int64]:
        """Time to the next presentation of the block; of the last one its own length."""
        start, period = self.shown.start_ns, self.shown.stop_ns - self.shown.start_ns
        is_followed = ~self.is_first[1:]
        period[:-1][is_followed] = np.diff(start)[is_followed]
        return period

    @cached_property
    def blank_ns(self) -> NDArray[np.int64]:
        """How long the screen was blank before the block that begins with it; else 0."""
        blank_from = self.shown.blank_from_ns
        if blank_from is None:
            return np.zeros(len(self.movie), np.int64)
        blank: NDArray[np.int64] = np.where(self.is_first, self.shown.start_ns - blank_from, 0)
        return blank

    @cached_property
    def is_shuffled(self) -> NDArray[np.bool_]:
        """Whether its movie's images came in random order."""
        shuffled = np.zeros(len(self.movie), np.bool_)
        for movie in np.unique(self.movie):
            of_movie = self.movie == movie
            shuffled[of_movie] = is_shuffled_order(self.number[of_movie])
        return shuffled

    @cached_property
    def repeat(self) -> NDArray[np.int64]:
        """Which showing of its movie it belongs to."""
        movies = np.unique(self.movie)
        place = np.searchsorted(movies, self.movie)
        shuffled = tuple(bool(self.is_shuffled[self.movie == movie][0]) for movie in movies)
        return repeats(place, self.number, shuffled)[0]

    @cached_property
    def is_held_out_by_repeat(self) -> bool:
        """Whether every repeat is whole in one role, as with ``--split repeats``."""
        pairs = np.unique(np.stack([self.movie, self.repeat, self.shown.role]), axis=1)
        return bool(np.unique(pairs[:2], axis=1).shape[1] == pairs.shape[1])


@dataclass(frozen=True, eq=False)
class MatchKeys:
    """What presentations are found by."""

    kind: NDArray[np.int64]  # (n_shown,): a movie, or a movie in one role
    rank: NDArray[np.int64]  # (n_shown,): the repeat, counted within the kind
    frame: NDArray[np.int64]  # (n_shown,): names kind, frame number and its place in a repeat

    @classmethod
    def of(cls, showings: Showings, *, by_role: bool) -> MatchKeys:
        """Count the repeats within each movie, or within each role of it.

        Raises
        ------
        UserError
            If a number does not fit its part of a key.
        """
        role = showings.shown.role.astype(np.int64) if by_role else 0
        kind = (showings.movie + 1) * 3 + role
        rank = np.zeros(len(kind), np.int64)
        for each in np.unique(kind):
            of_kind = kind == each
            rank[of_kind] = np.unique(showings.repeat[of_kind], return_inverse=True)[1].reshape(-1)
        number_bits, place_bits, rank_bits = KEY_BITS
        plain = (kind << number_bits | showings.number + 1) << rank_bits | rank
        place = _place(plain)
        counted = (showings.number + 2, place + 1, rank + 1)
        if any(of.max(initial=0) >> bits for of, bits in zip(counted, KEY_BITS, strict=True)):
            raise UserError(
                f"sessions are matched with fewer than {1 << number_bits:,} frames of a movie, "
                f"{1 << place_bits:,} showings of one in a repeat and {1 << rank_bits:,} repeats; "
                f"found are {', '.join(f'{int(of.max()):,}' for of in counted)}. Prepare less of "
                "the session."
            )
        frame = (kind << number_bits | showings.number + 1) << place_bits | place
        return cls(kind, rank, frame)

    @property
    def n_ranks(self) -> dict[int, int]:
        """Repeats of each kind."""
        return {int(kind): int(self.rank[self.kind == kind].max()) + 1 for kind in set(self.kind)}

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        codes = self.frame << KEY_BITS[2] | self.rank
        order = np.argsort(codes, kind="stable")
        return codes[order], order

    def find(self, frame: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the presentation of a frame in a repeat, -1 where there is none."""
        codes, order = self._sorted
        wanted = frame << KEY_BITS[2] | rank
        at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[at] == wanted, order[at], -1)


def _place(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each code came before."""
    order = np.argsort(codes, kind="stable")
    is_new = np.diff(codes[order], prepend=codes[order[:1]] - 1) != 0
    firsts = np.flatnonzero(is_new)
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - firsts[np.cumsum(is_new) - 1]
    return place


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """For each presentation of the timeline one of another session, or another repeat."""

    showings: Showings
    row: NDArray[np.int64]  # (n_shown,): of the other; -1 where none may stand for it

    @classmethod
    def of(cls, timeline: Showings, other: Showings, row: NDArray[np.int64]) -> Match:
        """Leave out those whose lengths differ by a dropped frame."""
        apart = np.abs(other.period_ns[row] - timeline.period_ns)
        shorter = np.minimum(other.period_ns[row], timeline.period_ns)
        is_alike = apart <= np.minimum(MOST_APART * shorter, MOST_APART_NS)
        return cls(other, np.where(is_alike, row, -1))


def joined_rows(timeline: Showings, matches: Sequence[Match]) -> PresentationRows:
    """Return the timeline's presentations with blocks and blanks that hold in every match.

    A block also ends where it does in another session, or where frames that follow each other
    here do not there. The blank before a block is the shortest.
    """
    shown, is_first = timeline.shown, timeline.is_first.copy()
    in_order = ~(timeline.is_shuffled[1:] & (np.diff(timeline.movie) == 0))
    for match in matches:
        row = match.row
        is_next = (np.diff(row) == 1) & ~match.showings.is_first[row[1:]]
        is_first[1:] |= in_order & ~is_next
    blank_ns = np.where(is_first, timeline.blank_ns, 0)
    for match in matches:
        of_match = np.where(match.row >= 0, match.showings.blank_ns[match.row], 0)
        blank_ns = np.minimum(blank_ns, of_match)
    firsts = np.flatnonzero(is_first)
    which = np.cumsum(is_first) - 1
    return PresentationRows(
        start_ns=shown.start_ns,
        stop_ns=shown.stop_ns,
        frame=shown.frame,
        block=which.astype(np.int64),
        group=shown.group,
        role=shown.role,
        blank_from_ns=(shown.start_ns - blank_ns)[firsts][which],
    )
