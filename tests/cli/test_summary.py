"""The table that ends a run adds up, and names rules and sinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daemon.counters import Counters
from neurrate.summary import account, print_summary


def _summary(counters: Counters) -> dict[str, Any]:
    return {"counters": counters.as_dict(), "latency_ms": {}}


def _counters() -> Counters:
    return replace(
        Counters(),
        windows=10,
        narrations={"ok": 6, "truncated": 1, "failed": 2},
        windows_dropped={"narrator_busy": 1, "narration_failed": 2},
    )


def test_narrations_with_words_and_failed_ones_are_apart(capsys):
    """What stands under a total sums to it; failed narrations have a row of their own."""
    print_summary(_summary(_counters()))
    rows = _rows(capsys.readouterr().out)
    assert rows["narrations with words"] == "7"
    assert (rows["ok"], rows["truncated"]) == ("6", "1")
    assert rows["narrations failed"] == "2"
    assert "triggers" not in rows


def test_rules_and_sinks_have_rows(capsys):
    """Each rule, one that never fired too, and what became of triggers at each sink."""
    counters = replace(
        _counters(),
        triggers={"car_seen": 1200, "dog_said": 0},
        trigger_sink_sent={"pulse": 1100},
        trigger_sink_failed={"pulse": 60},
        trigger_sink_dropped={"pulse": 40},
    )
    print_summary(_summary(counters))
    rows = _rows(capsys.readouterr().out)
    assert (rows["triggers"], rows["car_seen"], rows["dog_said"]) == ("1,200", "1,200", "0")
    found = [rows[f"sink pulse, {what}"] for what in ("sent", "failed", "dropped")]
    assert found == ["1,100", "60", "40"]
    assert account(_summary(counters))["sinks"] == {
        "pulse": {"sent": 1100, "failed": 60, "dropped": 40}
    }


def _rows(printed: str) -> dict[str, str]:
    cells = (line.split("│") for line in printed.splitlines() if line.count("│") == 3)
    return {label.strip(): count.strip() for _, label, count, _ in cells}
