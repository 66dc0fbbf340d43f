"""Areas and probes through the electrodes table, where its keys do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from contracts.population import Unit
from contracts.wire import pack, unpack
from stream_sources.recordings.nwb import NwbSource
from stream_sources.source import hello_of
from tests.support.nwb_files import random_trains, write_units

N_UNITS = 3
EIGHT = ["CA1"] * 4 + ["VISp"] * 4
PROBE = ["p"] * 8


def waveforms(peaks: list[int], n_channels: int = 8) -> Any:
    """Return mean waveforms that are largest at these channels."""
    shapes = np.zeros((len(peaks), 20, n_channels))
    for unit, peak in enumerate(peaks):
        shapes[unit, 10, :] = -0.1
        shapes[unit, 10, peak] = -1.0
    return shapes


def every_electrode(n_electrodes: int = 8) -> dict[str, Any]:
    """Return columns in which each unit lists all electrodes."""
    return {
        "electrodes": list(range(n_electrodes)) * N_UNITS,
        "electrodes_index": [n_electrodes * (unit + 1) for unit in range(N_UNITS)],
    }


def read(tmp_path: Path, columns: dict[str, Any], electrodes: dict[str, Any]) -> NwbSource:
    path = tmp_path / "file.nwb"
    write_units(path, random_trains(N_UNITS), columns=columns, electrodes=electrodes)
    return NwbSource(str(path))


def areas(source: NwbSource) -> list[str]:
    return [unit.area for unit in source.population.units]


@pytest.mark.parametrize(
    ("columns", "way"),
    [
        ({"waveform_mean": waveforms([6, 7, 1])}, "units/waveform_mean"),
        ({"max_channel": [6, 7, 1]}, "units/max_channel"),
        ({"max_channel": [6, 7, 1], "waveform_mean": waveforms([5, 6, 0])}, "units/max_channel"),
        ({"peak_channel_id": [6, 7, 1]}, "units/peak_channel_id"),
    ],
)
def test_the_peak_among_many_electrodes_decides(
    tmp_path: Path, columns: dict[str, Any], way: str
) -> None:
    """The area is that of the electrode with the largest waveform, not of the first one listed."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    source = read(tmp_path, {**every_electrode(), **columns}, electrodes)
    assert areas(source) == ["VISp", "VISp", "CA1"]
    assert source.areas_from == f"electrodes/location at {way}"
    assert {unit.probe for unit in source.population.units} == {"p"}
    assert source.notes == ()


@pytest.mark.parametrize("columns", [{}, {"waveform_mean": waveforms([0, 1, 2], 5)}])
def test_without_a_peak_many_electrodes_give_no_area(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    """Electrodes of two areas, and nothing that tells them apart: no area, and a note."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    source = read(tmp_path, {**every_electrode(), **columns}, electrodes)
    assert areas(source) == [""] * 3
    assert {unit.probe for unit in source.population.units} == {"p"}
    assert "3 units list electrodes of several areas and no peak" in source.notes[0]


def test_a_peak_and_a_waveform_of_two_areas_give_none(tmp_path: Path) -> None:
    """Where two sources contradict each other neither is used."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    columns = {"peak_channel_id": [6, 7, 1], "waveform_mean": waveforms([0, 7, 1])}
    source = read(tmp_path, {**every_electrode(), **columns}, electrodes)
    assert areas(source) == ["", "VISp", "CA1"]
    assert "the peak of 1 units and their mean waveform are of two areas" in source.notes


def test_the_units_electrodes_replace_peaks_that_match_nothing(tmp_path: Path) -> None:
    """Ids of another numbering are noted, and the electrodes of each unit decide."""
    electrodes = {"id": [100, 101, 102], "location": ["A", "B", "C"], "group_name": ["p"] * 3}
    columns = {"peak_channel_id": [0, 1, 2], "electrodes": [2, 1, 0], "electrodes_index": [1, 2, 3]}
    source = read(tmp_path, columns, electrodes)
    assert areas(source) == ["C", "B", "A"]
    assert source.areas_from == "electrodes/location at units/electrodes"
    assert source.notes == ("units/peak_channel_id is no electrode's id in 3 of 3 units",)


def test_peaks_outside_a_units_electrodes_are_not_used(tmp_path: Path) -> None:
    """An id that exists, but not among the unit's own electrodes, is of another numbering."""
    electrodes = {"id": [0, 1, 2], "location": ["A", "B", "C"], "group_name": ["p"] * 3}
    columns = {"peak_channel_id": [0, 0, 0], "electrodes": [2, 1, 0], "electrodes_index": [1, 2, 3]}
    source = read(tmp_path, columns, electrodes)
    assert areas(source) == ["C", "B", "A"]
    assert "is not among the unit's electrodes in 2 of 3 units" in source.notes[0]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({}, ["", "", "C"]),
        ({"group_name": ["q", "p", "p"]}, ["D", "B", "C"]),
        ({"electrodes": [0, 3, 2], "electrodes_index": [1, 2, 3]}, ["A", "D", "C"]),
    ],
)
def test_ids_that_several_electrodes_have_need_a_probe(
    tmp_path: Path, columns: dict[str, Any], found: list[str]
) -> None:
    """Ids that begin anew on each probe are told apart by the unit's probe or electrodes."""
    electrodes = {
        "id": [0, 1, 2, 1, 0],
        "location": ["A", "B", "C", "D", "E"],
        "group_name": ["p", "p", "p", "q", "q"],
    }
    peaks = {"peak_channel_id": [1, 1, 2] if "electrodes" not in columns else [0, 1, 2]}
    source = read(tmp_path, {**peaks, **columns}, electrodes)
    assert areas(source) == found
    if not columns:
        assert "is the id of several electrodes in 2 of 3 units" in source.notes[0]


