"""NWB files, sound and broken."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import stream_sources.recordings.nwb_spikes as spikes_module
from contracts.errors import MisuseError, RecordingError
from contracts.population import Unit
from daemon.service.logs import fields_of
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.recording import describe
from tests.support import spike_lists
from tests.support.nwb_files import random_trains, write_presentations, write_units


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where to write a file."""
    return tmp_path / "file.nwb"


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": (16,)},
        {"chunks": (16,), "compression": "gzip", "shuffle": True},
        {"dtype": ">f8"},
        {"dtype": "f4"},
    ],
)
@pytest.mark.parametrize("spool", [False, True])
def test_every_spike_is_sent_once(
    path: Path, storage: dict[str, Any], spool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the file keeps them, what is sent is what it holds, to the last spike."""
    if spool:
        monkeypatch.setattr(spikes_module, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(spikes_module, "PIECE_SPIKES", 7)
    trains = random_trains(7, start_s=-0.5)
    if storage.get("dtype") == "f4":
        trains = [train.astype(np.float32).astype(np.float64) for train in trains]
    source = NwbSource(str(write_units(path, trains, **storage)))
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(trains)
    assert source.n_spikes == sum(map(len, trains))


@pytest.mark.parametrize("storage", [{}, {"chunks": (16,)}])
@pytest.mark.parametrize("gap", [0, 1 << 17])
def test_chosen_units_send_their_own_spikes_in_the_order_asked_for(
    path: Path, storage: dict[str, Any], gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With units in another order than the file's, each row still has its own spikes."""
    monkeypatch.setattr(spikes_module, "READ_THROUGH_SPIKES", gap)
    monkeypatch.setattr(spikes_module, "PIECE_SPIKES", 11)
    trains = random_trains(6)
    write_units(path, trains, **storage)
    rows = [4, 2, 0, 1]  # 1 is empty and shares its place in the file with 2
    source = NwbSource(str(path), only=[("", str(row)) for row in rows])
    expected = spike_lists.of_trains([trains[row] for row in rows])
    assert spike_lists.of_batches(source.batches()) == expected


def test_the_span_runs_from_a_whole_batch_to_just_past_the_last_spike(path: Path) -> None:
    """The start is the batch of the first spike; the stop is 1 ns past the last."""
    write_units(path, [np.array([-0.013, 0.5]), np.array([0.123456789])])
    assert NwbSource(str(path)).span_ns == (-20_000_000, 500_000_001)


def test_a_part_is_half_open(path: Path) -> None:
    """A spike on the start is sent and one on the stop is not."""
    write_units(path, [np.array([0.5, 1.0, 1.5, 2.0]), np.array([1.25])])
    source = NwbSource(str(path), start_s=1.0, duration_s=0.5)
    assert source.span_ns == (10**9, 15 * 10**8)
    assert spike_lists.of_batches(source.batches()) == [(10**9, 0), (1_250_000_000, 1)]
    assert source.n_spikes == 2


def test_parts_add_up_to_the_whole(path: Path) -> None:
    """Two parts that touch hold every spike once."""
    trains = random_trains(4)
    write_units(path, trains)
    first = NwbSource(str(path), start_s=0.0, duration_s=1.37)
    second = NwbSource(str(path), start_s=1.37)
    both = spike_lists.of_batches([*first.batches(), *second.batches()])
    assert both == spike_lists.of_trains(trains)


def test_a_silent_part_is_sent_as_empty_batches(path: Path) -> None:
    """Silence is said, not skipped."""
    write_units(path, [np.array([0.0, 9.0])])
    batches = list(NwbSource(str(path), start_s=3.0, duration_s=1.0).batches())
    assert len(batches) == 100
    assert not any(batch.n_spikes for batch in batches)


def test_the_duration_counts_from_the_batch_of_the_first_spike(path: Path) -> None:
    """Without a start the first spike's time is rounded down to a whole batch."""
    write_units(path, [np.array([0.5037, 0.9])])
    assert NwbSource(str(path), duration_s=0.1).span_ns == (500_000_000, 600_000_000)


def test_the_shortest_wish_is_a_nanosecond(path: Path) -> None:
    """What is more than nothing is played and not mistaken for a start that is too late."""
    write_units(path, [np.array([0.5])])
    assert NwbSource(str(path), duration_s=1e-12).span_ns == (500_000_000, 500_000_001)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"batch_ms": 0.0}, "batch_ms must be from 0.001 to 1000 ms, got 0.0"),
        ({"batch_ms": 1001.0}, "got 1001.0"),
        ({"batch_ms": float("nan")}, "got nan"),
        ({"stream": "a b"}, "stream must be 1 to 64 letters"),
        ({"duration_s": 0.0}, r"--seconds \(duration_s\) must be more than 0 s, got 0$"),
        ({"duration_s": float("nan")}, r"--seconds \(duration_s\) must be .* got nan"),
        ({"start_s": float("inf")}, r"--start \(start_s\) must be a time .* got inf"),
        (
            {"start_s": 1e6},
            r"--start \(start_s\) must come before the last spike at \d\.\d{3} s, got 1000000.0",
        ),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(path: Path, wish: dict[str, Any], text: str) -> None:
    """Settings out of range are said before anything is sent."""
    write_units(path, random_trains())
    with pytest.raises(RecordingError, match=text):
        NwbSource(str(path), **wish)


