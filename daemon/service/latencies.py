"""How long narrations take, stage by stage: for Prometheus, and as exact percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram

from contracts.narration import STAGES
from daemon.service.metrics import PREFIX

LATENCY_STAGES = (*STAGES, "total")

STAGE_BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
)  # fmt: skip
"""From cutting a window, a third of a millisecond, to the slowest healthy batch on a CPU; about
three to a decade."""

RESERVOIR = 10_000
"""Newest durations kept exactly for each stage: an hour of three narrations a second."""

STAGE_HELP = (
    "Time that narrations spent in each stage; the stages lie end to end and sum to 'total', "
    "from the newest spike received to published. 'wait' large: windows queue for the narrator."
)


class StageHistogram:
    """Durations of stages, as Prometheus sees them.

    `record` belongs to one thread; Prometheus may read from another.

    `name` is without prefix and unit, `buckets_s` are upper edges, `labels` stand beside ``stage``.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        *,
        buckets_s: Sequence[float],
        labels: Sequence[str] = (),
    ) -> None:
        self._histogram = Histogram(
            f"{PREFIX}_{name}_seconds",
            documentation,
            labelnames=(*labels, "stage"),
            buckets=buckets_s,
            registry=registry,
        )

    def expect(self, stages: Iterable[str]) -> None:
        """Show stages from the start, before their first duration."""
        for stage in stages:
            self._histogram.labels(stage)

    def record(self, latency_ms: Mapping[str, float], *labels: str) -> None:
        """Record durations, milliseconds by stage, under the labels beside ``stage``."""
        for stage, duration_ms in latency_ms.items():
            self._histogram.labels(*labels, stage).observe(duration_ms / 1e3)


class LatencyRecorder:
    """Durations of every stage: a histogram for Prometheus, and exact percentiles of the newest.

    `record` and `summary` belong to one thread; Prometheus may read the histogram from another.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = StageHistogram(
            registry, "stage_duration", STAGE_HELP, buckets_s=STAGE_BUCKETS_S
        )
        self._histogram.expect(LATENCY_STAGES)
        # Not zeros: their pages are allocated as they are written, which would look like a leak.
        self._durations_ms = {stage: np.full(RESERVOIR, np.nan) for stage in LATENCY_STAGES}
        self._n_recorded = 0
        _percentiles(np.zeros(1))  # numpy's first call takes 20 ms, too long for the fast loop

    def record(self, latency_ms: Mapping[str, float]) -> None:
        """Record one narration; `latency_ms` as `contracts.narration.latency_ms` returns it."""
        slot = self._n_recorded % RESERVOIR
        for stage, durations_ms in self._durations_ms.items():
            durations_ms[slot] = latency_ms[stage]
        self._histogram.record(latency_ms)
        self._n_recorded += 1

    def summary(self) -> dict[str, dict[str, float]]:
        """Return percentiles of the newest 10,000 narrations, in milliseconds.

        For each stage and ``total``: ``p50``, ``p95``, ``p99``, ``max`` and ``n``. Empty before the
        first narration.
        """
        n_held = min(self._n_recorded, RESERVOIR)
        if not n_held:
            return {}
        return {
            stage: _percentiles(durations_ms[:n_held])
            for stage, durations_ms in self._durations_ms.items()
        }


def _percentiles(durations_ms: NDArray[np.float64]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(durations_ms, (50, 95, 99))
    return {
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(durations_ms.max()),
        "n": len(durations_ms),
    }
