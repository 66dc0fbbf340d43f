"""``--units`` and ``--units-from``."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import RecordingError, UserError
from contracts.population import Unit
from stream_sources.recordings.unit_filter import UnitTable, choose_units, parse_units

UNITS = (
    Unit("1", "A", "VISp", "PV", "good"),
    Unit("2", "A", "VISl", "", "good"),
    Unit("3", "B", "", "VIP", "good"),
    Unit("4", "B", "VISp", "", "noise"),
    Unit("1", "B", "CA1", "", "good"),
)

METRICS = {
    "amplitude_cutoff": np.array([0.1, 0.2, 0.0, 0.0, np.nan]),
    "presence_ratio": np.array([0.95, 1.0, 1.0, 1.0, 1.0]),
    "isi_violations": np.array([0.5, 0.0, 0.0, 0.0, 0.0]),
    "valid_data": np.array([1.0, 1.0, 1.0, 1.0, 1.0]),
}

TABLE = UnitTable(UNITS, METRICS)


@pytest.mark.parametrize(
    ("units", "rows"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("good", [0, 1, 2, 4]),
        ("allen", [0]),
        ("area:VISp", [0, 3]),
        ("area:VISp|CA1", [0, 3, 4]),
        ("probe:B", [2, 3, 4]),
        ("cell_type:PV|VIP", [0, 2]),
        ("ids:1|4", [0, 3, 4]),
        ("good, area:VISp", [0]),
        ("good,probe:B,ids:1|3", [2, 4]),
        ("ids:1,4", [0, 3, 4]),
        ("ids: 1, 3 ,probe:B,good", [2, 4]),
    ],
)
def test_a_filter_keeps_the_units_that_fulfil_every_condition(units: str, rows: list[int]) -> None:
    """Conditions are joined by and, their values by or."""
    assert choose_units(TABLE, units, None, path="x").tolist() == rows


@pytest.mark.parametrize("metric", ["amplitude_cutoff", "presence_ratio", "isi_violations"])
def test_allen_bounds_are_inclusive(metric: str) -> None:
    """A unit exactly on a bound passes; the next number beyond does not."""
    beyond = {name: values.copy() for name, values in METRICS.items()}
    step = -1 if metric == "presence_ratio" else 1
    beyond[metric][0] = np.nextafter(beyond[metric][0], step * np.inf)
    with pytest.raises(RecordingError, match="allen holds for 0"):
        choose_units(UnitTable(UNITS, beyond), "allen", None, path="x")


def test_allen_leaves_out_units_on_broken_channels() -> None:
    """A peak channel without valid data disqualifies a unit."""
    metrics = {**METRICS, "valid_data": np.zeros(5)}
    with pytest.raises(RecordingError, match="no unit of 5"):
        choose_units(UnitTable(UNITS, metrics), "allen", None, path="x")


def test_missing_columns_are_named() -> None:
    """The allen filter says which columns it lacks, all at once."""
    table = UnitTable((Unit("1"),), {"presence_ratio": np.ones(1)})
    expected = "lacks: amplitude_cutoff, area, isi_violations, quality, valid_data"
    with pytest.raises(RecordingError, match=expected):
        choose_units(table, "allen", None, path="x")


def test_nothing_left_says_what_failed_and_what_there_is() -> None:
    """The error holds the filter, the number of units, and the choices."""
    with pytest.raises(RecordingError) as caught:
        choose_units(TABLE, "good,area:VISx", None, path="x.nwb")
    assert str(caught.value) == (
        "x.nwb: no unit of 5 passes --units 'good,area:VISx': good holds for 4; "
        "area:VISx holds for 0 (there are VISp, VISl, CA1)"
    )


def test_unknown_ids_are_named() -> None:
    """An id that the recording lacks is an error, even beside others that it has."""
    with pytest.raises(RecordingError, match="not in the recording: unit_id 99;"):
        choose_units(TABLE, "ids:1|99", None, path="x")


@pytest.mark.parametrize("text", ["", "god", "area:", "area:VISp|", "good:1", "VISp", "good,,all"])
def test_a_condition_that_is_none_is_refused(text: str) -> None:
    """The message lists what can be written."""
    with pytest.raises(UserError, match="--units takes all, good, allen, area:NAME"):
        parse_units(text)


def test_a_slip_of_the_pen_is_guessed() -> None:
    """The nearest condition is suggested."""
    with pytest.raises(UserError, match=r"Did you mean cell_type\?"):
        parse_units("celltype:PV")


def test_only_keeps_the_order_of_the_bundle() -> None:
    """Units come in the order asked for, told apart by probe."""
    only = [("B", "1"), ("A", "2"), ("A", "1")]
    assert choose_units(TABLE, "all", only, path="x").tolist() == [4, 1, 0]


def test_units_of_a_bundle_that_are_missing_are_named() -> None:
    """Missing units are counted and named with their probe, by which 1 is not A/1."""
    with pytest.raises(
        RecordingError, match=r"2 of the 3 units .* unit_id A/8, 1\. Use the bundle"
    ):
        choose_units(TABLE, "all", [("A", "1"), ("A", "8"), ("", "1")], path="x")