def test_a_peak_that_may_be_an_id_or_a_row_is_in_doubt(tmp_path: Path) -> None:
    """With ids from 1 a ``max_channel`` leads to two areas; the waveforms decide, or nothing."""
    electrodes = {"id": range(1, 9), "location": EIGHT, "group_name": PROBE}
    columns = {"max_channel": [4, 4, 4]}
    assert areas(read(tmp_path, columns, electrodes)) == [""] * 3
    columns["waveform_mean"] = waveforms([4, 4, 4])
    source = read(tmp_path, columns, electrodes)
    assert areas(source) == ["VISp"] * 3


def test_a_peak_between_two_electrodes_is_not_used(tmp_path: Path) -> None:
    """A fraction is neither an id nor a row nor a place among the unit's electrodes."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    source = read(tmp_path, {**every_electrode(), "max_channel": [1.5, 2, 3]}, electrodes)
    assert areas(source) == [""] * 3
    assert "units/max_channel fits the electrodes in no way or in several; not used" in source.notes


def test_waveforms_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    """A type that NumPy does not have is noted, and the peak is not known."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    path = tmp_path / "file.nwb"
    write_units(path, random_trains(N_UNITS), columns=every_electrode(), electrodes=electrodes)
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((N_UNITS, 20, 8))
        h5py.h5d.create(file["units"].id, b"waveform_mean", h5py.h5t.UNIX_D32LE, space)
    source = NwbSource(str(path))
    assert areas(source) == [""] * 3
    assert "left out: units/waveform_mean has a type that cannot be read" in source.notes[0]


@pytest.mark.parametrize("null", ["unknown", "Unknown", "nan", ""])
def test_a_column_without_labels_does_not_hide_another(tmp_path: Path, null: str) -> None:
    """Where ``location`` was not filled in, a column of another name is read."""
    electrodes = {
        "id": range(3),
        "location": [null] * 3,
        "brain_area": ["VISp", "VISl", "CA1"],
        "group_name": ["p"] * 3,
    }
    source = read(tmp_path, {"electrodes": range(3)}, electrodes)
    assert areas(source) == ["VISp", "VISl", "CA1"]
    assert source.areas_from == "electrodes/brain_area at units/electrodes"


