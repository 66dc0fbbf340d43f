"""Scores of sentences against the facts of scenes: objects, heading, number, distance and light.

Sentences are parsed by `simulation.captions.parse`; a failed narration is the empty text. The
scores:

* ``object_precision``, ``object_recall``, ``object_f1``: kinds of things named, against kinds of
  things shown, pooled over all kinds and scenes (micro). A kind counts once, whatever its number.
* ``<kind>_f1``: the same for one kind.
* ``direction``: over scenes whose subject moves. Correct only if the sentence names the subject's
  kind with the subject's heading.
* ``count``, ``distance``: over all scenes. Correct only if the sentence names the subject's kind
  with that number, or at that distance.
* ``light``: over all scenes. Correct if the sentence names that light, whatever else it says.

A missing answer is as wrong as a false one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from evaluation.scores import Tally, derangements
from simulation.captions import ParsedCaption, parse
from simulation.scenes.facts import DISTANCES, KINDS, LIGHTS, Facts

ACCURACIES = ("direction", "count", "distance", "light")  # Scores with one question for each scene

SCORES = ("object_f1", "object_precision", "object_recall", *ACCURACIES)
"""The scores of the tables; there is also a ``<kind>_f1`` for each kind."""

HEADINGS = ("left", "right", "towards", "away")

_Table = NDArray[np.float64]


def tallies(facts: Sequence[Facts], texts: Sequence[str], *, seed: int = 0) -> dict[str, Tally]:
    """Score sentences scene by scene.

    There is one sentence for each scene, two scenes or more. Returns `SCORES`, and ``<kind>_f1``
    for each of `KINDS`. Chance is the mean score of the same sentences against the facts of *other*
    scenes, over derangements drawn from `seed`.

    Raises
    ------
    MisuseError
        If there is not one sentence for each scene.
    """
    if len(facts) != len(texts):
        raise MisuseError(f"one sentence for each scene: {len(texts)} for {len(facts)} scenes")
    truth = _truth(facts)
    answers = _answers([parse(text) for text in texts])
    orders = derangements(len(facts), seed=seed)
    found = _object_tallies(truth["kinds"], answers["kinds"], orders)
    for name in ACCURACIES:
        found[name] = _accuracy(*_correct(name, truth, answers), orders)
    return found


def _correct(
    name: str, truth: Mapping[str, _Table], answers: Mapping[str, _Table]
) -> tuple[_Table, _Table]:
    """Return whether each scene has the question, and whether each sentence is correct about it.

    Shapes (n_scenes,) and (n_sentences, n_scenes), 0 or 1.
    """
    expected = truth[name]
    if name == "light":
        hits = answers["light"][:, None] == expected[None, :]
    else:  # what the sentence says about the kind of the scene's subject
        hits = answers[name][:, truth["subject"].astype(int)] == expected[None, :]
    applies = expected >= 0
    return applies.astype(float), (hits & applies).astype(float)


def _truth(facts: Sequence[Facts]) -> dict[str, _Table]:
    """Return facts as numbers, a row for each scene; -1 where a question does not apply."""
    return {
        "kinds": np.array([[kind in scene.kinds for kind in KINDS] for scene in facts], float),
        "subject": np.array([KINDS.index(scene.subject.kind) for scene in facts], float),
        "direction": np.array([_index(HEADINGS, scene.subject.heading, -1) for scene in facts]),
        "count": np.array([scene.subject.count for scene in facts], float),
        "distance": np.array([_index(DISTANCES, scene.subject.distance, -1) for scene in facts]),
        "light": np.array([_index(LIGHTS, scene.light, -1) for scene in facts]),
    }


def _answers(sentences: Sequence[ParsedCaption]) -> dict[str, _Table]:
    """Return sentences as numbers, by sentence and kind; -2 where a sentence gives no answer."""
    table = {name: np.full((len(sentences), len(KINDS)), -2.0) for name in ACCURACIES[:3]}
    for row, sentence in enumerate(sentences):
        for thing in sentence.things:
            cell = row, KINDS.index(thing.kind)
            table["direction"][cell] = _index(HEADINGS, thing.heading, -2)
            table["count"][cell] = -2 if thing.count is None else thing.count
            table["distance"][cell] = _index(DISTANCES, thing.distance, -2)
    table["kinds"] = np.array(
        [[kind in sentence.kinds for kind in KINDS] for sentence in sentences], float
    )
    table["light"] = np.array([_index(LIGHTS, sentence.light, -2) for sentence in sentences])
    return table


def _index(values: Sequence[str], value: str | None, otherwise: int) -> float:
    return float(values.index(value)) if value in values else float(otherwise)


def _accuracy(applies: _Table, hits: _Table, orders: NDArray[np.int64]) -> Tally:
    """Tally one question; `hits` has a row for each sentence and a column for each scene."""
    n_by_chance = hits[np.arange(len(applies)), orders].sum(axis=1).mean()
    return _tally(np.diagonal(hits).copy(), applies, n_by_chance)


def _object_tallies(shown: _Table, named: _Table, orders: NDArray[np.int64]) -> dict[str, Tally]:
    """Tally kinds; the numbers of kinds shown and named are the same in every order."""
    shared = shown * named
    # Mean number of kinds that a sentence names and that the scene in its place shows, by kind.
    by_chance = np.stack(
        [(named[:, kind] * shown[orders, kind]).sum(axis=1).mean() for kind in range(len(KINDS))]
    )
    n_shown, n_named = shown.sum(axis=1), named.sum(axis=1)
    found = {
        "object_f1": _tally(2 * shared.sum(axis=1), n_shown + n_named, 2 * by_chance.sum()),
        "object_precision": _tally(shared.sum(axis=1), n_named, by_chance.sum()),
        "object_recall": _tally(shared.sum(axis=1), n_shown, by_chance.sum()),
    }
    for column, kind in enumerate(KINDS):
        n_of_kind = shown[:, column] + named[:, column]
        found[f"{kind}_f1"] = _tally(2 * shared[:, column], n_of_kind, 2 * by_chance[column])
    return found


def _tally(numerator: _Table, denominator: _Table, by_chance: float) -> Tally:
    total = float(denominator.sum())
    return Tally(numerator, denominator, float(by_chance) / total if total else float("nan"))
