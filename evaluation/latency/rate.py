"""A rate of windows, and a run of the whole chain at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.clock import NS_PER_S
from contracts.spikes import SpikeBatch
from evaluation.latency.inputs import TrialInputs
from evaluation.trial import TrialPlan, TrialSummary, running
from subscribers.listener import Received

WARM_S = 1.0
"""Wall seconds at the beginning of each rate that are not measured: the first narration of a new
process is slower than those that follow."""

LONGEST_BATCH_MS = 10.0  # Wall time that an online sorter puts into a batch
SHORTEST_BATCH_MS = 0.1


@dataclass(frozen=True, slots=True)
class WindowRate:
    """How a rate of windows is made: by the stride, and beyond one window a bin by the speed."""

    rate: float  # Windows per wall second
    stride_bins: int
    speed: float  # Session seconds per wall second
    # Session milliseconds in a batch: no more than a window's stride, so that no batch completes
    # two windows, and no more than an online sorter sends at once
    batch_ms: float

    def plan(self, inputs: TrialInputs, *, seconds: float) -> TrialPlan:
        """Return the plan of a trial of so many wall seconds at this rate."""
        return TrialPlan(
            inputs.recording,
            inputs.bundle,
            inputs.model,
            inputs.populations,
            stride_bins=self.stride_bins,
            speed=repr(self.speed),
            batch_ms=self.batch_ms,
            start=inputs.start,
            seconds=seconds * self.speed,
            config=inputs.config,
            settings=inputs.settings,
        )


def pace(rate: float, bins_per_s: float) -> WindowRate:
    """Return stride, speed and batch that give a rate exactly.

    `rate` is in windows per wall second, `bins_per_s` in session time.

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
class SentBatch:
    """The times of a batch; its spikes are not kept."""

    seq: int
    start_ns: int  # Session clock
    stop_ns: int  # Session clock
    sent_host_ns: int

    @classmethod
    def of(cls, batch: SpikeBatch) -> SentBatch:
        """Take the times of a batch."""
        return cls(batch.seq, batch.start_ns, batch.stop_ns, batch.sent_host_ns)


@dataclass(frozen=True, slots=True)
class RateRun:
    """What arrived in a run at one rate, and what its processes wrote at their end."""

    messages: Sequence[Received]
    batches: Sequence[SentBatch]
    summary: TrialSummary


def run_rate(
    plan: TrialPlan,
    folder: Path,
    *,
    is_stopped: Callable[[], bool],
    on_second: Callable[[float], None],
) -> RateRun | None:
    """Play at one rate and keep every message; return None if it was stopped before its end.

    The plan listens to spikes. `is_stopped` is called at least every 50 ms, `on_second` with how
    many wall seconds have been played.
    """
    messages: list[Received] = []
    batches: list[SentBatch] = []
    first_ns = 0
    with running(plan, folder) as trial:
        for received in trial.received():
            if is_stopped():
                trial.ask_to_stop()
                trial.wait()
                return None
            for message in received:
                if isinstance(message.value, SpikeBatch):
                    batches.append(SentBatch.of(message.value))
                    first_ns = first_ns or message.host_ns
                    on_second((message.host_ns - first_ns) / NS_PER_S)
                else:
                    messages.append(message)
        return RateRun(messages, batches, trial.wait())
