"""What Prometheus sees of an online sorter. ``docs/metrics.md`` is made from the texts below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.errors import UserError
from stream_sources.online_sorter.source import OnlineSorterSource

PREFIX = "neurrate_sorter"

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class SorterMetric:
    """One counter or gauge; a counter's name gets ``_total``."""

    name: str
    help: str  # what it says, and what to look at when it rises
    value: Callable[[OnlineSorterSource], float]


SORTER_COUNTERS = (
    SorterMetric(
        "spikes",
        "Spikes that were sent.",
        lambda s: s.counters.n_spikes,
    ),
    SorterMetric(
        "blocks",
        "Blocks that were sorted. Flat: no voltages come; look at the probe's source.",
        lambda s: s.counters.n_blocks,
    ),
    SorterMetric(
        "blocks_nearest",
        "Of these, blocks matched by the cheapest method, as --when-behind nearest has it. Rising: "
        "their spikes are of lower quality; use a cheaper --method or a faster machine.",
        lambda s: s.counters.n_blocks_nearest,
    ),
    SorterMetric(
        "blocks_skipped",
        "Blocks that were not sorted, as --when-behind drop has it: gaps for the daemon.",
        lambda s: s.counters.n_blocks_skipped,
    ),
    SorterMetric(
        "chunks_refused",
        "Chunks of voltages with NaN or more than a volt: not sorted, a gap for the daemon. "
        "Rising: the log names the channels; look at the probe and its gains.",
        lambda s: s.counters.n_chunks_refused,
    ),
    SorterMetric(
        "gap_seconds",
        "Recorded time that nothing is stated of: samples that were missing, or skipped blocks.",
        lambda s: s.counters.gap_s,
    ),
    SorterMetric(
        "busy_seconds",
        "Processor time of filter and matching, as wall time of one process.",
        lambda s: s.load.busy_s,
    ),
)

SORTER_GAUGES = (
    SorterMetric(
        "real_time_factor_p50",
        "Processing time of a block over its duration, median of recent blocks. Above 1 the sorter "
        "cannot keep up.",
        lambda s: s.load.figures.real_time_factor_p50,
    ),
    SorterMetric(
        "real_time_factor_p99",
        "The same, 99th percentile.",
        lambda s: s.load.figures.real_time_factor_p99,
    ),
    SorterMetric(
        "behind_seconds",
        "Recorded time that has come and is not sorted. Rising: see --when-behind.",
        lambda s: s.load.behind_s,
    ),
    SorterMetric(
        "units_lost",
        "Units whose waveform is another than the template, or that hardly fire; the log names "
        "them. Rising: the probe has moved; calibrate anew.",
        lambda s: s.units.n_lost,
    ),
    SorterMetric(
        "template_similarity_median",
        "Similarity of mean live waveforms to the templates, median over units; 1 is the same. NaN "
        "before enough spikes.",
        lambda s: _median(s),
    ),
)


class SorterCollector(Collector):
    """Reads a source when Prometheus asks. Only plain values are read, from another thread."""

    def __init__(self, source: OnlineSorterSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for metric in SORTER_COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}_{metric.name}", metric.help)
            counter.add_metric([], metric.value(self._source))
            yield counter
        for metric in SORTER_GAUGES:
            gauge = GaugeMetricFamily(f"{PREFIX}_{metric.name}", metric.help)
            gauge.add_metric([], metric.value(self._source))
            yield gauge


@contextmanager
def serve_metrics(source: OnlineSorterSource, port: int | None) -> Iterator[int | None]:
    """Serve ``/metrics`` on a port of this machine; yields the port, as 0 takes any free one.

    Without a port nothing is served.

    Raises
    ------
    UserError
        If the port is taken.
    """
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(SorterCollector(source))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, HOST, registry)
    except OSError as error:
        raise UserError(
            f"Cannot serve metrics on {HOST}:{port}: {(error.strerror or 'taken').lower()}. Give "
            "another --metrics-port."
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _median(source: OnlineSorterSource) -> float:
    similarity = source.units.similarity
    known = similarity[~np.isnan(similarity)]
    return float(np.median(known)) if known.size else float("nan")
