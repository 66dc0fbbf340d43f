"""How good the narrations are so far, against their own captions and against others. No socket.

*Matched* compares each narration with the caption of its own moment; *shuffled* with every other
caption, on average: what the same words would score if they had nothing to do with the moment. Both
are the F1 of the kinds of things named, added up over narrations (micro), as in `neurrate watch`.
The intervals are of a bootstrap over captions: narrations of one scene are not independent.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

N_KEPT = 2_000
"""Narrations of each population that are scored: the newest."""

MIN_CAPTIONS = 3
"""Fewer have no interval worth the name."""

N_RESAMPLES = 400
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """F1 of one population, 0 to 1, with the intervals of 95 %. None where it is not known."""

    n: int
    n_captions: int
    matched: float | None
    matched_low: float | None
    matched_high: float | None
    shuffled: float | None
    shuffled_low: float | None
    shuffled_high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return it as JSON holds it."""
        return asdict(self)


class RunningScore:
    """Keeps what was named and what was shown, of the newest narrations of one population."""

    def __init__(self) -> None:
        self._kept: deque[tuple[str, frozenset[str], frozenset[str]]] = deque(maxlen=N_KEPT)

    def add(self, caption: str, named: AbstractSet[str], shown: AbstractSet[str]) -> None:
        """Take in one narration of a moment with this caption."""
        self._kept.append((caption, frozenset(named), frozenset(shown)))

    def summary(self, rng: np.random.Generator) -> ScoreSummary:
        """Return the scores so far."""
        by_caption: dict[str, list[frozenset[str]]] = defaultdict(list)
        shown_of: dict[str, frozenset[str]] = {}
        for caption, named, shown in self._kept:
            by_caption[caption].append(named)
            shown_of[caption] = shown
        kinds = sorted(set().union(*shown_of.values(), *(one[1] for one in self._kept)))
        at = {kind: column for column, kind in enumerate(kinds)}
        captions = list(by_caption)
        shown_rows = np.zeros((len(captions), len(kinds)))
        named_sums = np.zeros_like(shown_rows)  # of all narrations of a caption
        n_of = np.array([len(by_caption[caption]) for caption in captions], dtype=float)
        for row, caption in enumerate(captions):
            shown_rows[row, [at[kind] for kind in shown_of[caption]]] = 1
            for named in by_caption[caption]:
                named_sums[row, [at[kind] for kind in named]] += 1
        n_shown, n_named = shown_rows.sum(axis=1), named_sums.sum(axis=1)
        right = named_sums @ shown_rows.T
        own = np.diagonal(right)
        counts = np.stack([own, n_named, n_of * n_shown], axis=1)
        n_others = max(len(captions) - 1, 1)
        others = np.stack(
            [
                (right.sum(axis=1) - own) / n_others,
                n_named,
                n_of * (n_shown.sum() - n_shown) / n_others,
            ],
            axis=1,
        )
        is_enough = len(captions) >= MIN_CAPTIONS
        matched = _with_interval(counts, rng if is_enough else None)
        shuffled = _with_interval(others, rng) if is_enough else (None, None, None)
        return ScoreSummary(len(self._kept), len(captions), *matched, *shuffled)


def _with_interval(
    counts: NDArray[np.float64], rng: np.random.Generator | None
) -> tuple[float | None, float | None, float | None]:
    """Return the F1 of counts of right, named, shown, shape (n_captions, 3), and its interval."""
    value = _f1(counts.sum(axis=0, keepdims=True))[0]
    if rng is None or np.isnan(value):
        return (None if np.isnan(value) else float(value)), None, None
    n = len(counts)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    resampled = _f1(weights @ counts)
    low, high = np.nanpercentile(resampled, INTERVAL)
    return float(value), float(low), float(high)


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    right, named, shown = sums.T
    among = named + shown
    f1: NDArray[np.float64] = np.full(len(sums), np.nan)
    np.divide(2 * right, among, out=f1, where=among > 0)
    return f1
