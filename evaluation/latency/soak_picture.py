"""The picture of a soak: everything over the same time, and what was done to the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from evaluation.latency.disturbances import (
    GOES_ON,
    RECORDER_BACK,
    RECORDER_STARTED,
    SOURCE_GOES_ON,
    STOPPED,
)
from evaluation.latency.sample import Event, Log, Sample

WIDTH_IN, PANEL_IN = 9.0, 1.45
COLOURS = {"daemon": "#2a6f97", "worker": "#c8553d", "source": "#9aa5b1", "recorder": "#4f9d69"}
DROPS = ("#d9c27e", "#7b5ea7", "#c8553d", "#4f9d69", "#5c6770", "#e8a15c", "#2a6f97")
UNLABELLED = (RECORDER_STARTED, RECORDER_BACK, SOURCE_GOES_ON)
"""Events whose names would stand on that of the one before."""

INK, SHADE = "#33383d", "#f3e6c8"

Draw = Callable[[Any, Sequence[Sample]], None]


def write_soak_picture(path: Path, log: Log, *, title: str) -> None:
    """Draw every panel over one time axis; the suffix of `path` selects the format.

    `log` must hold two samples or more.
    """
    from encoder_training.pictures import report_figure

    with report_figure(path, (WIDTH_IN, 0.8 + PANEL_IN * len(PANELS))) as figure:
        figure.suptitle(title, fontsize=9)
        panels = figure.subplots(len(PANELS), 1, sharex=True)
        for axes, (label, draw) in zip(panels, PANELS.items(), strict=True):
            draw(axes, log.samples)
            axes.set_ylabel(label, fontsize=8)
            _mark(axes, log.events)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.05))
        _label(panels[0], log.events)
        panels[-1].set_xlabel("seconds since the first window")


def _memory(axes: Any, samples: Sequence[Sample]) -> None:
    _of_processes(axes, samples, "rss_mb")
    axes.set_ylim(bottom=0)


def _descriptors(axes: Any, samples: Sequence[Sample]) -> None:
    _of_processes(axes, samples, "n_descriptors")
    _of_processes(axes, samples, "n_threads", style=":")
    axes.plot([], [], ":", color=INK, label="threads")
    axes.set_ylim(bottom=0)


def _of_processes(axes: Any, samples: Sequence[Sample], attribute: str, style: str = "-") -> None:
    for name, colour in COLOURS.items():
        usages = [(sample.t_s, getattr(sample, name)) for sample in samples]
        values = [
            (t_s, getattr(usage, attribute) if usage else float("nan")) for t_s, usage in usages
        ]
        label = name if style == "-" else None
        axes.plot(*zip(*values, strict=True), style, color=colour, linewidth=1, label=label)


def _queue(axes: Any, samples: Sequence[Sample]) -> None:
    time_s = [sample.t_s for sample in samples]
    for name, colour in (("unfinished", COLOURS["worker"]), ("waiting", COLOURS["daemon"])):
        values = [sample.queue.get(name, float("nan")) for sample in samples]
        axes.step(time_s, values, where="post", color=colour, linewidth=1, label=name)
    axes.set_ylim(bottom=0)


def _throughput(axes: Any, samples: Sequence[Sample]) -> None:
    pairs = [(one, two) for one, two in pairwise(samples) if two.counted_s > one.counted_s]
    cut = [_per_s(earlier, later, "windows") for earlier, later in pairs]
    axes.plot(
        [later.counted_s for _, later in pairs], cut, color=INK, linewidth=1, label="windows cut"
    )
    for name, colour, label in (
        ("n_narrations", COLOURS["worker"], "narrations"),
        ("n_triggers", "#7b5ea7", "triggers"),
    ):
        values = [getattr(sample, name) for sample in samples]
        if any(values):
            axes.plot(
                [sample.t_s for sample in samples], values, color=colour, linewidth=1, label=label
            )
    axes.set_ylim(bottom=0)


def _drops(axes: Any, samples: Sequence[Sample]) -> None:
    reasons = sorted(
        {r for sample in samples for r, n in sample.counters["windows_dropped"].items() if n}
    )
    for reason, colour in zip(reasons, DROPS, strict=False):
        values = [sample.counters["windows_dropped"][reason] for sample in samples]
        axes.plot([sample.t_s for sample in samples], values, color=colour, linewidth=1,
                  label=reason.replace("_", " "))  # fmt: skip
    axes.set_ylim(bottom=0)


def _latency(axes: Any, samples: Sequence[Sample]) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for name, colour in (("latency_ms", COLOURS["worker"]), ("trigger_ms", "#7b5ea7")):
        seconds = [getattr(sample, name) for sample in samples]
        label = "narration" if name == "latency_ms" else "trigger"
        # Triggers are rare, and a line does not show an isolated second: draw points.
        styles = ("-", ":") if name == "latency_ms" else (".", "2")
        for key, style in zip(("p50", "p99"), styles, strict=True):
            if any(seconds):  # a second without messages is a gap in the line
                values = [ms[key] if ms else float("nan") for ms in seconds]
                axes.plot([sample.t_s for sample in samples], values, style, color=colour,
                          linewidth=1, markersize=2.5, label=f"{label} {key}")  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _drift(axes: Any, samples: Sequence[Sample]) -> None:
    drift = [(sample.t_s, sample.drift_ms) for sample in samples if sample.drift_ms is not None]
    if drift:
        axes.plot(*zip(*drift, strict=True), color=INK, linewidth=1)


PANELS: dict[str, Draw] = {
    "memory, MB": _memory,
    "descriptors": _descriptors,
    "windows queued": _queue,
    "per second": _throughput,
    "windows dropped\nso far": _drops,
    "latency, ms": _latency,
    "drift, ms": _drift,
}


def _mark(axes: Any, events: Sequence[Event]) -> None:
    """Shade the time in which the narrator was stopped, and draw a line at each event."""
    at_s = {event.name: event.t_s for event in events}
    if STOPPED in at_s:
        axes.axvspan(at_s[STOPPED], at_s.get(GOES_ON, at_s[STOPPED]), color=SHADE, zorder=0)
    for event in events:
        axes.axvline(event.t_s, color=INK, linewidth=0.6, linestyle="--", zorder=0)


def _label(axes: Any, events: Sequence[Event]) -> None:
    labelled = [event for event in events if event.name not in UNLABELLED]
    for number, event in enumerate(labelled):
        offset = (2, 2 + 9 * (number % 2))
        axes.annotate(event.name, (event.t_s, 1), offset, xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=6.5, color=INK)  # fmt: skip


def _per_s(earlier: Sample, later: Sample, counter: str) -> float:
    grown: int = later.counters[counter] - earlier.counters[counter]
    return grown / (later.counted_s - earlier.counted_s)
