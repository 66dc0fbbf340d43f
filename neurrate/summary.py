"""The summary that ends a run: where every spike and window went, and how late the words were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.narration import Status
from neurrate.tables import print_table

LABELS = {"drops": "windows dropped", "narrations": "narrations, all populations"}


def account(summary: Mapping[str, Any], *, spikes_sent: int | None = None) -> dict[str, Any]:
    """Return the numbers of a run, flat.

    Parameters
    ----------
    summary : mapping
        As the daemon's ``stats`` message.
    spikes_sent : int, optional
        What the source says it sent.

    Returns
    -------
    numbers : dict
        Spikes sent, received, binned; windows, each narrated or dropped; narrations, one for each
        population of a narrated window; latencies. A failed window counts as dropped.
    """
    counters = summary["counters"]
    spoken = {k: n for k, n in counters["narrations"].items() if k != Status.FAILED.value}
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
        "latency_ms": summary["latency_ms"],
    }


def print_summary(summary: Mapping[str, Any], *, spikes_sent: int | None = None) -> None:
    """Print the numbers of a run as two tables: what became of everything, and latencies."""
    numbers = account(summary, spikes_sent=spikes_sent)
    rows = []
    for name, value in numbers.items():
        if name == "latency_ms" or value is None:
            continue
        if isinstance(value, Mapping):
            rows += [{"": f"  {reason}", "count": f"{n:,}"} for reason, n in value.items() if n]
        else:
            label = LABELS.get(name, name.replace("_", " "))
            rows.append({"": label, "count": f"{value:,}"})
    print_table("What became of it", rows)
    latency_ms = numbers["latency_ms"]
    if latency_ms:
        print_table(
            "Latency, ms",
            [
                {"stage": stage, **{key: values[key] for key in ("p50", "p95", "p99", "max", "n")}}
                for stage, values in latency_ms.items()
            ],
        )
