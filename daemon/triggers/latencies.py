"""How late triggers are, as Prometheus sees it."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from daemon.service.latencies import StageHistogram

TRIGGER_BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0,
    5.0, 30.0,
)  # fmt: skip
"""Finest around 8 to 10 ms, where other closed loops are; the last ones are for words."""

TRIGGER_STAGE_HELP = (
    "Time that triggers spent in each stage; the stages lie end to end and sum to 'total', from "
    "the newest spike received to published. 'encode' large: the encoder decides the latency."
)


class TriggerLatencies:
    """Durations of a trigger's stages, as a histogram for Prometheus.

    `record` is called by one thread only; Prometheus may read from another.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = StageHistogram(
            registry,
            "trigger_stage_duration",
            TRIGGER_STAGE_HELP,
            buckets_s=TRIGGER_BUCKETS_S,
            labels=("kind",),
        )

    def record(self, kind: str, latency_ms: Mapping[str, float]) -> None:
        """Take in `trigger_latency_ms` of a ``probe``, ``word`` or ``likeness``."""
        self._histogram.record(latency_ms, kind)
