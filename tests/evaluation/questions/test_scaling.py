"""Growth with units: a planted line is found, with its crossing, and no growth is none."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.population import Population, Selection, Unit
from encoder_training.evaluation.bootstrap import Interval
from evaluation.questions.chance import Positions, block_draws
from evaluation.questions.growth import Comparison, Levels, crossing, findings, rows
from evaluation.questions.scaling import N_ORDERS, ScaledWindows, _fit, unit_sets

N, DIM = 120, 64
POPULATION = Population([Unit(str(number), area="VISp") for number in range(100)])
SETS = unit_sets(POPULATION, POPULATION.select("all"), seed=0)


def _scaled() -> ScaledWindows:
    shown = np.random.default_rng(0).normal(size=(N, DIM))
    shown /= np.linalg.norm(shown, axis=1, keepdims=True)
    positions = Positions(np.arange(N), np.zeros(N, np.int64))
    return ScaledWindows(np.arange(N), positions, shown, (1,), 0)


def _vectors(scaled: ScaledWindows, gain: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        one.name: gain * np.log10(size) * scaled.shown + 0.02 * rng.normal(size=(N, DIM))
        for size, of_size in SETS.items()
        for one in of_size
    }


def _planted(gain: float, baseline: float):
    scaled = _scaled()
    draws = block_draws(scaled.positions, 2.0, n_draws=200)
    level = np.full(201, baseline)
    return _fit("all", SETS, _vectors(scaled, gain), scaled, draws, level)


def _levels(nearest_caption: float) -> Levels:
    return Levels(Interval(nearest_caption, 0, 1), Interval(1.0, 1, 1))


def test_subsets_are_nested_within_an_order():
    """Ten units hold the three of the same order; all units come once; orders differ."""
    assert list(SETS) == [3, 10, 30, 100]
    assert [len(of_size) for of_size in SETS.values()] == [N_ORDERS] * 3 + [1]
    for three, ten in zip(SETS[3], SETS[10], strict=True):
        assert (three.n_units, ten.n_units) == (3, 10)
        assert (ten.mask[three.mask]).all()
    assert len({one.mask.tobytes() for one in SETS[10]}) == N_ORDERS


def test_subsets_are_of_their_group():
    """An area's subsets hold units of that area alone."""
    mask = np.arange(100) < 40
    sets = unit_sets(POPULATION, Selection("half", "units", mask), seed=0)
    assert list(sets) == [3, 10, 30, 40]
    assert not any((one.mask & ~mask).any() for of_size in sets.values() for one in of_size)


def test_a_planted_line_is_found_with_its_crossing():
    """A lead of 0.2 a decade meets 0.3 at about 32 units."""
    fit = _planted(0.2, 0.3)
    assert fit.slope.value == pytest.approx(0.2, abs=0.01)
    assert fit.slope.low > 0.18
    assert fit.test.p == pytest.approx(1 / N)
    assert fit.crossing.value == pytest.approx(10**1.5, rel=0.1)
    assert fit.crossing.low < 10**1.5 < fit.crossing.high
    assert "at 3" in crossing(fit, _levels(0.3))


def test_units_that_say_nothing_do_not_grow():
    """The interval of the slope holds 0, p is not small, and no crossing is given."""
    fit = _planted(0.0, 0.3)
    assert fit.slope.holds(0.0)
    assert fit.test.p > 0.05
    assert crossing(fit, _levels(0.3)) == "it does not grow for certain"


def test_a_crossing_far_beyond_the_units_is_not_a_number():
    """A line that would meet the baseline at thousands of units says that it does not."""
    assert "within ten times the 100 units" in crossing(_planted(0.1, 0.9), _levels(0.9))


def test_leads_that_are_not_on_the_line_are_named():
    """A lead that is there with all units alone bends off its line; a planted line does not."""
    scaled = _scaled()
    vectors = _vectors(scaled, 0.0)
    (whole,) = SETS[100]
    vectors[whole.name] = vectors[whole.name] + 0.5 * scaled.shown
    draws = block_draws(scaled.positions, 2.0, n_draws=200)
    fit = _fit("all", SETS, vectors, scaled, draws, np.full(201, 0.3))
    assert set(fit.off_line) >= {30, 100}
    (found, *_) = findings([fit], None, _levels(0.9), [])
    assert "100 units it is not on the line" in found
    assert "not on the line" not in findings([_planted(0.2, 0.3)], None, _levels(0.3), [])[0]


def test_what_no_narration_can_be_is_not_crossed():
    """A nearest caption above the true patches has no crossing in words; no growth has none."""
    levels = Levels(Interval(0.5, 0.4, 0.6), Interval(0.4, 0.3, 0.5))
    assert crossing(_planted(0.2, 0.5), levels).endswith("with all 100")
    (row,) = rows([_planted(0.0, 0.5)], levels)
    assert row["crossing"] == np.inf


def test_trained_encoders_are_compared_on_the_same_draws():
    """Equal encoders differ by exactly 0; those that lose half of the line, by half of it."""
    masked = _planted(0.1, 0.3)
    same = Comparison(masked, masked)
    assert same.difference(of_slopes=True) == same.difference(size=10) == Interval(0, 0, 0)
    better = Comparison(_planted(0.2, 0.3), masked)
    assert better.difference(of_slopes=True).value == pytest.approx(0.1, abs=0.01)
    assert better.difference(size=10).value == pytest.approx(0.1, abs=0.01)
    of_subsets = 0.1 * np.mean(np.log10([3, 10, 30]))
    assert better.difference().value == pytest.approx(of_subsets, abs=0.01)
    assert better.difference().low > 0
