"""Tables of a latency benchmark, and the conditions under which it ran."""

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
    from evaluation.latency.inputs import TrialInputs
    from evaluation.latency.run import RateResult

PERCENTILES = ("p50", "p95", "p99", "max")


def circumstances(played: TrialInputs) -> dict[str, Any]:
    """Return what the numbers depend on: the command, the machine, and the inputs."""
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
    """Return the processor's name from /proc/cpuinfo, or what the platform module knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def narration_rows(results: Sequence[RateResult]) -> list[dict[str, object]]:
    """Return total latencies and the counts of windows and spikes, a row for each rate."""
    return [
        {
            "windows/s": f"{result.pace.rate:g}",
            **_percentile_cells(result.stages_ms.get("total")),
            "windows": result.measured_windows,
            "narrated": f"{result.share:.1%}",
            "spikes lost": result.spikes["sent"] - result.spikes["binned"],
        }
        for result in results
    ]


def trigger_rows(results: Sequence[RateResult]) -> dict[str, list[dict[str, object]]]:
    """Return total latencies of triggers by the kind of their rules, a row for each rate."""
    rows: dict[str, list[dict[str, object]]] = {}
    for result in results:
        for kind, triggers in result.triggers.items():
            cells = _percentile_cells(triggers["stages_ms"]["total"])
            rate = f"{result.pace.rate:g}"
            rows.setdefault(kind, []).append(
                {"windows/s": rate, **cells, "triggers": triggers["n"]}
            )
    return rows


def _percentile_cells(ms: dict[str, float] | None) -> dict[str, object]:
    return {name: None if ms is None else _ms(ms[name]) for name in PERCENTILES}


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
