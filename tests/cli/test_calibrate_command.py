"""``neurrate calibrate``: from voltages to units, templates and spikes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from neurrate.cli import main
from stream_sources.online_sorter.calibrated_options import FACTS
from stream_sources.online_sorter.recording_voltages import RecordingVoltages, load_recording
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.online_sorter.template_files import read_templates
from stream_sources.recordings.nwb import NwbSource
from tests.support.pictures import no_drawing
from tests.support.planted_voltages import (
    PlantedRecording,
    plant_recording,
    save_sorting,
    write_rows,
)
from tests.support.processes import DEADLINE_S
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.filterwarnings(
    # SpikeInterface leaves the files of its recordings to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)

ROOT = Path(__file__).parents[2]

MINUTES = 0.15
"""Nine of the twelve seconds that are recorded."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedRecording:
    """Write a recording of 16 channels, and its true sorting."""
    return plant_recording(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def inputs(planted: PlantedRecording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of areas and one of presentations."""
    folder = tmp_path_factory.mktemp("inputs")
    write_rows(
        folder / "areas.csv",
        [
            {"depth_from": -10, "depth_to": 75, "area": "CA1"},
            {"depth_from": 75, "depth_to": 1000, "area": "VISp"},
        ],
    )
    write_rows(folder / "shown.csv", planted.rows())
    return folder


def command(planted: PlantedRecording, out: Path, *more: str) -> list[str]:
    """Return a command line that takes the true sorting as the offline one."""
    words = ["calibrate", str(planted.path), str(out), "--minutes", str(MINUTES)]
    return [*words, "--sorting", str(planted.sorting), "--min-snr", "3", *more]


@pytest.fixture(scope="module")
def folder(
    planted: PlantedRecording, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Calibrate on the recording, with everything that can be given."""
    out = tmp_path_factory.mktemp("calibrated") / "out"
    more = ["--areas", str(inputs / "areas.csv"), "--presentations", str(inputs / "shown.csv")]
    assert main(command(planted, out, *more, "--json", str(out.parent / "figures.json"))) == 0
    return out


@pytest.fixture(autouse=True)
def _no_drawing(folder):
    """Draw pictures for the first calibration alone."""
    with no_drawing():
        yield


def trains_of(path: Path) -> list[NDArray[np.int64]]:
    """Return the spike times of each unit of an NWB file, session nanoseconds."""
    source = NwbSource(str(path), start_s=0.0)
    batches = list(source.batches())
    times = np.concatenate([batch.spike_time_ns for batch in batches])
    units = np.concatenate([batch.unit_index for batch in batches])
    source.close()
    return [times[units == row] for row in range(len(source.population))]


def refuse(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that must be refused; return its sentence."""
    capsys.readouterr()
    assert main(words) == code
    return capsys.readouterr().err


def test_the_units_are_those_of_the_sorting_with_their_places(folder, planted):
    """Ids, channel, depth and area, in the NWB file as in the templates."""
    templates = read_templates(folder)
    source = NwbSource(str(folder / "calibration.nwb"))
    assert [unit.key for unit in source.population.units] == [
        unit.key for unit in templates.population.units
    ]
    assert {int(unit.unit_id) for unit in source.population.units} <= set(range(10, 16))
    assert len(source.population) >= 4
    for read, kept in zip(source.population.units, templates.population.units, strict=True):
        assert (read.channel, read.depth_um, read.area) == (kept.channel, kept.y_um, kept.area)
        assert read.area == ("CA1" if (read.depth_um or 0.0) < 75 else "VISp")
        assert read.probe == "probe0"
    source.close()


def test_the_spikes_are_those_that_the_online_sorter_sends(folder, planted):
    """Spike for spike, what it sends for the same voltages in other chunks."""
    templates = read_templates(folder)
    voltages = RecordingVoltages(
        load_recording(planted.path), label="x", speed=None, duration_s=60 * MINUTES, chunk_ms=7.3
    )
    live = OnlineSorterSource(voltages, templates, SorterOptions(speed=None))
    batches = list(live.batches())
    live.close()
    times = np.concatenate([batch.spike_time_ns for batch in batches])
    units = np.concatenate([batch.unit_index for batch in batches])
    written = trains_of(folder / "calibration.nwb")
    assert len(written) == len(templates.population)
    for row, train in enumerate(written):
        assert np.array_equal(train, np.sort(times[units == row]))


def test_the_planted_spikes_are_found(folder, planted):
    """Most units agree with the truth, as the offline sorting is the truth."""
    figures = json.loads((folder.parent / "figures.json").read_text())
    assert figures["offline_units"] == len(planted.trains)
    assert figures["median_agreement"] > 0.8


def test_presentations_are_in_the_file(folder):
    """With the frames that prepare looks for."""
    source = NwbSource(str(folder / "calibration.nwb"))
    shown = source.presentations
    assert shown.names == ("clip",)
    assert len(shown.start_ns) == 60
    assert shown.frame[:3].tolist() == [0, 1, 2]
    assert shown.start_ns[0] == 1_000_000_000
    source.close()


def test_every_unit_is_in_the_table_with_its_reason(folder, planted):
    """Kept or excluded, each once."""
    with (folder / "units.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["offline_unit"] for row in rows) == [str(10 + n) for n in range(6)]
    assert all((row["kept"] == "yes") == (row["reason"] == "") for row in rows)


def test_the_report_is_one_file_with_its_pictures(folder):
    """It can be sent to somebody."""
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert all((folder / name).stat().st_size > 1000 for name in ("templates.png", "stability.png"))


def test_the_same_command_does_nothing_more(folder, planted, inputs, capsys):
    """A finished calibration is left as it is."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    more = ["--areas", str(inputs / "areas.csv"), "--presentations", str(inputs / "shown.csv")]
    assert main(command(planted, folder, *more)) == 0
    assert "is finished" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_interrupted_calibration_resumes_at_the_step_that_is_missing(planted, tmp_path, capsys):
    """Templates stay as they are; the online spikes are found again, and the rest is written."""
    out = tmp_path / "out"
    assert main(command(planted, out)) == 0
    output = capsys.readouterr()
    assert "missing: no presentations" in output.out
    assert "missing: no areas" in output.out
    document = json.loads((out / FACTS).read_text())
    document["finished"] = {name: document["finished"][name] for name in ("sort", "curate")}
    (out / FACTS).write_text(json.dumps(document))
    wanted = trains_of(out / "calibration.nwb")
    for name in ("calibration.nwb", "online.npz", "report.html"):
        (out / name).unlink()
    templates_at = (out / "templates.npz").stat().st_mtime_ns
    assert main(command(planted, out)) == 0
    assert (out / "templates.npz").stat().st_mtime_ns == templates_at
    assert all(map(np.array_equal, trains_of(out / "calibration.nwb"), wanted))
    assert (out / "report.html").is_file()


def test_an_input_that_has_changed_is_refused(planted, inputs, tmp_path, capsys):
    """A folder never holds the areas of one file and the units of another."""
    out = tmp_path / "out"
    areas = tmp_path / "areas.csv"
    areas.write_bytes((inputs / "areas.csv").read_bytes())
    words = command(planted, out, "--areas", str(areas))
    assert main(words) == 0
    areas.write_text(areas.read_text().replace("CA1", "CA3"))
    assert "sha256 of --areas was" in refuse(words, capsys)
    areas.unlink()
    assert "and is 'missing'" in refuse(words, capsys)


def test_another_recording_at_the_same_path_is_refused_on_resuming(planted, tmp_path, capsys):
    """Spikes of one and voltages of another."""
    out, place = tmp_path / "out", tmp_path / "recording"
    shutil.copytree(planted.path, place)
    words = command(planted, out)
    words[1] = str(place)
    assert main(words) == 0
    document = json.loads((out / FACTS).read_text())
    document["finished"] = {"sort": document["finished"]["sort"]}
    (out / FACTS).write_text(json.dumps(document))
    voltages = np.memmap(next(place.glob("*.raw")), dtype=np.int16)
    voltages[: voltages.size // 2] += 1
    voltages.flush()
    assert f"is not the recording that {out} was begun with" in refuse(words, capsys)


def test_a_recording_shorter_than_asked_is_refused(planted, tmp_path, capsys):
    """With its length, and what to give; no folder is made."""
    words = ["calibrate", str(planted.path), str(tmp_path / "out"), "--minutes", "3"]
    sentence = refuse(words, capsys)
    assert "it lasts 0.2 minutes, and --minutes asks for the first 3" in sentence
    assert "--minutes 0.2" in sentence
    assert not (tmp_path / "out").exists()


def test_areas_of_another_probe_are_refused(planted, tmp_path, capsys):
    """The channels that the recording does not have are named."""
    areas = write_rows(tmp_path / "areas.csv", [{"channel": 77, "area": "VISp"}])
    words = command(planted, tmp_path / "out", "--areas", str(areas))
    assert "1 channels that the recording does not have: 77" in refuse(words, capsys)


def test_presentations_of_another_recording_are_refused(planted, tmp_path, capsys):
    """A presentation after the recording's end shows that times are of another clock."""
    shown = write_rows(tmp_path / "shown.csv", planted.rows(first_s=11.0))
    words = command(planted, tmp_path / "out", "--presentations", str(shown))
    assert "must lie within the recording, which lasts 12 s" in refuse(words, capsys)


def test_no_unit_that_passes_is_an_error_with_reasons(planted, tmp_path, capsys):
    """The rules that can be relaxed are named."""
    words = command(planted, tmp_path / "out")
    words[words.index("--min-snr") + 1] = "1000"
    sentence = refuse(words, capsys)
    assert "none of the 6 units of the offline sorting passes" in sentence
    assert "is below 1000" in sentence
    assert "--min-snr" in sentence


def test_a_sorting_of_another_sampling_rate_is_refused(planted, tmp_path, capsys):
    """Its samples would be other times."""
    other = save_sorting(tmp_path / "other", planted.trains, 25_000.0)
    words = command(planted, tmp_path / "out")
    words[words.index("--sorting") + 1] = str(other)
    assert "25000 Hz (of the sorting), and that of the recording 30000 Hz" in refuse(words, capsys)


def test_a_sorting_that_goes_on_after_the_recording_is_refused(planted, tmp_path, capsys):
    """It is of another session; spikes between the minutes and the recording's end may be there."""
    trains = [*planted.trains[:-1], np.append(planted.trains[-1], 13 * 30_000)]
    other = save_sorting(tmp_path / "other", trains)
    words = command(planted, tmp_path / "out")
    words[words.index("--sorting") + 1] = str(other)
    sentence = refuse(words, capsys)
    assert "its last spike is at 13.000 s, and the recording lasts 12.000 s" in sentence
    assert "1 of its" in sentence


def test_local_field_potentials_are_refused(planted, tmp_path, capsys):
    """A rate at which a spike is a sample or two."""
    from spikeinterface.preprocessing import decimate

    slow = decimate(load_recording(planted.path), 12, antialias=False)
    slow.save(folder=tmp_path / "slow", format="binary", n_jobs=1, verbose=False)
    words = ["calibrate", str(tmp_path / "slow"), str(tmp_path / "out"), "--minutes", "0.1"]
    assert "its sampling rate is 2500 Hz" in refuse(words, capsys)


def test_a_recording_after_a_filter_is_refused(planted, tmp_path, capsys):
    """The online sorter filters raw voltages, in its own way."""
    from spikeinterface.preprocessing import bandpass_filter

    filtered = bandpass_filter(load_recording(planted.path), dtype="int16")
    filtered.save(folder=tmp_path / "filtered", format="binary", n_jobs=1, verbose=False)
    words = ["calibrate", str(tmp_path / "filtered"), str(tmp_path / "out"), "--minutes", "0.1"]
    assert "it was saved after a filter" in refuse(words, capsys)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--sorter", "kilosort9"], 2, "--sorter must be one that SpikeInterface runs"),
        (["--sorter", "kilosort4"], 3, "the sorter kilosort4 is not installed"),
        (["--sorter", "lupin", "--method", "guess"], 2, "--method must be one of"),
    ],
)
def test_a_sorter_that_is_not_there_is_refused_at_once(
    planted, tmp_path, capsys, words, code, sentence
):
    """Before anything is read."""
    out = tmp_path / "out"
    assert sentence in refuse(["calibrate", str(planted.path), str(out), *words], capsys, code)
    assert not out.exists()


def test_a_sorter_that_fails_is_named_with_its_last_error(planted, tmp_path, capsys):
    """SpikeInterface's simplest sorter clusters with a package that is not installed here."""
    out = tmp_path / "out"
    words = ["calibrate", str(planted.path), str(out), "--minutes", "0.1", "--sorter", "simple"]
    sentence = refuse(words, capsys, code=1)
    assert "the sorter simple ended with an error: ModuleNotFoundError: No module" in sentence
    assert "Traceback" not in sentence
    assert (out / "sorter").is_dir()
    # Nothing of it is kept, so that other options may follow.
    assert main(command(planted, out)) == 0
    assert not (out / "sorter").exists()


def test_what_is_no_recording_is_refused(planted, tmp_path, capsys):
    """A path that does not exist, and a sorting."""
    words = ["calibrate", str(tmp_path / "nowhere"), str(tmp_path / "out")]
    assert "there is no such file or folder" in refuse(words, capsys)
    words[1] = str(planted.sorting)
    assert "a recording is wanted" in refuse(words, capsys)


UNCOMPILED = """
from spikeinterface.sortingcomponents.clustering import isosplit_isocut
real = isosplit_isocut.jisotonic5
isosplit_isocut.jisotonic5 = lambda x, w: real(x, w) if len(x) else (x.copy(), x.copy())
"""
"""Compiling the sorter takes a minute; without, it takes seconds for a recording as short. But
SpikeInterface 0.105 writes to the first place of an empty array, which only compiled code may."""


@pytest.mark.slow
def test_the_default_sorter_finds_planted_units(tmp_path):
    """From voltages alone, with nothing installed beside our own packages."""
    planted = plant_recording(tmp_path, n_units=4, seconds=10.0)
    out = tmp_path / "out"
    words = ["calibrate", str(planted.path), str(out), "--minutes", str(1 / 6)]
    (tmp_path / "sitecustomize.py").write_text(UNCOMPILED)  # runs in the sorter's process too
    done = subprocess.run(
        [sys.executable, "-m", "neurrate.cli", *words],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_templates(out).population) >= 3
    assert not (out / "sorter").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_sorter_goes_on_when_the_command_is_stopped(planted, tmp_path, number):
    """The sorter and its pool end with the command, even where that is killed."""
    out = tmp_path / "out"
    words = ["calibrate", str(planted.path), str(out), "--minutes", "0.2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neurrate.cli", *words],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        command = psutil.Process(process.pid)
        wait_until(lambda: (out / "sorter" / "output").is_dir(), deadline_s=DEADLINE_S)
        started = command.children(recursive=True)
        assert started
        os.killpg(process.pid, number)
        process.wait(timeout=DEADLINE_S)
        wait_until(lambda: not any(child.is_running() for child in started), deadline_s=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