@pytest.mark.parametrize(
    ("location", "brain_area", "found"),
    [
        (["VISp", "unknown", "CA1"], ["VISp", "VISl", "CA1"], ["VISp", "VISl", "CA1"]),
        (["VISp", "unknown", "unknown"], ["unknown", "VISl", ""], ["VISp", "VISl", ""]),
        (["CA1", "unknown", "CA3"], ["HPC", "TH", "HPC"], ["HPC", "TH", "HPC"]),
        (["CA1", "", "CA3"], ["HPC", "TH", "HPC"], ["CA1", "", "CA3"]),
    ],
)
def test_columns_complete_each_other_unless_they_disagree(
    tmp_path: Path, location: list[str], brain_area: list[str], found: list[str]
) -> None:
    """Two levels of an atlas are not mixed; the column with fewer unknown labels is used."""
    columns = {"location": location, "brain_area": brain_area}
    source = read(tmp_path, columns, {"id": [0], "location": ["x"], "group_name": ["p"]})
    assert areas(source) == found


def test_unknown_areas_of_units_come_through_their_electrodes(tmp_path: Path) -> None:
    """An area "unknown" is taken from the electrodes; an area that is stated as none is not."""
    electrodes = {"id": range(3), "location": ["VISp", "VISl", "CA1"], "group_name": ["p"] * 3}
    columns = {"area": ["unknown", "None", "DG"], "electrodes": range(3)}
    source = read(tmp_path, columns, electrodes)
    assert areas(source) == ["VISp", "", "DG"]
    assert source.areas_from == "units/area, electrodes/location at units/electrodes"


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"electrodes": [0, 1, 9], "electrodes_index": [1, 2, 3]}, "past the end of the 8"),
        ({"electrodes": [0, 1], "electrodes_index": [1, 2, 3]}, "which its index does not fit"),
        ({"electrodes": [0, 1, 2], "electrodes_index": [2, 1, 3]}, "which its index does not fit"),
        ({"electrodes": [0, 1, 2], "electrodes_index": [1, np.nan, 3]}, "its index does not fit"),
        ({"electrodes": [0, 1, 2], "electrodes_index": [1.5, 2, 3]}, "its index does not fit"),
        ({"electrodes": [0, 1, 2], "electrodes_index": [1, 3]}, "has 2 values, the table has 3"),
        ({"electrodes": [0, 1]}, "units/electrodes has 2 values, the table has 3"),
        ({"electrodes": ["a", "b", "c"]}, "units/electrodes must hold numbers"),
    ],
)
def test_electrodes_that_do_not_fit_are_noted(
    tmp_path: Path, columns: dict[str, Any], text: str
) -> None:
    """A region that leads nowhere gives no area to the units concerned."""
    electrodes = {"id": range(8), "location": EIGHT, "group_name": PROBE}
    source = read(tmp_path, columns, electrodes)
    assert areas(source)[2] == ""
    assert any(text in note for note in source.notes)


def test_a_reference_to_a_deleted_group_is_no_probe(tmp_path: Path) -> None:
    """A unit with a dangling object reference has no probe, and a note is made."""
    path = write_units(tmp_path / "file.nwb", random_trains(N_UNITS))
    with h5py.File(path, "a") as file:
        kept, gone = (file.create_group(f"general/ephys/{name}") for name in ("probeA", "gone"))
        references = [kept.ref, gone.ref, h5py.Reference()]
        file["units"].create_dataset("electrode_group", data=references, dtype=h5py.ref_dtype)
        del file["general/ephys/gone"]
    source = NwbSource(str(path))
    assert source.population.units == (Unit("0", "probeA"), Unit("1"), Unit("2"))
    assert "refers to groups that are not in the file in 1 rows" in source.notes[0]


def test_a_region_names_its_own_table(tmp_path: Path) -> None:
    """The ``table`` attribute of ``electrodes`` leads to the table, wherever it is."""
    path = tmp_path / "file.nwb"
    write_units(
        path,
        random_trains(N_UNITS),
        columns={"electrodes": range(3)},
        electrodes={"id": range(3), "location": ["x"] * 3, "group_name": ["p"] * 3},
    )
    with h5py.File(path, "a") as file:
        table = file.create_group("processing/other")
        table["id"], table["location"] = range(3), ["VISp", "VISl", "CA1"]
        file["units/electrodes"].attrs["table"] = table.ref
    assert areas(NwbSource(str(path))) == ["VISp", "VISl", "CA1"]


