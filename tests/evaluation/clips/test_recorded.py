"""A schedule that was shown at a rig, scored from the journal of its recording."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.clock import second_to_ns
from contracts.errors import UserError
from contracts.journal import Origin
from contracts.narration import Narration
from contracts.narration_wire import pack_narration
from contracts.source_json import pack_mark
from contracts.spikes import Mark
from evaluation.clips.experiment import Experiment, load_experiment
from evaluation.clips.recorded import recorded_narrations
from evaluation.clips.schedule import Presentation, make_schedule, write_schedule
from neurrate.cli import main
from subscribers.recorder.journal_writer import JournalWriter, Taken
from tests.support.journals import RUN, WALL_NS, of_source
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration

CONFIG = Path(__file__).parents[3] / "configs" / "clips" / "rig.toml"
BEGAN_S = 40.0
DAEMON = "tcp://127.0.0.1:5571"


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(CONFIG)


@pytest.fixture(scope="module")
def schedule(experiment: Experiment) -> tuple[Presentation, ...]:
    return make_schedule(experiment)


def _marks(schedule: Sequence[Presentation], *, n_frames: int = 0) -> list[Mark]:
    """Return a mark of each onset, as of LSL, or one of each frame, as of a recording."""
    marks = []
    for one in schedule:
        start_ns = second_to_ns(BEGAN_S + one.onset_s)
        step_ns = second_to_ns(one.duration_s) // max(1, n_frames)
        for frame in range(n_frames or 1):
            at = start_ns + frame * step_ns
            stop = at + step_ns if n_frames else at
            marks.append(Mark("probeA", RUN, at, stop, one.clip, one.presentation, frame))
    return marks


def _narrations(schedule: Sequence[Presentation], **texts: tuple[str, str]) -> list[Narration]:
    """Return a narration each half second, by population: to the clips with the feature, others."""
    found = []
    end_s = BEGAN_S + schedule[-1].onset_s + 3
    for seq in range(int(2 * end_s)):
        start_s = 0.5 * seq
        on = [p for p in schedule if p.onset_s <= start_s + 0.2 - BEGAN_S < p.onset_s + 2.0]
        for population, (present, absent) in texts.items():
            text = (present if on[0].has_feature else absent) if on else "A grey screen and a car."
            found.append(narration(seq=seq, population=population, text=text))
    return found


def _journal(folder: Path, marks: Sequence[Mark], narrations: Sequence[Narration]) -> Path:
    clock = ManualClock()
    writer = JournalWriter(
        folder, clock, part_bytes=1 << 30, min_free_bytes=1, wall_ns=lambda: WALL_NS
    )
    for mark in marks:
        writer.add(of_source(mark, clock.now_ns()))
        writer.add(Taken(Origin.DAEMON, DAEMON, clock.now_ns(), tuple(pack_mark(mark))))
    for one in narrations:
        writer.add(Taken(Origin.DAEMON, DAEMON, clock.now_ns(), tuple(pack_narration(one))))
    writer.close()
    return folder


ALL = {"all": ("A car waits.", "A tree."), "silent": ("A car waits.", "A car waits.")}


@pytest.mark.parametrize("n_frames", [0, 60])
def test_clips_are_found_by_their_marks(tmp_path, schedule, n_frames):
    """A mark of the onset or of each frame: every showing has the windows that lie in it alone."""
    narrations = _narrations(schedule, **ALL)
    journal = _journal(tmp_path / "j", _marks(schedule, n_frames=n_frames), narrations)
    found = recorded_narrations(journal, schedule, start_s=None)
    assert found.notes == ["narrated by bundle 000000000000 and no language model"]
    assert found.units == {"all": 40, "silent": 40}
    for one in schedule:
        expected = "A car waits." if one.has_feature else "A tree."
        texts = found.texts["all"][one.presentation]
        assert set(texts) == {expected}
        assert len(texts) == 3  # of windows from 0.15 s after the onset to the end at 2 s


def test_clips_are_found_by_the_schedule_where_its_start_is_known(tmp_path, schedule):
    """Without marks the same narrations; with neither, the error says what to do."""
    journal = _journal(tmp_path / "j", [], _narrations(schedule, **ALL))
    marked = _journal(tmp_path / "k", _marks(schedule), _narrations(schedule, **ALL))
    by_marks = recorded_narrations(marked, schedule, start_s=None)
    assert recorded_narrations(journal, schedule, start_s=BEGAN_S).texts == by_marks.texts
    with pytest.raises(UserError, match=r"must hold a mark for each clip.*--start"):
        recorded_narrations(journal, schedule, start_s=None)
    with pytest.raises(UserError, match="is about a clip: a window must lie"):
        recorded_narrations(journal, schedule, start_s=5_000.0)


def test_what_was_not_shown_or_not_covered_is_counted(tmp_path, schedule):
    """A session that was stopped, and windows with missing spikes."""
    narrations = _narrations(schedule, **ALL)
    narrations = [
        replace(one, n_gap_bins=3) if one.window_start_s < BEGAN_S + 4 else one
        for one in narrations
    ]
    journal = _journal(tmp_path / "j", _marks(schedule[:-2]), narrations)
    found = recorded_narrations(journal, schedule, start_s=None)
    assert found.notes[1] == "2 of 40 presentations have no mark"
    assert "spikes of their windows are missing" in found.notes[2]
    assert schedule[0].presentation not in found.texts["all"]
    assert schedule[-1].presentation not in found.texts["all"]


def test_a_recording_without_a_whole_pair_is_refused(tmp_path, schedule, capsys):
    """One clip alone was shown: there is nothing to compare it with."""
    write_schedule(tmp_path / "schedule.csv", schedule)
    first = schedule[:1]
    journal = _journal(tmp_path / "j", _marks(first), _narrations(first, **ALL))
    words = ["clips", "score", str(CONFIG), str(tmp_path / "schedule.csv"), str(journal)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "if both of its clips were narrated" in capsys.readouterr().err


def test_a_journal_of_two_sessions_is_refused(tmp_path, schedule):
    """More showings than the schedule has: nobody knows which belong to it."""
    late = [
        replace(mark, start_ns=mark.start_ns + 10**12, stop_ns=mark.stop_ns + 10**12)
        for mark in _marks(schedule)
    ]
    journal = _journal(tmp_path / "j", [*_marks(schedule), *late], _narrations(schedule[:4], **ALL))
    with pytest.raises(UserError, match=r"8 showings of .* the schedule has 4"):
        recorded_narrations(journal, schedule, start_s=None)


def test_a_journal_of_two_bundles_is_refused(tmp_path, schedule):
    """What two encoders say is no experiment."""
    one, *others = _narrations(schedule[:4], **ALL)
    one = replace(one, provenance=replace(one.provenance, bundle="1" * 64))
    journal = _journal(tmp_path / "j", _marks(schedule), [one, *others])
    with pytest.raises(UserError, match="must be of one bundle"):
        recorded_narrations(journal, schedule, start_s=None)


def _table(folder: Path, name: str) -> dict[str, dict[str, str]]:
    with (folder / f"clips-{name}.csv").open(encoding="utf-8", newline="") as file:
        return {row["narrator"]: row for row in csv.DictReader(file)}


def test_the_command_tells_who_sees_from_who_always_says_it(tmp_path, schedule, capsys):
    """From files to tables, figures and a page: all units see cars, silence says them always."""
    texts = {**ALL, "VISp": ("A tree.", "A tree.")}
    write_schedule(tmp_path / "schedule.csv", schedule)
    journal = _journal(tmp_path / "j", _marks(schedule), _narrations(schedule, **texts))
    out = tmp_path / "out"
    words = ["clips", "score", str(CONFIG), str(tmp_path / "schedule.csv"), str(journal)]
    assert main([*words, "--out", str(out)]) == 0
    rows = _table(out, "effects")
    assert list(rows) == ["all", "VISp", "silent"]
    assert [rows[name]["is_seen"] for name in rows] == ["0", "0", "0"]  # 3 tests of five pairs
    assert float(rows["all"]["p"]) == pytest.approx(1 / 32)
    assert float(rows["all"]["p_holm"]) == pytest.approx(3 / 32)
    assert [float(rows[name]["difference"]) for name in rows] == [1, 0, 0]
    assert [float(rows[name]["without"]) for name in rows] == [0, 0, 1]
    needed = _table(out, "pairs-needed")
    assert set(needed) == {"all", "VISp"}
    assert needed["VISp"]["effect"] == "0.5"  # the last row: nothing was observed to plan for
    said = capsys.readouterr().out
    assert "with 5 pairs and 3 rows no corrected p can be 0.05 or less" in said
    assert "shuffled is not among the populations" in said
    assert "not narrated, though asked for: shuffled" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 2
    assert "clips-effects.png" in {path.name for path in out.iterdir()}


def test_files_that_do_not_belong_together_are_refused(tmp_path, schedule, capsys):
    """Exit code 2 and a sentence: no journal, or a schedule of other clips."""
    write_schedule(tmp_path / "schedule.csv", schedule)
    words = ["clips", "score", str(CONFIG), str(tmp_path / "schedule.csv"), str(tmp_path / "no")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    other = CONFIG.with_name("simulated.toml")
    words = ["clips", "score", str(other), str(tmp_path / "schedule.csv"), str(tmp_path)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "40 show other clips" in capsys.readouterr().err
    assert main(["clips", "run", str(CONFIG), "--out", str(tmp_path / "out")]) == 2
    assert "clips of your own" in capsys.readouterr().err


def test_frames_of_the_clips_are_narrated_too(tmp_path, tiny_bundle, tiny_llava, schedule, capsys):
    """True patches stand first; a folder that lacks a clip, or half the options, is refused."""
    write_schedule(tmp_path / "schedule.csv", schedule)
    journal = _journal(tmp_path / "j", _marks(schedule), _narrations(schedule, **ALL))
    frames = tmp_path / "clips"
    frames.mkdir()
    words = ["clips", "score", str(CONFIG), str(tmp_path / "schedule.csv"), str(journal)]
    words += ["--out", str(tmp_path / "out"), "--frames", str(frames)]
    assert main(words) == 2
    assert "--frames needs --bundle" in capsys.readouterr().err
    words += ["--bundle", str(tiny_bundle.folder), "--model", str(tiny_llava)]
    assert main(words) == 2
    assert "no frames for" in capsys.readouterr().err
    for number, stem in enumerate(sorted({Path(one.file).stem for one in schedule})):
        np.save(frames / f"{stem}.npy", np.full((3, 32, 48), 20 * number, np.uint8))
    assert main(words) == 0
    rows = _table(tmp_path / "out", "effects")
    assert list(rows) == ["true patches", "all", "silent"]
    assert rows["true patches"]["sentences"] == str(len(schedule))
