"""The picture of a latency benchmark: stages end to end, and the curves with their knee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.latency.knee import Knee
from evaluation.latency.run import RateResult

COLOURS = {
    "cut": "#5c6770",
    "encode": "#2a6f97",
    "wait": "#d9c27e",
    "prefill": "#e8a15c",
    "decode": "#c8553d",
    "say": "#c8553d",
    "decide": "#7b5ea7",
    "publish": "#4f9d69",
}
OTHER = "#9aa5b1"
INK = "#33383d"
WIDTH_IN = 9.0
ROW_IN = 0.32
CURVES_IN = 3.0


def write_waterfall(path: Path, results: Sequence[RateResult], knee: Knee, *, title: str) -> None:
    """Draw stages, latencies and throughput of `results`, which are in order of their rates.

    The suffix of `path` selects the format.
    """
    from encoder_training.pictures import report_figure

    rows = _rows(results)
    height_in = CURVES_IN + 1.6 + ROW_IN * len(rows)
    with report_figure(path, (WIDTH_IN, height_in)) as figure:
        figure.suptitle(f"{title}\n{knee.sentence()}", fontsize=9)
        upper, lower = figure.subfigures(2, 1, height_ratios=[height_in - CURVES_IN, CURVES_IN])
        _stages(upper.subplots(), rows)
        latency, throughput = lower.subplots(1, 2)
        _latency(latency, results, knee)
        _throughput(throughput, results, knee)


@dataclass(frozen=True, slots=True)
class _StageRow:
    """One bar: its stages, the percentiles of their sum, and a note at its end."""

    label: str
    middle: dict[str, float]
    total: dict[str, float]
    note: str


def _rows(results: Sequence[RateResult]) -> list[_StageRow]:
    rows = []
    for result in results:
        label = f"{result.pace.rate:g}/s"
        if result.stages_ms:
            note = f"{result.share:.0%} of the windows"
            rows.append(_StageRow(label, result.middle_ms, result.stages_ms["total"], note))
        for kind, triggers in result.triggers.items():
            total, note = triggers["stages_ms"]["total"], f"{triggers['per_s']:.1f} triggers/s"
            rows.append(_StageRow(f"{label}, {kind} rules", triggers["middle_ms"], total, note))
    return rows


def _stages(axes: Any, rows: Sequence[_StageRow]) -> None:
    """Draw the stages of the typical message end to end; mark the percentiles of the total."""
    drawn: dict[str, None] = {}
    for y, row in enumerate(rows):
        left = 0.0
        for stage, ms in row.middle.items():
            axes.barh(y, ms, left=left, color=COLOURS.get(stage, OTHER), height=0.62)
            left += ms
            drawn[stage] = None
        for name, marker in (("p50", "|"), ("p95", "o"), ("p99", "D")):
            axes.plot(row.total[name], y, marker, color=INK, markersize=4 if marker != "|" else 11)
        axes.plot([left, row.total["p99"]], [y, y], color=INK, linewidth=0.6, zorder=0)
        axes.annotate(row.note, (max(left, row.total["p99"]), y), (6, 0),
                      textcoords="offset points", va="center", fontsize=7, color=INK)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(row.total["p99"] for row in rows))
    axes.set_xlabel("ms since the newest spike was received")
    axes.set_ylabel("windows cut")
    _legend(axes, list(drawn))


def _legend(axes: Any, stages: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=COLOURS.get(name, OTHER), label=name) for name in stages]
    handles += [
        Line2D([], [], linestyle="", marker=marker, color=INK, markersize=size, label=name)
        for name, marker, size in (("p50", "|", 9), ("p95", "o", 4), ("p99", "D", 4))
    ]
    axes.legend(handles=handles, ncols=len(handles), fontsize=7, frameon=False, loc="lower left",
                bbox_to_anchor=(0, 1), columnspacing=1.2, handlelength=1.2)  # fmt: skip


def _latency(axes: Any, results: Sequence[RateResult], knee: Knee) -> None:
    narrated = [result for result in results if result.stages_ms]
    rates = [result.pace.rate for result in narrated]
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        values = [result.stages_ms["total"][name] for result in narrated]
        axes.plot(rates, values, style, marker=".", color=COLOURS["decode"],
                  label=f"narration {name}")  # fmt: skip
    for kind in dict.fromkeys(kind for result in results for kind in result.triggers):
        triggered = [result for result in results if kind in result.triggers]
        for name, style in (("p50", "-"), ("p99", ":")):
            axes.plot(
                [result.pace.rate for result in triggered],
                [result.triggers[kind]["stages_ms"]["total"][name] for result in triggered],
                style, marker=".", color=COLOURS["decide"], label=f"{kind} trigger {name}",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("received to published, ms")
    _against_rate(axes, knee)


def _throughput(axes: Any, results: Sequence[RateResult], knee: Knee) -> None:
    rates = [result.pace.rate for result in results]
    axes.plot(rates, rates, color=INK, linewidth=0.6, label="windows cut")
    narrated = [result.measured_narrated / result.seconds for result in results]
    axes.plot(rates, narrated, marker=".", color=COLOURS["encode"], label="windows narrated")
    narrations = [result.narrations_per_s for result in results]
    axes.plot(rates, narrations, marker=".", color=COLOURS["decode"], label="narrations")
    axes.set_yscale("log")
    axes.set_ylabel("per second")
    _against_rate(axes, knee)


def _against_rate(axes: Any, knee: Knee) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    rates = sorted({float(rate) for line in axes.lines for rate in line.get_xdata()})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel("windows cut per second")
    if knee.rate is not None:
        label = "knee" if knee.beyond is not None else "no knee so far"
        axes.axvline(knee.rate, color=OTHER, linewidth=1, linestyle="-.", label=label)
    axes.legend(fontsize=7, frameon=False)