def test_batches_of_a_closed_source_are_our_mistake(path: Path) -> None:
    """Playing after closing is misuse, not bad data."""
    source = NwbSource(str(write_units(path, random_trains())))
    source.close()
    with pytest.raises(MisuseError, match="nwb:test is closed"):
        source.batches()


# What the file says of its units


def test_areas_come_through_the_peak_channel(path: Path) -> None:
    """Without a column of their own, area and probe are those of the peak channel."""
    electrodes = {
        "id": [850, 852, 854],
        "location": ["VISp", "None", "LGd-sh"],
        "group_name": ["probeA", "probeA", "probeC"],
        "valid_data": [True, True, False],
    }
    columns = {"peak_channel_id": [854, 850, 852, 999], "quality": ["good"] * 4}
    write_units(path, random_trains(4), columns=columns, electrodes=electrodes)
    assert NwbSource(str(path)).population.units == (
        Unit("0", "probeC", "LGd-sh", "", "good"),
        Unit("1", "probeA", "VISp", "", "good"),
        Unit("2", "probeA", "", "", "good"),
        Unit("3", "", "", "", "good"),
    )


def test_areas_come_through_the_ragged_electrodes_column(path: Path) -> None:
    """What a unit's electrodes share is its own; a unit without electrodes has no area."""
    columns = {"electrodes": [2, 1, 0, 1, 0], "electrodes_index": [2, 2, 3, 5]}
    electrodes = {"id": [7, 8, 9], "location": ["CA1", "DG", "DG"], "group_name": ["p"] * 3}
    write_units(path, random_trains(4), columns=columns, electrodes=electrodes)
    source = NwbSource(str(path))
    assert [(unit.probe, unit.area) for unit in source.population.units] == [
        ("p", "DG"),
        ("", ""),
        ("p", "CA1"),
        ("p", ""),
    ]
    assert source.areas_from == "electrodes/location at units/electrodes"
    assert any("1 units list electrodes of several areas" in note for note in source.notes)


@pytest.mark.parametrize("column", ["location", "brain_area", "ecephys_structure_acronym"])
def test_a_column_of_the_units_table_decides_the_area(path: Path, column: str) -> None:
    """The units' own column comes before the electrodes, and null texts are empty."""
    electrodes = {"id": [1], "location": ["wrong"], "group_name": ["probeB"]}
    columns = {column: ["VISp", "nan", "grey"], "peak_channel_id": [1, 1, 1]}
    write_units(path, random_trains(3), columns=columns, electrodes=electrodes)
    assert [unit.area for unit in NwbSource(str(path)).population.units] == ["VISp", "", "grey"]


def test_a_column_without_labels_gives_way(path: Path) -> None:
    """A location column of empty texts does not hide the electrodes' locations."""
    electrodes = {"id": [1], "location": ["VISl"], "group_name": ["probeB"]}
    columns = {"location": ["", ""], "peak_channel_id": [1, 1]}
    write_units(path, random_trains(2), columns=columns, electrodes=electrodes)
    assert {unit.area for unit in NwbSource(str(path)).population.units} == {"VISl"}


def test_probes_come_from_references_to_electrode_groups(path: Path) -> None:
    """An electrode_group column holds references; their names are the probes."""
    write_units(path, random_trains(2))
    with h5py.File(path, "a") as file:
        group = file.create_group("general/extracellular_ephys/probeF")
        file["units"].create_dataset("electrode_group", data=[group.ref] * 2, dtype=h5py.ref_dtype)
    assert {unit.probe for unit in NwbSource(str(path)).population.units} == {"probeF"}


def test_ids_are_unique_within_a_probe_only(path: Path) -> None:
    """A units table has unique ids; the population tells units by probe and id."""
    write_units(path, random_trains(2), ids=[951, 952], columns={"cell_type": ["PV", "None"]})
    units = NwbSource(str(path)).population.units
    assert [(unit.unit_id, unit.cell_type) for unit in units] == [("951", "PV"), ("952", "")]


