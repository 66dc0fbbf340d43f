"""A rate of windows, and a run of the whole chain at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.clock import NS_PER_S
from evaluation.latency.inputs import TrialInputs
from evaluation.latency.messages import Message
from evaluation.latency.rig import SPIKES, RigPlan, running

WARM_S = 1.0
"""Wall seconds at the beginning of each rate that are not measured: the first sentence of a new
process is slower than those that follow."""

LONGEST_BATCH_MS = 10.0
"""What an online sorter gives at once, in seconds of the clock on the wall."""

SHORTEST_BATCH_MS = 0.1

QUEUE_MESSAGES = 1_000_000
"""Kept by the daemon for us: a message that we miss would be a hole in the figures."""


@dataclass(frozen=True, slots=True)
class WindowRate:
    """How a rate of windows is made: by the stride, and beyond one window a bin by the speed.

    Attributes
    ----------
    rate : float
        Windows per second of the clock on the wall.
    stride_bins : int
    speed : float
        Session seconds per second.
    batch_ms : float
        Session milliseconds in a batch: no more than a window's stride, so that no batch finishes
        two windows, and no more than an online sorter gives at once.
    """

    rate: float
    stride_bins: int
    speed: float
    batch_ms: float


def pace(rate: float, bins_per_s: float) -> WindowRate:
    """Return stride, speed and batch that give a rate exactly.

    Parameters
    ----------
    rate : float
        Windows per second.
    bins_per_s : float
        Of the encoder.

    Examples
    --------
    >>> pace(20, 120)
    WindowRate(rate=20, stride_bins=6, speed=1.0, batch_ms=10.0)
    >>> pace(240, 120)
    WindowRate(rate=240, stride_bins=1, speed=2.0, batch_ms=8.3)
    """
    stride_bins = max(1, round(bins_per_s / rate))
    speed = rate * stride_bins / bins_per_s
    stride_ms = 1e3 * stride_bins / bins_per_s
    batch_ms = min(LONGEST_BATCH_MS * speed, stride_ms)
    tenths = max(SHORTEST_BATCH_MS, int(batch_ms * 10 + 1e-9) / 10)
    return WindowRate(rate, stride_bins, speed, tenths)


@dataclass(frozen=True, slots=True)
class RateRun:
    """What came of a run: all messages, and the two summaries."""

    messages: Sequence[Message]
    source: Mapping[str, Any]
    daemon: Mapping[str, Any]


def run_rate(
    material: TrialInputs,
    rate: WindowRate,
    folder: Path,
    *,
    seconds: float,
    settings: Sequence[str],
    config: Path | None,
    is_stopped: Callable[[], bool],
    on_second: Callable[[float], None],
) -> RateRun | None:
    """Play at one rate and keep all that is said.

    Parameters
    ----------
    material : TrialInputs
    rate : WindowRate
    folder : Path
        New; logs and summaries of the two processes go there.
    seconds : float
        Wall seconds to measure, after the warm-up.
    settings : sequence of str
        For the daemon, as after ``--set``.
    config : Path or None
        TOML file for the daemon.
    is_stopped : callable
        Asked all the time.
    on_second : callable
        Told how many wall seconds have been played.

    Returns
    -------
    RateRun or None
        None if it was stopped before its end.
    """
    folder.mkdir()
    plan = RigPlan(
        material.recording,
        material.bundle,
        material.model,
        material.populations,
        stride_bins=rate.stride_bins,
        speed=rate.speed,
        batch_ms=rate.batch_ms,
        seconds=(seconds + WARM_S) * rate.speed,
        start=material.start,
        settings=tuple(settings),
        config=config,
        queue_messages=QUEUE_MESSAGES,
    )
    messages: list[Message] = []
    first_ns = 0
    with running(plan, folder) as rig:
        while not rig.is_over:
            if is_stopped():
                rig.ask_to_stop()
                rig.summaries()
                return None
            for message in rig.take():
                messages.append(message)
                if message.topic.startswith(SPIKES):
                    first_ns = first_ns or message.received_ns
                    on_second((message.received_ns - first_ns) / NS_PER_S)
        while more := rig.take():
            messages += more
        return RateRun(messages, *rig.summaries())
