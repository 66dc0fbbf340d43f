"""Which units are kept, and why others are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from encoder_training.calibration.curation import OfflineSpikes, UnitQuality, assess_units
from encoder_training.calibration.options import CurationRules

RATE_HZ = 30_000.0
SECONDS = 10.0


def regular(n: int, first: int = 1000) -> NDArray[np.int64]:
    """Return a train of equal intervals over the ten seconds."""
    return first + np.arange(n) * int(SECONDS * RATE_HZ / (n + 1))


def assess(*trains: NDArray[np.int64], snr: float = 10.0, **rules: float) -> list[UnitQuality]:
    """Assess trains of one recording."""
    sample = np.concatenate(trains)
    unit = np.repeat(np.arange(len(trains)), [len(train) for train in trains])
    order = np.argsort(sample, kind="stable")
    names = tuple(f"u{row}" for row in range(len(trains)))
    spikes = OfflineSpikes(names, sample[order], unit[order])
    return assess_units(
        spikes, [snr] * len(trains), CurationRules(**rules), rate_hz=RATE_HZ, duration_s=SECONDS
    )


def test_a_good_unit_is_kept():
    """It passes all rules, and its figures are those of its train."""
    (unit,) = assess(regular(50))
    assert unit.is_kept
    assert (unit.n_spikes, unit.rate_hz, unit.violations) == (50, 5.0, 0.0)


@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        (assess(regular(1))[0], "rate 0.1 Hz is below 0.2 Hz; 1 spikes are too few"),
        (assess(regular(19))[0], "19 spikes are too few for a template, which takes 20"),
        (assess(regular(50), snr=3.9)[0], "SNR 3.9 is below 4"),
        (assess(regular(50), snr=float("nan"))[0], "SNR nan is below 4"),
    ],
)
def test_each_rule_gives_its_reason(unit, reason):
    """With the figure and the limit."""
    assert reason in unit.reason
    assert not unit.is_kept


def test_refractory_violations_are_counted():
    """Pairs of spikes 1 ms apart: half of the intervals are too short."""
    train = np.sort(np.concatenate([regular(40), regular(40) + 30]))
    (unit,) = assess(train)
    assert unit.violations == pytest.approx(40 / 79)
    assert "50.6% of its intervals are below 1.5 ms" in unit.reason
    assert assess(train, max_violations=0.6)[0].is_kept


def test_a_unit_found_twice_is_kept_once():
    """The one with fewer spikes goes, and the other one stays, whatever their order."""
    whole, part = regular(100), regular(100)[::2] + 5
    for trains, at in (((whole, part), 1), ((part, whole), 0)):
        units = assess(*trains)
        assert units[at].shared == 1.0
        assert f"also spikes of unit u{1 - at}" in units[at].reason
        assert units[1 - at].is_kept


def test_of_two_equal_units_one_is_kept():
    """Neither has more spikes; the first stays."""
    first, second = assess(regular(60), regular(60))
    assert (first.is_kept, second.is_kept) == (True, False)


def test_units_that_share_few_spikes_are_both_kept():
    """One common spike in sixty is chance."""
    units = assess(regular(60), np.sort(np.append(regular(59, first=2500), 1000)))
    assert all(unit.is_kept for unit in units)
    assert units[1].shared == pytest.approx(1 / 60)
