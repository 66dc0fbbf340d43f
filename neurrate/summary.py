"""The summary that ends a run: where every spike and window went, and how late the words were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from contracts.narration import Status
from neurrate.tables import print_table
from subscribers.watch.report import score_rows

if TYPE_CHECKING:
    from subscribers.watch.state import WatchState

LABELS = {"drops": "windows dropped", "narrations": "narrations with words"}

FAILED = Status.FAILED.value

SINK_COUNTS = ("sent", "failed", "dropped")


def account(summary: Mapping[str, Any], *, spikes_sent: int | None = None) -> dict[str, Any]:
    """Return the numbers of a run, flat.

    Spikes sent, received, binned; windows, each narrated or dropped; narrations, one for each
    population of a narrated window; triggers by rule, and what became of them by sink; latencies. A
    failed window counts as dropped, and a failed narration as none.
    """
    counters = summary["counters"]
    spoken = {k: n for k, n in counters["narrations"].items() if k != FAILED}
    n_dropped = sum(counters["windows_dropped"].values())
    return {
        "spikes_sent": spikes_sent,
        "spikes_received": counters["spikes_received"],
        "spikes_binned": counters["spikes_binned"],
        "spikes_late": counters["spikes_late"],
        "spikes_unknown": counters["spikes_unknown"],
        "batches_lost": counters["batches_lost"],
        "windows": counters["windows"],
        "windows_encoded": counters["windows_encoded"],
        "windows_narrated": counters["windows"] - n_dropped,
        "drops": n_dropped,
        "drops_by_reason": counters["windows_dropped"],
        "narrations": sum(spoken.values()),
        "narrations_by_status": counters["narrations"],
        "triggers": sum(counters["triggers"].values()),
        "triggers_by_rule": counters["triggers"],
        "sinks": {
            sink: {what: counters[f"trigger_sink_{what}"][sink] for what in SINK_COUNTS}
            for sink in counters["trigger_sink_sent"]
        },
        "latency_ms": summary["latency_ms"],
    }


def print_summary(summary: Mapping[str, Any], *, spikes_sent: int | None = None) -> None:
    """Print the numbers of a run as two tables: what became of everything, and latencies."""
    numbers = account(summary, spikes_sent=spikes_sent)
    print_table("What became of it", _rows(numbers))
    latency_ms = numbers["latency_ms"]
    if latency_ms:
        print_table(
            "Latency, ms",
            [
                {"stage": stage, **{key: values[key] for key in ("p50", "p95", "p99", "max", "n")}}
                for stage, values in latency_ms.items()
            ],
        )


def _rows(numbers: Mapping[str, Any]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, value in numbers.items():
        if value is None or name in {"latency_ms", "triggers", "triggers_by_rule", "sinks"}:
            continue
        if isinstance(value, Mapping):
            labels = {FAILED: "narrations failed"} if name == "narrations_by_status" else {}
            rows += [_row(labels.get(why, f"  {why}"), n) for why, n in value.items() if n]
        else:
            rows.append(_row(LABELS.get(name, name.replace("_", " ")), value))
    return rows + _trigger_rows(numbers)


def _trigger_rows(numbers: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return a row for each rule, those that never fired too, and for each count of a sink."""
    if not numbers["triggers_by_rule"]:
        return []
    rows = [_row("triggers", numbers["triggers"])]
    rows += [_row(f"  {rule}", n) for rule, n in numbers["triggers_by_rule"].items()]
    for sink, counts in numbers["sinks"].items():
        rows += [_row(f"sink {sink}, {what}", n) for what, n in counts.items()]
    return rows


def _row(label: str, n: int) -> dict[str, object]:
    return {"": label, "count": f"{n:,}"}


def print_scores(state: WatchState) -> None:
    """Print the object scores of a watcher as a table, if the truth was known at all."""
    rows = score_rows(state)
    if rows:
        print_table("Objects named, against the true captions", rows)
