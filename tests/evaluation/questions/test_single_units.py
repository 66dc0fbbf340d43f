"""Single units: planted tunings are named, unrelated labels are not, units have their turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from contracts.population import Population, Unit
from evaluation.questions.chance import (
    Positions,
    alignments,
    block_draws,
    is_discovered,
    shift_test,
)
from evaluation.questions.single_units_decoding import PatchComponents, choose_units
from evaluation.questions.single_units_words import (
    Statements,
    information,
    raised_words,
    statements_of_captions,
    statements_of_facts,
)
from simulation.scenes.facts import Facts, Thing

N = 200
POSITIONS = Positions(np.arange(N), np.zeros(N, np.int64))
DRAWS = block_draws(POSITIONS, 2.0, n_draws=200)
ORDERS = alignments(POSITIONS)
NIGHT = "A car at night."
DAY = "A car by day."


def _scene(light, kind="car"):
    return Facts(light, (Thing(kind, 1, "left" if kind == "car" else "", "near"),))


def _slow(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n statements that last for a while, half of the time, shape (N, n)."""
    values = lfilter([1], [1, -0.9], rng.normal(size=(N + 200, n)), axis=0)[200:]
    slow: np.ndarray = values > np.median(values, axis=0)
    return slow


def test_alignments_are_the_shifts_of_the_test():
    """Sums along each order are those that the test of a table counts, movie by movie."""
    positions = Positions(np.arange(25), np.repeat([0, 1], [15, 10]))
    table = np.random.default_rng(0).normal(size=(25, 25))
    orders = alignments(positions)
    sums = table[np.arange(25), orders].sum(axis=1)
    test = shift_test(table, positions)
    assert orders.shape == (150, 25)
    assert (orders[0] == np.arange(25)).all()
    assert test.value == pytest.approx(sums[0])
    assert test.p == pytest.approx(np.mean(sums >= sums[0]))


def test_a_planted_tuning_is_named():
    """Sentences that follow the light carry one bit about it, and none about what they omit."""
    rng = np.random.default_rng(0)
    is_night = rng.random(N) < 0.5
    kinds = np.where(rng.random(N) < 0.5, "car", "tree")
    facts = [
        _scene("night" if night else "day", kind)
        for night, kind in zip(is_night, kinds, strict=True)
    ]
    statements = statements_of_facts(facts)
    assert set(statements.names) == {"day", "night", "car", "tree", "heading left"}
    texts = [NIGHT if night else DAY for night in is_night]
    [found] = information(statements.named(texts)[np.newaxis], statements, POSITIONS, ORDERS, DRAWS)
    of = dict(zip(statements.names, zip(found.bits, found.p, strict=True), strict=True))
    assert of["night"][0] == pytest.approx(1, abs=0.05)
    assert of["night"][1] == pytest.approx(1 / N)
    assert of["car"] == (0, 1)  # every sentence names one
    assert found.difference[statements.names.index("night")].value == 1


def test_information_is_that_of_the_formula():
    """A sentence that is right four times of five carries 1 - H(0.2) bits."""
    shown = np.tile([True, False], 5_000)
    right = np.arange(10_000) % 10 < 8
    statements = Statements("facts", ("night",), shown[:, np.newaxis], lambda _: frozenset())
    positions = Positions(np.arange(10_000), np.zeros(10_000, np.int64))
    named = np.where(right, shown, ~shown)[:, np.newaxis]
    orders = np.stack([np.arange(10_000), np.random.default_rng(0).permutation(10_000)])
    [found] = information(
        named[np.newaxis], statements, positions, orders, block_draws(positions, 1, n_draws=9)
    )
    entropy = -0.2 * math.log2(0.2) - 0.8 * math.log2(0.8)
    plug_in = found.bits[0] - found.null[1, 0]
    assert plug_in == pytest.approx(1 - entropy, abs=0.002)


def test_unrelated_labels_are_named_in_one_of_twenty():
    """Slow statements and slow sentences without a relation: the level holds for all together."""
    rng = np.random.default_rng(1)
    n_runs, n_statements, rejected = 100, 6, 0
    for _ in range(n_runs):
        statements = Statements("facts", tuple("abcdef"), _slow(rng, n_statements), frozenset)
        [found] = information(
            _slow(rng, n_statements)[np.newaxis], statements, POSITIONS, ORDERS, DRAWS
        )
        rejected += found.smallest_p < 0.05
    assert rejected <= binom.ppf(0.999, n_runs, 0.05)


def test_statements_come_in_one_order():
    """By how often they are shown, then by name, whatever order this process has of a set."""
    rare = "antelope bear cat dog eel fox goat hare ibis jay".split()
    statements = statements_of_captions([" ".join(rare), "a house", "a house", *["a tree"] * 3])
    assert statements.names == ("tree", "house", *rare)


def test_few_alignments_give_no_p():
    """Of ten frames no p is given, rather than one."""
    positions = Positions(np.arange(10), np.zeros(10, np.int64))
    statements = statements_of_captions(["a car", "a dog"] * 5)
    named = statements.named(["a car", "a dog"] * 5)
    [found] = information(
        named[np.newaxis],
        statements,
        positions,
        alignments(positions),
        block_draws(positions, 1, n_draws=9),
    )
    assert np.isnan(found.p).all()
    assert not is_discovered([found.smallest_p]).any()


def test_words_that_go_with_spikes_are_raised():
    """A word of windows with many spikes goes with them; one that is always there does not."""
    many = np.arange(N) % 2 == 0
    texts = ["A night street" if high else "A street" for high in many]
    rows = {row["word"]: row for row in raised_words(texts, "A tree", many, DRAWS)}
    assert set(rows) == {"night", "street", "tree"}
    assert rows["night"]["with_spikes"] == 1
    assert rows["street"]["with_spikes"] == 0
    assert (rows["street"]["raised"], rows["tree"]["raised"]) == (1, -1)


def test_each_area_and_type_has_a_turn():
    """In turn the longest reach of each group; without groups, of all."""
    units = [Unit(str(n), area="VISp" if n < 6 else "CA1") for n in range(8)]
    population = Population(units)
    groups = {name: population.select(name) for name in ("all", "area:CA1", "area:VISp", "silent")}
    reach = [8.0, 7, 6, 5, 4, 3, 2, 1]
    assert choose_units(population, groups, reach, 4) == [6, 0, 7, 1]
    assert choose_units(population, groups, reach, 20) == [6, 0, 7, 1, 2, 3, 4, 5]
    assert choose_units(population, {"all": groups["all"]}, reach, 3) == [0, 1, 2]


def test_components_hold_the_frames():
    """Few frames lie whole in the space of their components."""
    patches = np.random.default_rng(0).normal(size=(12, 40)).astype(np.float32)
    components = PatchComponents.of(patches)
    assert components.axes.shape == (40, 11)
    assert components.share == pytest.approx(1)
    again = (patches - components.mean) @ components.axes
    assert again == pytest.approx(components.shown, abs=1e-3)


def test_discoveries_are_those_of_benjamini_and_hochberg():
    """Two of five below their line, an unknown p never."""
    assert is_discovered([0.001, 0.015, 0.5, math.nan, 0.9]).tolist() == [
        True, True, False, False, False,
    ]  # fmt: skip
