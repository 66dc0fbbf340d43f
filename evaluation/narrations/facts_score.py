"""What of the truth a sentence says: objects, heading, number, distance and light.

A sentence is read by `simulation.captions.parse`; a sentence that failed is the empty text, and
says nothing. What counts, for each score:

* ``object_precision``, ``object_recall``, ``object_f1``: kinds of things named, against kinds of
  things there, pooled over all kinds and scenes (micro). A kind is named once, whatever its number.
* ``<kind>_f1``: the same for one kind.
* ``direction``: over scenes whose subject moves. Right only if the sentence names the subject's
  kind with the subject's heading.
* ``count``, ``distance``: over all scenes. Right only if the sentence names the subject's kind with
  that number, or at that distance.
* ``light``: over all scenes. Right if the sentence says that light, whatever else it says.

Saying nothing is as wrong as saying something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from evaluation.scores import Tally, derangements
from simulation.captions import ParsedCaption, parse
from simulation.scenes.facts import DISTANCES, KINDS, LIGHTS, Facts

ACCURACIES = ("direction", "count", "distance", "light")
"""Scores that ask one question of a scene."""

SCORES = ("object_f1", "object_precision", "object_recall", *ACCURACIES)
"""The scores that a table shows; one ``<kind>_f1`` for each kind comes on top."""

HEADINGS = ("left", "right", "towards", "away")

_Table = NDArray[np.float64]


def tallies(facts: Sequence[Facts], texts: Sequence[str], *, seed: int = 0) -> dict[str, Tally]:
    """Score sentences scene by scene.

    Parameters
    ----------
    facts : sequence of Facts
        What each scene shows; two scenes or more.
    texts : sequence of str
        One sentence for each scene, in the same order.
    seed : int
        Of the derangements that chance is averaged over.

    Returns
    -------
    tallies : dict of str to Tally
        `SCORES`, and ``<kind>_f1`` for each of `KINDS`. Chance is the mean score of the same
        sentences against the facts of *other* scenes.

    Raises
    ------
    MisuseError
        If there is not one sentence for each scene.
    """
    if len(facts) != len(texts):
        raise MisuseError(f"one sentence for each scene: {len(texts)} for {len(facts)} scenes")
    truth = _truth(facts)
    said = _said([parse(text) for text in texts])
    orders = derangements(len(facts), seed=seed)
    right = _Right(truth, said)
    found = {**_object_tallies(truth["kinds"], said["kinds"], orders)}
    for name in ACCURACIES:
        asked, hits = right.of(name)
        found[name] = _accuracy(asked, hits, orders)
    return found


class _Right:
    """Which sentence (row) is right about which scene (column)."""

    def __init__(self, truth: Mapping[str, _Table], said: Mapping[str, _Table]) -> None:
        self._truth = truth
        self._said = said

    def of(self, name: str) -> tuple[_Table, _Table]:
        """Return whether a scene asks, shape (n,), and whether a sentence is right, (n, n)."""
        wanted = self._truth[name]
        if name == "light":
            hits = self._said["light"][:, None] == wanted[None, :]
        else:  # what the sentence says of the kind that is the scene's subject
            hits = self._said[name][:, self._truth["subject"].astype(int)] == wanted[None, :]
        asked = wanted >= 0
        return asked.astype(float), (hits & asked).astype(float)


def _truth(facts: Sequence[Facts]) -> dict[str, _Table]:
    """Return facts as numbers, a row for each scene; -1 where there is nothing to ask."""
    return {
        "kinds": np.array([[kind in one.kinds for kind in KINDS] for one in facts], float),
        "subject": np.array([KINDS.index(one.subject.kind) for one in facts], float),
        "direction": np.array([_index(HEADINGS, one.subject.heading, -1) for one in facts]),
        "count": np.array([one.subject.count for one in facts], float),
        "distance": np.array([_index(DISTANCES, one.subject.distance, -1) for one in facts]),
        "light": np.array([_index(LIGHTS, one.light, -1) for one in facts]),
    }


def _said(said: Sequence[ParsedCaption]) -> dict[str, _Table]:
    """Return sentences as numbers, by scene and kind; -2 where nothing is said."""
    table = {name: np.full((len(said), len(KINDS)), -2.0) for name in ACCURACIES[:3]}
    for row, one in enumerate(said):
        for thing in one.things:
            at = row, KINDS.index(thing.kind)
            table["direction"][at] = _index(HEADINGS, thing.heading, -2)
            table["count"][at] = -2 if thing.count is None else thing.count
            table["distance"][at] = _index(DISTANCES, thing.distance, -2)
    table["kinds"] = np.array([[kind in one.kinds for kind in KINDS] for one in said], float)
    table["light"] = np.array([_index(LIGHTS, one.light, -2) for one in said])
    return table


def _index(values: Sequence[str], value: str | None, otherwise: int) -> float:
    return float(values.index(value)) if value in values else float(otherwise)


def _accuracy(asked: _Table, hits: _Table, orders: NDArray[np.int64]) -> Tally:
    """Tally one question; `hits` is sentence by scene."""
    chance = hits[np.arange(len(asked)), orders].sum(axis=1).mean() / max(asked.sum(), 1.0)
    return Tally(np.diagonal(hits).copy(), asked, float(chance) if asked.any() else float("nan"))


def _object_tallies(there: _Table, named: _Table, orders: NDArray[np.int64]) -> dict[str, Tally]:
    """Tally kinds; the sums of kinds there and kinds named are the same in every order."""
    shared = there * named
    # Things that a sentence names and that the scene of each order shows, by kind.
    by_chance = np.stack(
        [(named[:, kind] * there[orders, kind]).sum(axis=1).mean() for kind in range(len(KINDS))]
    )
    n_there, n_named = there.sum(axis=1), named.sum(axis=1)
    found = {
        "object_f1": _tally(2 * shared.sum(axis=1), n_there + n_named, 2 * by_chance.sum()),
        "object_precision": _tally(shared.sum(axis=1), n_named, by_chance.sum()),
        "object_recall": _tally(shared.sum(axis=1), n_there, by_chance.sum()),
    }
    for at, kind in enumerate(KINDS):
        found[f"{kind}_f1"] = _tally(
            2 * shared[:, at], there[:, at] + named[:, at], 2 * by_chance[at]
        )
    return found


def _tally(numerator: _Table, denominator: _Table, by_chance: float) -> Tally:
    total = float(denominator.sum())
    return Tally(numerator, denominator, float(by_chance) / total if total else float("nan"))