# What was on the screen


def test_marks_of_all_tables_are_merged_in_order(path: Path) -> None:
    """Tables are merged by start; frames are whole numbers, -1 for a blank, None where unknown."""
    write_units(path, random_trains())
    write_presentations(
        path,
        "natural_scenes_presentations",
        start_time=[1.0, 0.5, 2.0],
        stop_time=[1.25, 0.75, 2.25],
        frame=[-1.0, 7.0, np.nan],
        id=[10, 11, 12],
    )
    write_presentations(
        path,
        "flashes_presentations",
        start_time=[0.75],
        stop_time=[1.0],
        id=[3],
        caption=["A grey screen."],
    )
    for other in ("invalid_times", "epochs", "trials"):
        write_presentations(path, other, start_time=[0.0], stop_time=[9.0], id=[0])
    marks = list(NwbSource(str(path)).marks())
    assert [(m.stimulus, m.presentation_id, m.start_ns, m.frame, m.caption) for m in marks] == [
        ("natural_scenes", 11, 500_000_000, 7, None),
        ("flashes", 3, 750_000_000, None, "A grey screen."),
        ("natural_scenes", 10, 1_000_000_000, -1, None),
        ("natural_scenes", 12, 2_000_000_000, None, None),
    ]
    assert marks[0].stop_ns == 750_000_000


def test_marks_of_a_part_are_those_that_meet_it(path: Path) -> None:
    """What was on the screen at the start of the part belongs to it."""
    write_units(path, random_trains())
    times = np.arange(6) * 0.5
    write_presentations(
        path, "m_presentations", start_time=times, stop_time=times + 0.5, id=range(6)
    )
    marks = NwbSource(str(path), start_s=0.75, duration_s=0.75).marks()
    assert [mark.presentation_id for mark in marks] == [1, 2]


def test_marks_of_a_length_without_a_start_count_from_the_first_spike(path: Path) -> None:
    """A length alone keeps the presentations of the part that is played, and those before it."""
    write_units(path, [np.array([1.0, 1.5, 2.9])])
    times = np.arange(6) * 0.5
    write_presentations(
        path, "m_presentations", start_time=times, stop_time=times + 0.5, id=range(6)
    )
    marks = NwbSource(str(path), duration_s=0.75).marks()
    assert [mark.presentation_id for mark in marks] == [0, 1, 2, 3]


def test_presentations_without_times_are_left_out_and_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row without a start is no mark, and the log counts it."""
    write_units(path, random_trains())
    write_presentations(
        path, "m_presentations", start_time=[np.nan, 1.0], stop_time=[1.0, 2.0], id=[0, 1]
    )
    assert [mark.presentation_id for mark in NwbSource(str(path)).marks()] == [1]
    assert fields_of(caplog.records[0]) == {"stimulus": "m", "reason": "no_times", "n": 1}


def test_a_table_of_another_name_is_read_when_it_is_named(path: Path) -> None:
    """A laboratory's own table counts once it is asked for; NAME_presentations goes before it."""
    write_units(path, random_trains())
    for name, start in (("my_movie", 1.0), ("trials", 2.0), ("m", 3.0), ("m_presentations", 4.0)):
        write_presentations(path, name, start_time=[start], stop_time=[start + 1], frame=[0.0])
    found = NwbSource(str(path), tables=["my_movie", "m", "not_there"]).presentations
    assert found.names == ("m", "my_movie")
    assert found.start_ns.tolist() == [1_000_000_000, 4_000_000_000]
    assert NwbSource(str(path)).presentations.names == ("m",)


def test_blocks_of_a_stimulus_are_read(path: Path) -> None:
    """``stimulus_block`` comes along where a table has it, and is no number elsewhere."""
    write_units(path, random_trains())
    table = {"start_time": [1.0, 2.0], "stop_time": [2.0, 3.0]}
    write_presentations(path, "a_presentations", **table, stimulus_block=[4.0, 12.0])
    write_presentations(path, "b_presentations", start_time=[3.0], stop_time=[4.0])
    block = NwbSource(str(path)).presentations.block
    assert block[:2].tolist() == [4.0, 12.0]
    assert np.isnan(block[2])


def test_invalid_times_are_read_in_order(path: Path) -> None:
    """Stretches that are not to be analysed come with the recording; an open end has none."""
    write_units(path, random_trains())
    assert NwbSource(str(path)).invalid_ns.shape == (0, 2)
    write_presentations(
        path, "invalid_times", start_time=[5.0, 1.0, np.nan], stop_time=[np.nan, 2.0, 0.5]
    )
    found = NwbSource(str(path)).invalid_ns
    assert found[1:, 0].tolist() == [1_000_000_000, 5_000_000_000]
    assert found[:2, 1].tolist() == [500_000_000, 2_000_000_000]
    assert found[0, 0] < -(10**18)
    assert found[2, 1] > 10**18


