"""A journal as an NWB file, opened by the programs that analysts use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pynapple
import pytest
from nwbinspector import Importance, inspect_nwbfile
from pynwb import NWBHDF5IO, validate
from spikeinterface.extractors import read_nwb_sorting

from contracts.daemon_json import pack_daemon
from contracts.errors import UserError
from contracts.journal import Origin
from contracts.narration import Narration, Status
from contracts.narration_wire import pack_narration
from contracts.source_json import pack_mark
from contracts.spikes import Mark, SpikeBatch
from contracts.trigger import Trigger, TriggerKind, TriggerStamps, WindowFacts, pack_trigger
from stream_sources.recordings.nwb import NwbSource
from subscribers.recorder import nwb_export
from subscribers.recorder.journal_writer import JournalWriter, Taken
from subscribers.recorder.nwb_export import AnimalFacts, ExportReport, export_nwb
from tests.support.journals import WALL_NS, of_source, population, sent
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration

N_BATCHES = 90
DAEMON = "tcp://127.0.0.1:5571"
SPIKES = [one for one in sent(N_BATCHES) if isinstance(one, SpikeBatch)]
NARRATIONS = [
    narration(seq=seq, population=name, text=f"{name} {seq}", confidence=confidence)
    for seq in range(4)
    for name, confidence in (("all", 0.5), ("VISp", None))
]
FAILED = narration(seq=4, population="all", text="", status=Status.FAILED)


def trigger() -> Trigger:
    return Trigger(
        id="run-car-0",
        seq=0,
        name="car",
        kind=TriggerKind.PROBE,
        rule="car > 0.9",
        population="all",
        dry_run=False,
        score=0.95,
        threshold=0.9,
        window=WindowFacts(1, 0.5, 0.75, 0.7),
        stamps=TriggerStamps(0, 1_000_000, 2_000_000, 3_000_000, 4_000_000),
        bundle="0" * 64,
        calibration="all",
    )


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal of a source and a daemon."""
    folder = tmp_path_factory.mktemp("nwb") / "journal"
    clock = ManualClock()
    writer = JournalWriter(
        folder, clock, part_bytes=20_000, min_free_bytes=1, wall_ns=lambda: WALL_NS
    )
    mark = next(one for one in sent(1) if isinstance(one, Mark))
    from_daemon = [
        pack_daemon(bundle="0" * 64, settings={"ring": {"capacity_s": 10}}, host_ns=1),
        *(pack_narration(one) for one in (*NARRATIONS, FAILED)),
        pack_trigger(trigger()),
        pack_mark(mark),  # a second time: the daemon passes it on
    ]
    for message in sent(N_BATCHES):
        clock.sleep_ns(10_000_000)
        writer.add(of_source(message, clock.now_ns()))
        writer.flush()
    for parts in from_daemon:
        writer.add(Taken(Origin.DAEMON, DAEMON, clock.now_ns(), tuple(parts)))
    writer.close()
    assert writer.n_parts > 1
    return folder


@pytest.fixture(scope="module")
def exported(journal: Path) -> tuple[Path, ExportReport]:
    """Return the file that is made of it, and the report."""
    out = journal.parent / "session.nwb"
    return out, export_nwb(journal, out, AnimalFacts("m7", "Mus musculus", "F", "P90D"))


@pytest.fixture
def file(exported: tuple[Path, ExportReport]) -> Any:
    """Return the file, opened by pynwb."""
    with NWBHDF5IO(exported[0], "r") as io:
        yield io.read()


def expected_times(row: int) -> np.ndarray:
    times = [one.spike_time_ns[one.unit_index == row] for one in SPIKES]
    return np.concatenate(times) / 1e9


def test_report_counts_what_was_written(exported: tuple[Path, ExportReport]):
    """Units, spikes, narrations, triggers, and marks without repeats."""
    assert exported[1] == ExportReport(
        n_units=5,
        n_spikes=20 * N_BATCHES,
        n_narrations=9,
        n_triggers=1,
        n_marks=9,
        n_left_out=0,
        n_not_closed=0,
    )
    assert [path.name for path in exported[0].parent.iterdir() if path.is_file()] == ["session.nwb"]


def test_inspector_finds_no_violation(exported: tuple[Path, ExportReport]):
    """Valid by the schema and by the rules of archives, once the animal is known."""
    assert validate(path=str(exported[0])) == []
    found = inspect_nwbfile(
        nwbfile_path=exported[0], importance_threshold=Importance.BEST_PRACTICE_VIOLATION
    )
    assert sorted({one.check_function_name for one in found}) == []


