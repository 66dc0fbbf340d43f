"""``neurrate bench`` through real processes, for a few seconds each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.manifest import Manifest
from neurrate.cli import main
from tests.support.processes import DEADLINE_S
from tests.support.wait_until import wait_until

RULE = """
[triggers.spoken]
when = 'narration of all says "car"'
[triggers.more]
when = 'narration of all says "dog"'
"""


@pytest.fixture(scope="module")
def words(
    recording: Path, tiny_bundle: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Return arguments of both verbs: a narrator without a language model loads at once."""
    folder = tmp_path_factory.mktemp("bench")
    rules = folder / "rules.toml"
    rules.write_text(RULE)
    return [
        "--recording", str(recording), "--bundle", str(tiny_bundle.folder),
        "--backend", "retrieval", "--populations", "all,VISp", "--folder", str(folder),
        "--set", f"triggers.rules={rules}",
    ]  # fmt: skip


def test_latency_at_two_rates(words, tmp_path: Path, capsys):
    """Every window has its stages, the parts sum to the whole, and the knee is named."""
    path, picture = tmp_path / "latency.json", tmp_path / "latency.png"
    rates = ["--rates", "10,4", "--seconds-per-rate", "2"]
    files = ["--json", str(path), "--picture", str(picture)]
    assert main(["bench", "latency", *rates, *files, *words]) == 0
    report = json.loads(path.read_text())
    assert report["is_whole"]
    assert [rate["pace"]["rate"] for rate in report["rates"]] == [4, 10]
    for rate in report["rates"]:
        windows = rate["windows"]
        assert windows["cut"] == windows["narrated"] + sum(windows["dropped"].values())
        assert rate["spikes"]["sent"] == rate["spikes"]["binned"]
        assert rate["measured_windows"] == pytest.approx(2 * rate["pace"]["rate"], abs=2)
        stages = rate["stages_ms"]
        assert stages["total"]["n"] == stages["encode"]["n"] > 0
        assert sum(rate["middle_ms"].values()) <= stages["total"]["max"]
        assert rate["sent_to_received_ms"]["p50"] > 0
        assert rate["published_to_here_ms"]["p50"] > 0
    shown = capsys.readouterr()
    assert report["knee"]["sentence"] in shown.out
    assert max(len(line) for line in shown.out.splitlines() if "│" in line) < 100
    assert [line for line in shown.err.splitlines() if line.startswith("bench: ")] == [
        "bench: 4 windows/s (1 of 2), 3 s", "bench: 10 windows/s (2 of 2), 3 s",
    ]  # fmt: skip
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_disturbed_soak(words, tmp_path: Path, capsys):
    """Narrator and recorder are killed, a source stops: every spike has a bin and is recorded."""
    path, picture, journal = (tmp_path / name for name in ("soak.jsonl", "soak.png", "journal"))
    words = [*words, "--json", str(path), "--picture", str(picture), "--journal", str(journal)]
    main(["bench", "soak", "--minutes", "0.25", "--disturb", *words])  # too short for every rule
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = [line["name"] for line in lines if line["kind"] == "event"]
    assert [name for name in events if name != "recorder is back"] == [
        "slow subscriber", "recorder killed", "recorder started", "narrator stopped",
        "narrator goes on", "narrator killed", "source stopped", "source goes on",
    ]  # fmt: skip
    assert lines[0]["kind"] == "soak"
    ended = lines[-1]
    assert ended["kind"] == "end"
    verdicts = {verdict["name"]: verdict for verdict in ended["verdicts"]}
    spikes = ("spikes", "journal, spikes", "journal, narrations")
    for name in (*spikes, "windows", "narrator goes on", "narrator killed"):
        assert verdicts[name]["is_ok"], verdicts[name]
    assert ended["daemon"]["counters"]["windows"] >= 0.95 * 0.25 * 60 * 5  # whatever was stopped
    assert ended["daemon"]["counters"]["worker_restarts"] == 1
    assert len([line for line in lines if line["kind"] == "sample"]) > 8
    assert "ok: spikes" in capsys.readouterr().out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert len(ended["source"]["spikes_of_sources"]) == 2
    assert ended["journal"]["holes"]["spikes"] == ended["journal"]["missing"]["n_batches"] > 0
    assert main(["bench", "soak", *words]) == 2
    assert "must be a new folder" in capsys.readouterr().err


def test_ctrl_c_ends_a_soak_and_keeps_what_was_seen(words, tmp_path: Path):
    """What was sent is narrated, the verdicts are written, and the exit code says unfinished."""
    path = tmp_path / "soak.jsonl"
    command = [sys.executable, "-m", "neurrate.cli", "bench", "soak", "--minutes", "5"]
    with subprocess.Popen(
        [*command, *words, "--json", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until(
                lambda: path.exists() and path.read_text().count('"kind": "sample"') >= 2,
                deadline_s=DEADLINE_S,
                what="two samples",
            )
            process.send_signal(signal.SIGINT)
            printed, warned = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 130, warned.decode()
    assert warned.decode().splitlines() == [
        "bench: soak at 5 windows/s, 300 s", "neurrate: stopped before the end.",
    ]  # fmt: skip
    assert b"ok: spikes" in printed
    ended = json.loads(path.read_text().splitlines()[-1])
    assert ended["source"]["was_stopped"]
    assert ended["source"]["n_spikes"] == ended["daemon"]["counters"]["spikes_binned"]
