"""What a benchmark leaves behind: tables for people, and the circumstances of its numbers."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurrate.bench_latency import RateResult
    from neurrate.bench_material import Material

PERCENTILES = ("p50", "p95", "p99", "max")


def circumstances(played: Material) -> dict[str, Any]:
    """Return what the numbers depend on: the command, the machine, and what was played."""
    return {
        "command": shlex.join(["neurrate", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("neurrate", "numpy", "pyzmq", "torch")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "n_cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "recording": Path(played.recording).name,
        "bundle": played.bundle.name,
        "model": Path(played.model).name,
        "populations": list(played.populations),
    }


def cpu_model() -> str:
    """Return the processor's name, as Linux knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def throughput_rows(results: Sequence[RateResult]) -> list[dict[str, object]]:
    """Return what became of the windows and the spikes, a row for each rate."""
    return [
        {
            "windows/s": f"{each.pace.rate:g}",
            "cut": each.windows["cut"],
            "narrated": each.windows["narrated"],
            "dropped": _reasons(each.windows["dropped"]),
            "share": f"{each.share:.1%}",
            "narrations/s": round(each.narrations_per_s, 1),
            "spikes lost": each.spikes["sent"] - each.spikes["binned"],
        }
        for each in results
    ]


def latency_rows(results: Sequence[RateResult]) -> list[dict[str, object]]:
    """Return the percentiles of every stage, a row for each, and what lies outside the stamps."""
    rows = []
    for each in results:
        rate = f"{each.pace.rate:g}"
        rows += _stage_rows(rate, "narration", each.stages_ms)
        rows += _line_rows(rate, "sent > received", each.sent_to_received_ms)
        rows += _line_rows(rate, "published > here", each.published_to_here_ms)
        for kind, found in each.triggers.items():
            rows += _stage_rows(rate, f"{kind} trigger", found["stages_ms"])
            rows += _line_rows(rate, f"{kind} trigger > here", found["published_to_here_ms"])
    return rows


def _stage_rows(rate: str, what: str, stages: dict[str, Any]) -> list[dict[str, object]]:
    return [row for stage, found in stages.items() for row in _line_rows(rate, what, found, stage)]


def _line_rows(
    rate: str, what: str, found: dict[str, float] | None, stage: str = ""
) -> list[dict[str, object]]:
    if found is None:
        return []
    cells = {name: f"{found[name]:.2f}" for name in PERCENTILES}
    return [{"windows/s": rate, "of": what, "stage": stage, **cells, "n": found["n"]}]


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in dropped.items()) or "0"
