"""The benchmarks run and report their results; durations are not tested."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from benchmarks.bench_recorder import BYTES, CPU, LOADS, draw
from benchmarks.measure import figure
from tests.support.captioned_bundle import write_captioned_inputs

ROOT = Path(__file__).parent.parent
BENCHMARKS = (
    "bin_ring",
    "wire_ingest",
    "window_cut",
    "dataset",
    "encoder",
    "narrator",
    "trigger_evaluator",
    "trigger",
    "rate_meter",
    "vllm_send",
    "online_sorter",
    "recorder",
    "peers",
    "curve",
)


def run(*arguments):
    """Run a module of the benchmarks and return the JSON document of its last line."""
    ran = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.timeout(600)  # the encoder is exported
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_benchmark_ends_with_a_json_line(benchmark, tmp_path):
    """Every contender is measured, and the document in the file is the one on the last line."""
    path = tmp_path / "result.json"
    document = run(f"benchmarks.bench_{benchmark}", "--quick", "--seed", "7", "--json", str(path))
    assert json.loads(path.read_text(encoding="utf-8")) == document
    assert document["benchmark"] == benchmark
    assert document["rows"]
    for row in document["rows"]:
        assert row["n"] > 0
        assert 0 < row["p50_us"] <= row["p95_us"] <= row["p99_us"] <= row["max_us"]
    assert all(line["low"] <= line["median"] <= line["high"] for line in document["figures"])


@pytest.mark.timeout(600)
def test_growth_measures_every_point(tmp_path):
    """Each point has its latency, processor time and memory, and the curves are drawn."""
    picture = tmp_path / "growth.png"
    document = run("benchmarks.growth", "--quick", "--seed", "7", "--picture", str(picture))
    cases = [row["case"] for row in document["rows"]]
    assert cases == ["units 60", "units 90", "probes 1", "probes 2"]
    figures = {(line["case"], line["name"]): line["median"] for line in document["figures"]}
    for case in cases:
        assert figures[case, "daemon and worker, cores"] > 0
        assert figures[case, "daemon and worker, MB"] > 50
        assert figures[case, "narrated, %"] > 0
    assert document["environment"]["command"].startswith("python -m benchmarks.growth --seed 7")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(600)
def test_questions_are_timed_and_their_processes_weighed(tiny_llava, tmp_path):
    """One worker and two, the time of each command, and the memory of driver and workers."""
    write_captioned_inputs(tmp_path, tiny_llava, n_frames=72)
    inputs = ("--bundle", str(tmp_path / "bundle"), "--dataset", str(tmp_path / "data"))
    document = run(
        "benchmarks.evaluate", "--quick", *inputs, "--sentence-model", str(tmp_path / "bert")
    )
    assert [row["contender"] for row in document["rows"]] == ["1 workers", "2 workers", ANY]
    found = {(line["case"], line["name"]): line["median"] for line in document["figures"]}
    assert found["1 workers", "speed-up"] == 1
    assert found["fidelity", "sentences made"] == 200
    assert found["fidelity", "driver, MB"] > 100


def test_cost_of_recording_is_drawn(tmp_path):
    """Over spikes and over batches a second."""
    costs = {
        load: {name: figure(load.name, name, np.array([1.0])) for name in (CPU, BYTES)}
        for load in LOADS
    }
    draw(tmp_path / "recorder.svg", costs)
    assert b"batches a second, of 30,000 spikes" in (tmp_path / "recorder.svg").read_bytes()


def test_result_can_be_repeated():
    """A result names the command, the seed, the versions and the machine, but no path on it."""
    document = run("benchmarks.bench_window_cut", "--quick", "--seed", "7")
    environment = document["environment"]
    assert environment["command"] == "python -m benchmarks.bench_window_cut --seed 7 --quick"
    assert {"commit", "is_dirty", "versions", "cpu", "n_cores", "date"} <= set(environment)
    assert str(ROOT) not in json.dumps(document)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/runs").glob("*.json")), ids=lambda path: path.stem
)
def test_committed_results_met_their_budgets(path):
    """A result in ``runs/`` is of a full run of a clean commit, within its budgets."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert not document["is_quick"]
    assert document["environment"]["is_dirty"] is False
    assert document["budgets"]
    assert all(budget["is_met"] for budget in document["budgets"])