def test_an_electrodes_table_without_ids_is_read(tmp_path: Path) -> None:
    """The units name rows; only peak ids need ids."""
    electrodes = {"location": ["VISp", "VISl", "CA1"], "group_name": ["p"] * 3}
    assert areas(read(tmp_path, {"electrodes": range(3)}, electrodes)) == ["VISp", "VISl", "CA1"]


def test_positions_are_those_of_the_peak_and_say_where_they_are_from(tmp_path: Path) -> None:
    """Channel and position of the peak electrode; unknown where it is, or the number, is not."""
    electrodes = {
        "id": range(100, 108),
        "location": EIGHT,
        "group_name": PROBE,
        "local_index": [*range(7), -1],
        "rel_x": [43.0] * 8,
        "rel_y": [20.0 * row for row in range(6)] + [np.nan, np.inf],
    }
    columns = {**every_electrode(), "peak_channel_id": [101, 107, 999]}
    source = read(tmp_path, columns, electrodes)
    assert [position(unit) for unit in source.population.units] == [
        (1, None, 43.0, 20.0),
        (None, None, 43.0, None),
        (None, None, None, None),
    ]
    at = "at units/peak_channel_id"
    assert source.table == (
        f"units table of the NWB file; area: electrodes/location {at}; probe: "
        f"electrodes/group_name {at}; channel: electrodes/local_index {at}; "
        f"x_um: electrodes/rel_x {at}; y_um: electrodes/rel_y {at}"
    )


def test_peaks_that_can_be_read_in_two_ways_give_areas_and_no_position(tmp_path: Path) -> None:
    """Ids and rows lead to other electrodes of the same areas: the area is known, no more."""
    electrodes = {
        "id": [1, 0, 3, 2, 5, 4, 7, 6],
        "location": EIGHT,
        "group_name": PROBE,
        "rel_y": np.arange(8.0),
    }
    source = read(tmp_path, {**every_electrode(), "max_channel": [6, 7, 1]}, electrodes)
    assert areas(source) == ["VISp", "VISp", "CA1"]
    assert {unit.y_um for unit in source.population.units} == {None}
    assert "y_um" not in source.table


@pytest.mark.parametrize(
    ("name", "description", "depths"),
    [
        ("depth", "depth of the unit", [None] * 3),
        ("depth", "depth below the pia in microns", [812.5, None, 3.0]),
        ("depth_um", "", [812.5, None, 3.0]),
    ],
)
def test_depth_needs_a_unit(
    tmp_path: Path, name: str, description: str, depths: list[float | None]
) -> None:
    """A number is a depth in micrometers only where the file says so."""
    path = tmp_path / "file.nwb"
    write_units(path, random_trains(N_UNITS), columns={name: [812.5, np.nan, 3.0]})
    with h5py.File(path, "a") as file:
        file[f"units/{name}"].attrs["description"] = description
    source = NwbSource(str(path))
    assert [unit.depth_um for unit in source.population.units] == depths
    assert (f"depth_um: units/{name}" in source.table) == (depths[0] is not None)


@pytest.mark.parametrize(
    ("texts", "start"),
    [
        ({}, ""),
        ({"session_start_time": "2019-01-19T00:54:18-08:00"}, "2019-01-19T08:54:18Z"),
        ({"session_start_time": "2019-01-19T00:54:18"}, ""),
        ({"session_start_time": "yesterday"}, ""),
        (
            {
                "session_start_time": "2019-01-19T00:54:18-08:00",
                "timestamps_reference_time": "2019-01-19T09:00:00.25+00:00",
            },
            "2019-01-19T09:00:00.250000Z",
        ),
    ],
)
def test_session_starts_where_the_files_times_are_zero(
    tmp_path: Path, texts: dict[str, str], start: str
) -> None:
    """In UTC; a time without a zone is no time."""
    path = write_units(tmp_path / "file.nwb", random_trains(N_UNITS))
    with h5py.File(path, "a") as file:
        for name, text in texts.items():
            file[name] = text
    hello = hello_of(NwbSource(str(path)))
    assert hello.session_start_utc == start
    assert unpack(pack(hello)) == hello
    assert hello.table == "units table of the NWB file"


def position(unit: Unit) -> tuple[float | None, ...]:
    return (unit.channel, unit.depth_um, unit.x_um, unit.y_um)
