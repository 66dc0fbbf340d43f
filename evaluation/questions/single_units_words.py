"""What a unit's sentences state, against what frames show: information, and words that it raises.

The information between "the frame shows it" and "the sentence names it" is the plug-in estimate
less its mean over circular shifts: the bias of few windows, and what two slow series share, go with
it. Chance of the largest of all statements under the same shift corrects p for their number
(Westfall and Young 1993, single step).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from evaluation.questions.answer import Row, with_interval
from evaluation.questions.chance import FEWEST_SHIFTS, Positions, p_value
from simulation.captions import ParsedCaption, parse
from simulation.scenes.facts import Facts

RAREST = 0.05
"""Share of the frames that must show a statement, and of those that must not."""

MOST_WORDS = 30
"""Of the captions, where no facts are given."""

FUNCTION_WORDS = frozenset(
    "a an and are as at be by from has in into is it its of on or that the their there this to was "
    "while with".split()
)

Read = Callable[[str], frozenset[str]]
"""Returns what a sentence states."""


@dataclass(frozen=True, slots=True, eq=False)
class Statements:
    """What frames show and sentences may name."""

    kind: str  # "facts" or "words of captions"
    names: tuple[str, ...]
    shown: NDArray[np.bool_]  # (n_positions, n_statements)
    read: Read

    def named(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Say what each sentence names, shape (n_texts, n_statements)."""
        return _table([self.read(text) for text in texts], self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Information:
    """Between statements of frames and something of the windows."""

    bits: NDArray[np.float64]  # (n_statements,): less the mean over shifts
    null: NDArray[np.float64]  # (n_shifts, n_statements): the same under every shift
    p: NDArray[np.float64]  # (n_statements,): corrected for their number; NaN if shifts are few
    difference: tuple[Interval, ...]  # Share of windows with it where shown, less elsewhere

    @property
    def smallest_p(self) -> float:
        """Of the hypothesis that there is information about none of the statements."""
        return float(self.p.min()) if self.p.size else float("nan")


def statements_of_facts(facts: Sequence[Facts]) -> Statements:
    """Take light, things, and heading and distance of the subject; `facts` are of positions."""
    return _statements("facts", [_stated(one) for one in facts], lambda text: _stated(parse(text)))


def statements_of_captions(captions: Sequence[str]) -> Statements:
    """Take the words of the captions of positions, function words left out."""
    return _statements("words of captions", [words_of(text) for text in captions], words_of)


def words_of(text: str) -> frozenset[str]:
    """Return the words of a sentence, without function words."""
    return frozenset(re.findall(r"[^\W\d_]+", text.lower())) - FUNCTION_WORDS


def information(
    named: NDArray[np.bool_],
    statements: Statements,
    positions: Positions,
    orders: NDArray[np.int64],
    draws: Draws,
) -> list[Information]:
    """Compare what windows have with what frames show, for each of several units.

    `named` is of shape (n_units, n_windows, n_statements), `orders` are `alignments` of the
    positions, `draws` of the windows.
    """
    bits = information_by_shift(named, statements.shown, positions, orders)
    shown = statements.shown[positions.of_window].astype(np.float64)
    found = []
    for of_unit, has in zip(bits, named.astype(np.float64), strict=True):
        differences = tuple(
            interval(draws.ratio(one * at, at) - draws.ratio(one * (1 - at), 1 - at))
            for one, at in zip(has.T, shown.T, strict=True)
        )
        found.append(Information(of_unit[0], of_unit, corrected_p(of_unit), differences))
    return found


def information_by_shift(
    named: NDArray[np.bool_],
    shown: NDArray[np.bool_],
    positions: Positions,
    orders: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return bits less their mean over shifts, shape (n_units, n_shifts, n_statements)."""
    n_units, n_windows, n_statements = named.shape
    n_at = positions.n_windows.astype(np.float64)
    bits = np.empty((n_units, len(orders), n_statements))
    for column in range(n_statements):
        moved = shown[:, column].astype(np.float64)[orders]
        at = np.stack([positions.mean(one) * n_at for one in named[:, :, column]])
        bits[:, :, column] = _mutual_information(
            at @ moved.T, at.sum(axis=1, keepdims=True), moved @ n_at, n_windows
        )
    bits -= bits.mean(axis=1, keepdims=True)
    return bits


def raised_words(
    texts: Sequence[str], silent: str, many: NDArray[np.bool_], draws: Draws
) -> list[Row]:
    """Return of each word its share of a unit's sentences, and how that moves with its spikes.

    `silent` is the sentence without any unit, `many`, shape (n_windows,), marks the windows with
    more spikes of the unit than half of them have.
    """
    of_window = [words_of(text) for text in texts]
    found = Counter(word for words in of_window for word in words)
    baseline = words_of(silent)
    high = many.astype(np.float64)
    rows: list[Row] = []
    for word in sorted(found.keys() | baseline):
        has = np.array([word in words for words in of_window], np.float64)
        moved = draws.ratio(has * high, high) - draws.ratio(has * (1 - high), 1 - high)
        rows.append(
            {
                "word": word,
                "share": float(has.mean()),
                "silent": float(word in baseline),
                **with_interval("raised", interval(draws.ratio(has - float(word in baseline)))),
                **with_interval("with_spikes", interval(moved)),
            }
        )
    return rows


def _statements(kind: str, shown: Sequence[frozenset[str]], read: Read) -> Statements:
    n_frames = Counter(name for of_frame in shown for name in of_frame)
    low, high = RAREST * len(shown), (1 - RAREST) * len(shown)
    # Of equal numbers by name: the order of a set is another in every process.
    by_number = sorted(n_frames.items(), key=lambda item: (-item[1], item[0]))
    enough = [name for name, n in by_number if low <= n <= high]
    names = tuple(enough if kind == "facts" else enough[:MOST_WORDS])
    return Statements(kind, names, _table(shown, names), read)


def _stated(one: Facts | ParsedCaption) -> frozenset[str]:
    """Return light and things by name; heading and distance of the subject, which comes first."""
    found = {one.light, *(thing.kind for thing in one.things)}
    for subject in one.things[:1]:
        found |= {subject.distance, subject.heading and f"heading {subject.heading}"}
    return frozenset(name for name in found if name)


def _table(found: Sequence[frozenset[str]], names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[name in of_one for name in names] for of_one in found], np.bool_).reshape(
        len(found), len(names)
    )


def _mutual_information(
    both: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """Return the information of two-by-two tables in bits, from counts; 0 for a constant."""
    bits = np.zeros_like(both)
    for joint, first, second in (
        (both, one, other),
        (one - both, one, n - other),
        (other - both, n - one, other),
        (n - one - other + both, n - one, n - other),
    ):
        expected = first * second / n
        is_there = (joint > 0.5) & (expected > 0)
        ratio = np.where(is_there, joint, 1) / np.where(is_there, expected, 1)
        bits += np.where(is_there, joint, 0) / n * np.log2(ratio)
    return bits


def corrected_p(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p of each statement against the largest of all, each on the scale of its own null."""
    if len(bits) < FEWEST_SHIFTS:
        return np.full(bits.shape[1], np.nan)
    p = np.ones(bits.shape[1])
    deviation = bits.std(axis=0)
    known = np.flatnonzero(deviation > 1e-12)
    if known.size:
        scaled = bits[:, known] / deviation[known]
        largest = scaled.max(axis=1)
        p[known] = [p_value(float(value), largest) for value in scaled[0]]
    return p
