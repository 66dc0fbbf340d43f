"""Controlled clips at a rig: the animal sees a schedule, a daemon narrates, a recorder keeps it."""

from __future__ import annotations

import csv
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.journal_reader import JournalReader
from contracts.narration import Narration
from evaluation.clips.experiment import load_experiment
from evaluation.clips.narrations import narrations_of_clips
from evaluation.clips.recorded import recorded_narrations
from evaluation.clips.schedule import Presentation, read_schedule
from evaluation.clips.simulated import ClipSession, record_clips
from evaluation.simulated_encoder import write_shipped_bundle
from neurrate.cli import main
from subscribers.listener import parse
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until

ANY_PORT = "tcp://127.0.0.1:*"
EXPERIMENT = """
name = "day-and-night"
seed = 41
features = [{ name = "light", pairs = 6 }]
"""


@dataclass(frozen=True)
class Rig:
    folder: Path
    schedule: tuple[Presentation, ...]
    session: ClipSession


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """Show a schedule of the command to the animal, and record the daemon that narrates it."""
    folder = tmp_path_factory.mktemp("clips")
    path = folder / "experiment.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    assert main(["clips", "schedule", str(path), "--out", str(folder / "schedule.csv")]) == 0
    experiment = load_experiment(path)
    schedule = read_schedule(folder / "schedule.csv", experiment)
    manifest = write_shipped_bundle(folder / "bundle", command="tests/system/test_clips.py")
    session = record_clips(folder / "clips.nwb", experiment, schedule, manifest)
    play = ("nwb", session.recording, "--units-from", manifest.folder, "--speed", "max")
    run = (
        "run", "--bundle", manifest.folder, "--publish", ANY_PORT, "--populations",
        "all,shuffled,silent", "--set", "narrator.mode=sequential", "--set",
        "window.stride_bins=40", "--set", "http.enabled=false", "--exit-at-end",
    )  # fmt: skip
    with Neurrate(
        "stream", *play, "--bind", ANY_PORT, "--wait-subscribers", 2, folder=folder, name="source"
    ) as source:
        spikes = source.addresses()["spikes"]
        with Neurrate(*run, "--connect", spikes, folder=folder, name="daemon") as daemon:
            publish = daemon.addresses()["publish"]
            record = ("record", folder / "journal", "--spikes", spikes, "--connect", publish)
            with Neurrate(*record, "--min-free-mb", 1, folder=folder, name="rec") as recorder:
                assert daemon.wait() == 0
                recorder.signal(signal.SIGINT)
                assert recorder.wait() == 0
    return Rig(folder, schedule, session)


@pytest.mark.timeout(3 * DEADLINE_S)
def test_marks_find_the_clips_that_were_on_the_screen(rig: Rig):
    """From the journal's marks the same narrations as from the true times of every frame."""
    found = recorded_narrations(rig.folder / "journal", rig.schedule, start_s=None)
    read = (
        parse(message.parts, host_ns=message.host_ns).value
        for message in JournalReader(rig.folder / "journal").messages()
        if message.kind == "narration"
    )
    narrations = [value for value in read if isinstance(value, Narration)]
    assert found.texts == narrations_of_clips(narrations, rig.session.showings).texts
    assert set(found.texts) == {"all", "shuffled", "silent"}
    assert all(len(of) == len(rig.schedule) for of in found.texts.values())


@pytest.mark.timeout(3 * DEADLINE_S)
def test_what_the_animal_sees_is_found_and_silence_says_nothing(rig: Rig):
    """All units name the light of every clip; without units the sentence does not depend on it."""
    out = rig.folder / "out"
    words = [rig.folder / name for name in ("experiment.toml", "schedule.csv", "journal")]
    assert main(["clips", "score", *map(str, words), "--out", str(out)]) == 0
    with (out / "clips-effects.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["narrator"]: row for row in csv.DictReader(file)}
    assert float(rows["all"]["difference"]) > 0.8
    assert float(rows["all"]["p_holm"]) < 0.05
    assert (float(rows["silent"]["difference"]), float(rows["silent"]["p"])) == (0, 1)
    assert (out / "schedule.csv").read_bytes() == (rig.folder / "schedule.csv").read_bytes()


def kept(out: Path) -> dict[tuple[str, int], str]:
    """Return what a run has narrated so far, by narrator and window."""
    path = out / "narrations.sqlite"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path, timeout=DEADLINE_S)) as store:
        if not store.execute("SELECT name FROM sqlite_master").fetchall():
            return {}
        rows = store.execute("SELECT narrator, number, content FROM clips").fetchall()
    return {(narrator, number): content for narrator, number, content in rows}


@pytest.mark.timeout(4 * DEADLINE_S)
def test_a_run_that_was_killed_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every number is that of a run without a stop, and what was narrated is not made again."""
    path = tmp_path / "experiment.toml"
    path.write_text(f'{EXPERIMENT}repeats = 3\npopulations = ["all"]\n', encoding="utf-8")
    words = ["clips", "run", str(path), "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    n_windows = sum(name == "all" for name, _ in kept(tmp_path / "whole"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "neurrate", *words, str(out)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        wait_until(
            lambda: len(kept(out)) > n_windows,  # a third of all, with both controls
            deadline_s=DEADLINE_S,
            what="narrations",
        )
        process.kill()
    before = kept(out)
    assert len(before) < 3 * n_windows, "it was at its end before it was killed"
    capsys.readouterr()
    assert main([*words, str(out)]) == 0
    assert "narrations are kept; going on at" in capsys.readouterr().err
    after = kept(out)
    last = max(number for _, number in before)
    made_once = {key: text for key, text in before.items() if key[1] < last}
    assert made_once.items() <= after.items()  # with the times at which they were made
    assert after.keys() == kept(tmp_path / "whole").keys()
    tables = [table.name for table in (tmp_path / "whole").glob("*.csv")]
    assert "clips-effects.csv" in tables
    for table in tables:
        assert (out / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