def test_a_description_counts_what_there_is(path: Path) -> None:
    """The summary holds the counts that ``inspect`` prints."""
    columns = {"area": ["VISp", "VISp", "CA1"], "quality": ["good", "noise", "good"]}
    write_units(path, [np.array([0.5]), np.array([]), np.array([1.0, 2.0])], columns=columns)
    write_presentations(path, "m_presentations", start_time=[0.0], stop_time=[1.0], id=[0])
    summary = describe(NwbSource(str(path)))
    assert (summary.label, summary.identifier) == ("nwb:test", "test")
    assert (summary.n_units, summary.n_spikes) == (3, 3)
    assert summary.span_s == (0.5, 2.000000001)
    assert summary.areas == {"VISp": 2, "CA1": 1}
    assert summary.qualities == {"good": 2, "noise": 1}
    assert summary.presentations == {"m": 1}


# Files that cannot be replayed


def overwrite(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


def remove(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def as_nwb1(file: h5py.File) -> None:
    del file.attrs["nwb_version"]
    del file["units"]
    file["nwb_version"] = "NWB-1.0.6"
    file.create_group("processing")


def with_old_attribute(file: h5py.File) -> None:
    file.attrs["nwb_version"] = "1.0.5_beta"


# Three units of 2, 2 and 3 spikes.
SOUND = [np.array([0.1, 0.2]), np.array([0.1, 0.3]), np.array([0.5, 0.6, 0.7])]
FLAT = [0.1, 0.2, 0.1, 0.3, 0.5, 0.6, 0.7]
INDEX = "units/spike_times_index"
TIMES = "units/spike_times"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (as_nwb1, r"NWB 1\.x file \(nwb_version 'NWB-1.0.6'\).* Convert it"),
        (with_old_attribute, "NWB 1.x file"),
        (remove("units"), "no units table, so no sorted spikes; it has identifier"),
        (remove(TIMES), "has no spike_times;"),
        (remove(INDEX), "has no spike_times_index;"),
        (overwrite(INDEX, [2, 4]), "one entry for each unit, got 2 entries and 3 ids"),
        (overwrite(INDEX, [4, 2, 7]), "must not decrease; it does at 1 rows: row 1"),
        (overwrite(INDEX, [-1, 4, 7]), "must not decrease"),
        (overwrite(INDEX, [2, 4, 99]), "past the end of spike_times: 1 entries, up to 99"),
        (overwrite(INDEX, [2.0, 4.0, 7.0]), "whole numbers, got float64 and float64"),
        (overwrite(TIMES, [b"a"] * 7), "spike_times must be numbers in seconds"),
        (overwrite(TIMES, [0.1, 0.2, 0.3, 0.1, *FLAT[4:]]), "they do in 1 units: unit_id 1"),
        (overwrite(TIMES, [*FLAT[:5], np.nan, 0.7]), "finite .* 1 units: unit_id 2"),
        (overwrite(TIMES, [np.nan, *FLAT[1:]]), "finite .* 1 units: unit_id 0"),
        (overwrite(TIMES, [*FLAT[:6], np.inf]), "finite .* 1 units: unit_id 2"),
        (overwrite(TIMES, [-np.inf, *FLAT[1:]]), "finite .* 1 units: unit_id 0"),
        (overwrite(TIMES, [*FLAT[:6], 1e12]), "within 146 years"),
        (overwrite("units/id", [5, 6, 5]), "1 ids stand in units/id more than once: 5"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(
    path: Path, change: Callable[[h5py.File], None], text: str
) -> None:
    """Each fault is found at open and named."""
    write_units(path, SOUND)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(RecordingError, match=text):
        NwbSource(str(path))


@pytest.mark.parametrize("storage", [{}, {"chunks": (4,)}])
def test_every_problem_is_in_one_error(path: Path, storage: dict[str, Any]) -> None:
    """Two kinds of fault give two sentences, and long lists are cut at five."""
    trains = [np.array([0.3, 0.2])] * 7 + [np.array([np.nan])]
    with pytest.raises(RecordingError) as caught:
        NwbSource(str(write_units(path, trains, **storage)))
    assert len(caught.value.problems) == 2
    assert "unit_id 0, 1, 2, 3, 4 and 2 more" in caught.value.problems[0]


def test_both_faults_of_an_index_are_said(path: Path) -> None:
    """A decreasing index that also dangles gives both sentences."""
    write_units(path, SOUND)
    with h5py.File(path, "a") as file:
        overwrite(INDEX, [4, 2, 99])(file)
    with pytest.raises(RecordingError) as caught:
        NwbSource(str(path))
    assert len(caught.value.problems) == 2


def test_units_that_are_not_chosen_may_be_broken(path: Path) -> None:
    """Only what will be sent is checked."""
    write_units(path, [np.array([0.3, 0.2]), np.array([0.1])])
    assert NwbSource(str(path), units="ids:1").n_spikes == 1


def test_trains_may_overlap_at_their_joints(path: Path) -> None:
    """A unit that starts before the one before it in the file ends is no fault."""
    assert NwbSource(str(write_units(path, [np.array([5.0]), np.array([1.0])]))).n_spikes == 2


def test_units_without_any_spike_are_refused(path: Path) -> None:
    """There must be something to send."""
    write_units(path, [np.array([1.0]), np.empty(0)])
    with pytest.raises(RecordingError, match="1 chosen units have no spikes"):
        NwbSource(str(path), units="ids:1")


def test_an_empty_units_table_is_refused(path: Path) -> None:
    """No units, no replay."""
    with pytest.raises(RecordingError, match="the units table is empty"):
        NwbSource(str(write_units(path, [])))


def test_a_file_that_was_cut_says_so(path: Path) -> None:
    """A download that stopped half-way is recognised."""
    write_units(path, random_trains(40))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(RecordingError, match=r"cut short: .* download it again"):
        NwbSource(str(path))


def test_a_damaged_chunk_says_so(path: Path) -> None:
    """Compressed spikes that cannot be unpacked are a fault of the file."""
    write_units(path, random_trains(), chunks=(100,), compression="gzip")
    with h5py.File(path) as file:
        offset = file[TIMES].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 64)
    with pytest.raises(RecordingError, match=r"cannot be read: .* damaged"):
        NwbSource(str(path))


def test_a_path_to_nothing_is_refused(path: Path) -> None:
    """A missing file is said in words."""
    with pytest.raises(RecordingError, match=r"file\.nwb: there is no such file"):
        NwbSource(str(path))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder is not a file."""
    with pytest.raises(RecordingError, match="it is a folder"):
        NwbSource(str(tmp_path))


@pytest.mark.parametrize(("content", "text"), [(b"", "empty"), (b"%PDF-1.4 and more", "%PDF")])
def test_another_kind_of_file_is_refused(path: Path, content: bytes, text: str) -> None:
    """The message shows how the file begins."""
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=text):
        NwbSource(str(path))


# Memory


@pytest.mark.parametrize("storage", [{}, {"chunks": (1 << 16,)}])
def test_memory_is_bounded_by_a_block(
    path: Path, storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three million spikes (24 MB) are replayed in less memory than they take."""
    monkeypatch.setattr(spikes_module, "IN_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(spikes_module, "PIECE_SPIKES", 1 << 16)
    monkeypatch.setattr("stream_sources.recordings.trains.MAX_BLOCK_SPIKES", 1 << 16)
    trains = [np.arange(unit * 1e-5, 300.0, 0.01) for unit in range(100)]
    write_units(path, trains, **storage)
    tracemalloc.start()
    try:
        source = NwbSource(str(path), batch_ms=100.0)
        n_spikes = sum(batch.n_spikes for batch in source.batches())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_spikes == 3_000_000
    assert peak < 12e6


# Real files


def test_a_real_recording_is_sent_to_the_last_spike(real_recordings: Path) -> None:
    """A Neuropixels recording from another laboratory, 21,354 spikes."""
    path = real_recordings / "nwb" / "A8604-211122.nwb"
    source = NwbSource(str(path))
    with h5py.File(path) as file:
        trains = np.split(file[TIMES][:], file[INDEX][:-1])
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(trains)
    assert {unit.probe for unit in source.population.units} == {"group0_psb"}


def test_the_layout_of_the_public_sessions_is_read(real_recordings: Path) -> None:
    """Core 2.2.2: the default filter keeps the 24 units that AllenSDK 2.16 keeps."""
    source = NwbSource(
        str(real_recordings / "allen_layout" / "allen_like_core2.2.2.nwb"), units="allen"
    )
    summary = describe(source)
    assert summary.n_units == 24
    assert set(summary.areas) == {"VISp", "VISl", "LGd", "CA1"}
    assert summary.presentations == {
        "spontaneous": 4,
        "natural_movie_three": 60,
        "natural_movie_one": 1200,
        "natural_scenes": 12,
    }
