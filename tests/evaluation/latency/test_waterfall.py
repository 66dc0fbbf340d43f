"""The picture of the latencies has its parts. What it is drawn from is made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.latency.knee import find_knee
from evaluation.latency.rate import pace
from evaluation.latency.report import narration_rows, trigger_rows
from evaluation.latency.run import RateResult
from evaluation.latency.waterfall import write_waterfall

STAGES = ("cut", "encode", "wait", "prefill", "decode", "publish")


def _percentiles(p50: float) -> dict[str, float]:
    return {"p50": p50, "p95": 2 * p50, "p99": 3 * p50, "max": 4 * p50, "n": 10}


def _result(rate: float, narrated: int, *, has_rules: bool = True) -> RateResult:
    trigger = {
        "n": 8, "per_s": 1.0, "middle_ms": {"cut": 1.0, "encode": 3.0, "decide": 1.0},
        "stages_ms": {name: _percentiles(2.0) for name in ("cut", "encode", "decide", "total")},
        "published_to_here_ms": _percentiles(0.2),
    }  # fmt: skip
    return RateResult(
        pace=pace(rate, 120),
        seconds=8.0,
        windows={"cut": 99, "narrated": narrated, "dropped": {"narrator_busy": 3}, "skipped": 0},
        measured_windows=80,
        measured_narrated=narrated,
        narrations_per_s=narrated / 8,
        tokens_per_s=10.0,
        stages_ms={name: _percentiles(10.0 * rate) for name in (*STAGES, "total")},
        middle_ms=dict.fromkeys(STAGES, 10.0),
        sent_to_received_ms=_percentiles(0.5),
        published_to_here_ms=None,
        triggers={"probe": trigger} if has_rules else {},
        spikes={"sent": 100, "received": 100, "binned": 98, "late": 2, "batches_lost": 0},
        source_late_ms=1.0,
    )


RESULTS = [_result(1, 80), _result(2, 80), _result(10, 40)]


@pytest.mark.parametrize("has_rules", [True, False])
def test_the_picture_has_the_stages_the_marks_and_the_knee(tmp_path, has_rules):
    """Every stage, every percentile, every rate and the knee are named."""
    results = [_result(each.pace.rate, each.measured_narrated, has_rules=has_rules)
               for each in RESULTS]  # fmt: skip
    path = tmp_path / "latency.svg"
    write_waterfall(path, results, find_knee([r.point for r in results]), title="a bench")
    drawn = path.read_text()
    texts = [*STAGES, "p50", "p95", "p99", "1/s", "10/s", "knee", "100% of the windows"]
    texts += ["narration p99", "windows narrated", "narrations", "50% of the windows"]
    for text in texts:
        assert f"<!-- {text} -->" in drawn
    assert ("probe trigger p99" in drawn) is has_rules
    assert ("1.0 triggers/s" in drawn) is has_rules
    assert "Knee: 2 windows/s. At 10, only 50.0% of the windows are narrated." in drawn


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    """No date and no random name is left in a picture."""
    for name in ("a.png", "b.png"):
        write_waterfall(tmp_path / name, RESULTS, find_knee([r.point for r in RESULTS]), title="a")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_tables_have_a_row_for_each_rate():
    """Whole latencies, and the share of the windows that were narrated."""
    rows = narration_rows(RESULTS)
    assert [row["windows/s"] for row in rows] == ["1", "2", "10"]
    last = rows[2]
    assert [last[name] for name in ("p50", "p95", "p99", "max")] == ["100", "200", "300", "400"]
    assert (last["windows"], last["narrated"], last["spikes lost"]) == (80, "50.0%", 2)
    triggers = trigger_rows(RESULTS)
    assert list(triggers) == ["probe"]
    assert [row["p99"] for row in triggers["probe"]] == 3 * ["6.00"]
    assert triggers["probe"][0]["triggers"] == 8


def test_a_rate_at_which_nothing_was_narrated_has_a_row():
    """It has dashes, and nothing to divide by."""
    (row,) = narration_rows([replace(RESULTS[0], stages_ms={}, measured_narrated=0)])
    assert (row["p50"], row["narrated"]) == (None, "0.0%")
