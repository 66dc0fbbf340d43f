"""The scores of a recording, of its replay through sockets, and of a journal of it are equal."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from contracts.manifest import load_manifest
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import load_prepared
from neurrate.cli import main
from tests.support.captioned_bundle import copy_bundle, write_captioned_inputs
from tests.support.nwb_files import label_columns, write_units
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until

ANY_PORT = "tcp://127.0.0.1:*"
POPULATIONS = "all,CA1,LGd,VISp,cell_type:PV,shuffled,silent"
SENTENCES = "fidelity-sentences.csv"


@pytest.fixture(scope="module")
def inputs(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, its data set, the recording of it, and a sentence model."""
    folder = tmp_path_factory.mktemp("live")
    write_captioned_inputs(folder, tiny_llava, n_frames=72)
    write_recording(folder / "session.nwb", load_prepared(folder / "data"))
    return folder


def write_recording(path: Path, prepared: PreparedSet) -> None:
    """Write spikes that have these counts: each within its bin."""
    units = prepared.population.units
    trains = []
    for counts in prepared.counts.T:
        bins = np.repeat(np.flatnonzero(counts), counts[counts > 0])
        first = np.searchsorted(bins, bins)
        trains.append((bins + (np.arange(len(bins)) - first + 0.5) / 300) / 120)
    write_units(
        path,
        trains,
        ids=[int(unit.unit_id) for unit in units],
        columns=label_columns(units),
    )


def evaluation(inputs: Path, out: Path, *more: object) -> Sequence[str]:
    words = ("evaluate", "fidelity", inputs / "bundle", inputs / "data", "--out", out)
    options = ("--windows", 72, "--workers", 1, "--sentence-model", inputs / "bert")
    return [str(word) for word in (*words, *options, "--device", "cpu", *more)]


@pytest.fixture(scope="module")
def folder(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replay the held-out showing; record it, and evaluate it as it runs."""
    folder = tmp_path_factory.mktemp("replay")
    prepared = load_prepared(inputs / "data")
    start_s = float(prepared.shown.start_ns[prepared.shown.role == 2][0]) / 1e9 - 0.2
    play = ("--units-from", inputs / "bundle", "--speed", "max", "--start", start_s)
    source_words = ("nwb", inputs / "session.nwb", *play, "--bind", ANY_PORT)
    run = (
        "run", "--bundle", inputs / "bundle", "--publish", ANY_PORT, "--populations", POPULATIONS,
        # One process: on a machine that stands still for seconds, a worker gives a window up.
        "--set", "narrator.mode=sequential", "--set", "window.stride_bins=1",
        "--set", "http.enabled=false", "--set", "encoder.device=cpu", "--exit-at-end",
    )  # fmt: skip
    with Neurrate(
        "stream", *source_words, "--wait-subscribers", 2, folder=folder, name="source"
    ) as source:
        spikes = source.addresses()["spikes"]
        with Neurrate(*run, "--connect", spikes, folder=folder, name="daemon") as daemon:
            publish = daemon.addresses()["publish"]
            words = evaluation(inputs, folder / "subscribed", "--subscribe", publish)
            record = ("record", folder / "journal", "--spikes", spikes, "--connect", publish)
            with evaluating(words, folder / "evaluate.log") as process:
                with Neurrate(*record, "--min-free-mb", 1, folder=folder, name="rec") as recorder:
                    assert daemon.wait() == 0
                    recorder.signal(signal.SIGINT)
                    assert recorder.wait() == 0
                assert process.wait(DEADLINE_S) == 0, (folder / "evaluate.log").read_text()
    return folder


@contextmanager
def evaluating(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start an evaluation that subscribes; go on once it receives what the daemon publishes."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "neurrate", *words], stderr=file)
    try:
        wait_until(
            lambda: "evaluate: recording" in log.read_text(),
            deadline_s=DEADLINE_S,
            what="a subscription",
        )
        yield process
    finally:
        process.kill()
        process.wait()


def test_scores_of_a_replay_are_those_of_its_recording(inputs: Path, folder: Path):
    """Every table to the last digit: from a journal, while it ran, and without any process."""
    assert main(evaluation(inputs, folder / "offline")) == 0
    assert main(evaluation(inputs, folder / "live", "--journal", folder / "journal")) == 0
    tables = [path.name for path in (folder / "offline").glob("*.csv")]
    assert {"fidelity-scores.csv", SENTENCES} <= set(tables)
    for name in tables:
        offline = (folder / "offline" / name).read_bytes()
        assert (folder / "live" / name).read_bytes() == offline
        assert (folder / "subscribed" / name).read_bytes() == offline
    page = (folder / "live" / "report.html").read_text()
    assert "read from a journal: " in page
    assert "0 more held-out windows with captions were not narrated" in page
    assert "made here by the same model, from the data set: true patches" in page
    with closing(sqlite3.connect(folder / "live" / "narrations.sqlite")) as store:
        [[n_made]] = store.execute("SELECT count(*) FROM narrations")
    n_windows = len((folder / "live" / SENTENCES).read_text().splitlines()) - 1
    assert n_made == 3 * n_windows  # ceiling and floors alone


@pytest.mark.parametrize("question", ["scaling", "single-units"])
def test_other_questions_need_units_that_no_daemon_narrates(
    inputs: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], question: str
):
    """Random subsets and single units are in no journal; the refusal says so."""
    words = evaluation(inputs, tmp_path / "out", "--journal", folder / "journal")
    assert main([word.replace("fidelity", question) for word in words]) == 2
    assert "only the populations that its daemon narrated" in capsys.readouterr().err


def test_journal_of_another_bundle_is_refused(
    inputs: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The sha256 in its narrations is not that of the bundle; both are named."""
    copy_bundle(inputs / "bundle", tmp_path / "bundle", sha256="")
    words = [
        word.replace(str(inputs / "bundle"), str(tmp_path / "bundle"))
        for word in evaluation(inputs, tmp_path / "out", "--journal", folder / "journal")
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert load_manifest(tmp_path / "bundle").sha256[:12] in error
    assert load_manifest(inputs / "bundle").sha256[:12] in error