def test_spikes_of_each_unit_are_all_there(file: Any):
    """To the nanosecond that a float holds, with electrodes where the channel is known."""
    units = file.units
    for row in range(5):
        np.testing.assert_array_equal(units["spike_times"][row], expected_times(row))
    assert list(units["source_unit_id"][:]) == [str(row) for row in range(5)]
    assert list(units["location"][:]) == [unit.area for unit in population().units]
    assert [rows["channel"].tolist() for rows in units["electrodes"][:]] == [
        [0], [0], [1], [1], [2],
    ]  # fmt: skip


def test_narrations_stand_as_events_and_as_intervals(file: Any):
    """Every one as an event; as intervals by population, without overlap, in the same words."""
    events = file.get_events_table("narrations").to_dataframe()
    ordered = sorted((*NARRATIONS, FAILED), key=lambda one: (one.window_stop_s, one.population))
    assert events["timestamp"].tolist() == [one.window_stop_s for one in ordered]
    assert events["text"].tolist() == [one.utterance.text for one in ordered]
    assert events["latency_ms"].tolist() == [60.0] * 9
    assert np.isnan(events["confidence"][events["population"] == "VISp"]).all()
    table = file.intervals["narrations_all"].to_dataframe()
    assert table["text"].tolist() == ["all 0", "all 1", "all 2", "all 3", ""]
    assert table["start_time"].tolist() == [one.frame_s for one in _of("all")]
    assert (table["stop_time"].to_numpy()[:-1] <= table["start_time"].to_numpy()[1:]).all()
    assert table["window_stop"].tolist() == [one.window_stop_s for one in _of("all")]


def _of(name: str) -> list[Narration]:
    return [one for one in (*NARRATIONS, FAILED) if one.population == name]


def test_triggers_marks_and_provenance_are_there(file: Any):
    """Rules as events, presentations as intervals, settings and commits as notes."""
    events = file.get_events_table("triggers").to_dataframe()
    assert events[["timestamp", "rule", "score", "latency_ms"]].to_numpy().tolist() == [
        [0.75, "car", 0.95, 4.0]
    ]
    shown = file.intervals["movie_presentations"].to_dataframe()
    assert shown["frame"].tolist() == [10 * number for number in range(9)]
    assert '"capacity_s": 10' in file.notes
    assert "reckoned from when the first batch was received" in file.session_description


def test_other_programs_open_it(exported: tuple[Path, ExportReport]):
    """pynapple has the spikes and the intervals, SpikeInterface the spikes."""
    opened = pynapple.load_file(str(exported[0]))
    units = opened["units"]
    np.testing.assert_allclose(units[3].times(), expected_times(3))
    intervals = opened["narrations_all"]
    assert len(intervals) == 5
    assert list(intervals["text"])[:2] == ["all 0", "all 1"]
    sorting = read_nwb_sorting(str(exported[0]), sampling_frequency=30_000.0, t_start=0.0)
    assert sorting.get_num_units() == 5
    frames = sorting.get_unit_spike_train(sorting.unit_ids[2])
    np.testing.assert_allclose(frames / 30_000, expected_times(2), atol=1e-4)


def test_own_reader_replays_it(exported: tuple[Path, ExportReport]):
    """A file that was exported is a recording like any other: spikes, areas, marks."""
    source = NwbSource(str(exported[0]))
    assert [unit.area for unit in source.population.units] == [
        unit.area for unit in population().units
    ]
    times = np.concatenate([batch.spike_time_ns for batch in source.batches()])
    expected = np.sort(np.concatenate([one.spike_time_ns for one in SPIKES]))
    np.testing.assert_array_equal(times, expected)
    assert [mark.frame for mark in source.marks()] == [10 * number for number in range(9)]
    source.close()


def test_export_that_is_stopped_leaves_no_half_file(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What was there stays as it was, and nothing else is left."""
    out = tmp_path / "session.nwb"
    out.write_text("what was there")

    def stop(path: Path) -> None:
        assert path.stat().st_size > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(nwb_export, "sync", stop)
    with pytest.raises(KeyboardInterrupt):
        export_nwb(journal, out)
    assert [path.name for path in tmp_path.iterdir()] == ["session.nwb"]
    assert out.read_text() == "what was there"


def test_empty_journal_is_refused(tmp_path: Path):
    """With what it is; and no file is made."""
    writer = JournalWriter(tmp_path / "j", ManualClock(), part_bytes=1 << 30, min_free_bytes=1)
    writer.close()
    with pytest.raises(UserError, match="holds no messages"):
        export_nwb(tmp_path / "j", tmp_path / "out.nwb")
    assert not (tmp_path / "out.nwb").exists()
