"""How Prometheus sees what the daemon counts. Durations are in latencies.py.

`Counters` and `Gauges` are plain values that the fast loop writes without a lock; `DaemonCollector`
reads them when Prometheus asks. ``docs/metrics.md`` is made from the help texts below, which are
written for the person on call. Where and when each counter increments stands in `daemon.counters`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from contracts.software import software
from daemon.counters import Counters

PREFIX = "neurrate"


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One counter or gauge as Prometheus sees it.

    `field` is one of `Counters` or `Gauges`; `label` is named where it holds a number for each key.
    """

    field: str
    help: str  # what it says, and what to look at when it rises
    label: str = ""

    @property
    def name(self) -> str:
        """The family's name; Prometheus adds ``_total`` to counters."""
        return f"{PREFIX}_{self.field}"


COUNTERS = (
    MetricFamily(
        "messages_received",
        "Messages from sources, legal or not. Flat at zero: no source is connected; look at "
        "ingest.connect and at the source.",
    ),
    MetricFamily(
        "hellos_received",
        "Hello messages: one a second from every source. Rising alone: the source is up and has "
        "no spikes to send.",
    ),
    MetricFamily("marks_received", "Stimulus marks from sources."),
    MetricFamily(
        "marks_dropped",
        "Stimulus marks that were not published: their run has not said hello on this connection, "
        "or they came faster than about a thousand a second, as in a replay without pacing.",
    ),
    MetricFamily("spikes_received", "Spikes in accepted batches."),
    MetricFamily("spikes_binned", "Spikes that got a bin in the ring."),
    MetricFamily(
        "spikes_late",
        "Spikes whose bin is below the watermark, and which were dropped. Rising: a probe "
        "came back behind the others and catches up, or its source sends out of order.",
    ),
    MetricFamily(
        "spikes_unknown",
        "Spikes of units that the encoder does not know, and which were dropped. Expected with "
        "ingest.extra_units = ignore; otherwise the source runs with another unit table.",
    ),
    MetricFamily(
        "batches_before",
        "Batches that sources had sent before this daemon listened to them, as their hellos say. "
        "They are lost to it, and in no other count.",
    ),
    MetricFamily(
        "batches_lost",
        "Batches missing by their sequence numbers. Rising: the network or this process is too "
        "slow; the bins they covered count as gaps.",
    ),
    MetricFamily(
        "batches_duplicate",
        "Batches that came twice or out of order, and were dropped. Rising: two sources send "
        "under one stream name.",
    ),
    MetricFamily(
        "overrun_bins",
        "Bins that the ring dropped before they were cut. Rising: one probe is further behind "
        "than ring.capacity_s; enlarge it.",
    ),
    MetricFamily(
        "wire_errors",
        "Messages that do not follow the wire format, and were dropped. The log names the "
        "message; 'version' means that source and daemon are of different releases. 'population': "
        "a source sends units that are not the encoder's. 'jump': batches whose time does not "
        "agree with the session's. 'taken': two sources send under one stream name. 'rate': new "
        "hellos faster than they are read.",
        label="reason",
    ),
    MetricFamily(
        "gap_bins",
        "Bins in windows that some stream did not cover: lost batches or a pause of the source. "
        "A bin counts once in each window that holds it.",
    ),
    MetricFamily(
        "streams_blind",
        "Times that a stream fell silent past ingest.stream_timeout_s; windows went on without "
        "it. Look at that probe's source.",
    ),
    MetricFamily(
        "streams_aside",
        "Times that a stream was set aside because its time did not agree with the other streams'; "
        "windows went on without it. /readyz says how far off it is. Look at that source's clock.",
    ),
    MetricFamily("stream_restarts", "Times that a source began anew under the same stream name."),
    MetricFamily(
        "session_restarts",
        "Times that the session began anew at another time: all sources were restarted, or paused "
        "for longer than the ring holds.",
    ),
    MetricFamily("windows", "Windows cut from the ring. Flat while spikes rise: one probe lags."),
    MetricFamily(
        "windows_gap_skipped",
        "Windows never cut, because no stream covered them or the ring had lost their bins.",
    ),
    MetricFamily("windows_encoded", "Windows that went through the encoder."),
    MetricFamily(
        "windows_dropped",
        "Windows cut and never narrated. 'narrator_busy' is normal where windows come faster "
        "than sentences: the newest wins. 'encoder_busy': the encoder is too slow for this "
        "stride. 'narration_failed', 'worker_died' and 'worker_stopped': the narrator refused "
        "the window, ended over it or was stopped by somebody; it is published with status "
        "failed and the reason. Look at the log of the narrator's process. 'not_selected': "
        "handover.every leaves it out. 'no_units': no source sends a unit of any population.",
        label="reason",
    ),
    MetricFamily(
        "narrations",
        "Narrations by how they ended. 'failed' carries its reason in the message and the log; "
        "'truncated' met narrator.max_new_tokens or narrator.deadline_s.",
        label="status",
    ),
    MetricFamily("triggers", "Triggers published, by rule; dry runs too.", label="rule"),
    MetricFamily(
        "triggers_refractory",
        "Crossings passed over within the rule's refractory time. Rising steadily: the score "
        "hovers at the threshold; set a release.",
        label="rule",
    ),
    MetricFamily(
        "trigger_sink_sent",
        "Triggers that arrived, by sink of the rules' file.",
        label="sink",
    ),
    MetricFamily(
        "trigger_sink_failed",
        "Triggers that a sink did not take in time, refused, or had ended for; see the log.",
        label="sink",
    ),
    MetricFamily(
        "trigger_sink_dropped",
        "Triggers never tried: the sink's queue was full, they were older than max_age_s, or "
        "they were left in the queue at the end. Rising: the sink is slower than its rules.",
        label="sink",
    ),
    MetricFamily(
        "likeness_dropped",
        "Narrations never compared with the rules' sentences. Rising: the sentence model is "
        "slower than the narrator, or its process dies or cannot load it; /readyz says why.",
    ),
    MetricFamily(
        "subscribers_dropped",
        "Connections to the publish socket that were cut, because the peer does not keep to the "
        "protocol or its limits (docs/narration-format.md). The log names the peer. 'connections': "
        "too many subscribers at once. 'key', 'mechanism', 'replay', 'encryption': see "
        "docs/security.md.",
        label="reason",
    ),
    MetricFamily(
        "sources_dropped",
        "Connections to sources that were cut, because the source does not keep to the protocol "
        "or its limits (docs/wire-format.md). It is tried again after a pause. 'greeting', "
        "'socket_type', 'handshake': something else listens at that address of ingest.connect. "
        "'key', 'mechanism', 'replay', 'encryption': see docs/security.md.",
        label="reason",
    ),
    MetricFamily(
        "http_refused",
        "HTTP requests without the token of http.token_file. The log names who asked.",
    ),
    MetricFamily(
        "requests_ignored",
        "Messages of subscribers that are no subscription. Rising: a program sends on its "
        "subscription; nothing reads it.",
    ),
    MetricFamily(
        "published_messages",
        "Messages handed to the publish socket, statistics included. Slow subscribers may miss "
        "some.",
    ),
    MetricFamily(
        "log_lines_dropped",
        "Log lines of the daemon that were never written, since nobody read standard error. The "
        "log says so when it flows again; look at what the output is piped to.",
    ),
    MetricFamily(
        "worker_restarts",
        "Times that the narrator's process was started again. Rising: out of memory, or batches "
        "beyond narrator.batch_timeout_s.",
    ),
)


@dataclass(slots=True)
class Gauges:
    """What goes up and down. Written by the fast loop alone, read by any thread."""

    ring_fill_bins: int = 0
    ring_capacity_bins: int = 0
    units_missing: int = 0
    streams_waiting: int = 0
    handover_windows: int = 0
    narrator_windows: int = 0
    ingest_lag_seconds: float = 0.0
    stream_lag_seconds: dict[str, float] = field(default_factory=dict)
    source_delay_seconds: dict[str, float] = field(default_factory=dict)
    source_clock_offset_seconds: dict[str, float] = field(default_factory=dict)
    source_clock_error_seconds: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)

    def note_confidence(self, population: str, confidence: float | None) -> None:
        """Take in the confidence of a narration; None is not known. Called on the fast loop."""
        if confidence is None:
            self.confidence.pop(population, None)
        else:
            self.confidence[population] = confidence


GAUGES = (
    MetricFamily(
        "ring_fill_bins",
        "Bins that the fastest stream has reached and the slowest has not. Near the capacity: "
        "one probe lags and bins will be overrun.",
    ),
    MetricFamily("ring_capacity_bins", "Bins that the ring can hold (ring.capacity_s)."),
    MetricFamily(
        "units_missing",
        "Units of the encoder that no stream announces. With ingest.missing_units = mean they are "
        "held at their mean; else above zero means not ready. Rising: a source was restarted with "
        "another unit table.",
    ),
    MetricFamily(
        "streams_waiting",
        "Streams that are left unread: they are far ahead of the others, or, under the policy "
        "all, the narrator has as many windows waiting as it may. Else above zero for long: one "
        "source is slower than the rest, or has stopped; stream_lag_seconds says which.",
    ),
    MetricFamily(
        "handover_windows",
        "Windows that wait for the narrator: 0 or 1 under the policy newest. At "
        "handover.capacity under the policy all: the source is held back.",
    ),
    MetricFamily("narrator_windows", "Windows that wait for the narrator or are being narrated."),
    MetricFamily(
        "ingest_lag_seconds",
        "Longest that spikes of live sources waited for the fast loop, within two seconds; what is "
        "left unread on purpose (streams_waiting) does not count, nor do sources that wait. Above "
        "0.5 the daemon is not ready: encode fewer populations, or use a larger stride.",
    ),
    MetricFamily(
        "stream_lag_seconds",
        "Seconds since the newest batch of each stream arrived. Beyond ingest.stream_timeout_s "
        "the stream is blind.",
        label="stream",
    ),
    MetricFamily(
        "source_delay_seconds",
        "Longest time from the sending of a batch by its source to its receipt, within a second; a "
        "source's clock on another machine is corrected by source_clock_offset_seconds. Missing "
        "where that is not known. To be added to the latency of narrations and triggers. High: "
        "the network, or the fast loop (ingest_lag_seconds).",
        label="stream",
    ),
    MetricFamily(
        "source_clock_offset_seconds",
        "The daemon's clock minus that of each source on another machine, estimated by round "
        "trips. Their zeros are the starts of the machines, so that any number is right. A jump: "
        "that machine was started anew, or slept.",
        label="stream",
    ),
    MetricFamily(
        "source_clock_error_seconds",
        "How far source_clock_offset_seconds may be off, either way: half of a round trip, and a "
        "millisecond for each second since. Rising: pings are not answered; the source sends no "
        "batches, or the link is cut.",
        label="stream",
    ),
    MetricFamily(
        "confidence",
        "Confidence of the newest narration of each population, 0.1 (chance) to 1; missing where "
        "it is not known. All populations near 0.1: the units say nothing that the encoder knows; "
        "look at the probe and at units_missing.",
        label="population",
    ),
)

BUILD_LABELS = ("version", "commit", "python")

BUILD_HELP = (
    "Always 1; the labels say which software runs. The commit is empty in an installed package, "
    "and ends in -dirty where a checkout differs from it."
)

WORKER = "neurrate_worker"
"""Prefix of what Prometheus sees of the narrator's process."""

READY_HELP = "1 while the daemon can narrate, else 0; /readyz says why not."


class DaemonCollector(Collector):
    """Turns counters and gauges into metric families when Prometheus asks."""

    def __init__(self, counters: Counters, gauges: Gauges, is_ready: Callable[[], bool]) -> None:
        self._counters = counters
        self._gauges = gauges
        self._is_ready = is_ready
        self._build = {**software(), "python": platform.python_version()}

    def collect(self) -> Iterator[Metric]:
        """Yield every family. Called on the HTTP thread; reads only."""
        for family in COUNTERS:
            yield _filled(CounterMetricFamily, family, self._counters)
        for family in GAUGES:
            yield _filled(GaugeMetricFamily, family, self._gauges)
        yield GaugeMetricFamily(f"{PREFIX}_ready", READY_HELP, value=float(self._is_ready()))
        build = {label: self._build[label] for label in BUILD_LABELS}
        yield InfoMetricFamily(f"{PREFIX}_build", BUILD_HELP, value=build)


def _filled(
    metric_class: type[CounterMetricFamily] | type[GaugeMetricFamily],
    family: MetricFamily,
    values: Counters | Gauges,
) -> Metric:
    metric = metric_class(family.name, family.help, labels=[family.label] if family.label else [])
    value = getattr(values, family.field)
    if not family.label:
        metric.add_metric([], value)
        return metric
    for key, number in dict(value).items():  # a copy: the fast loop may add a key meanwhile
        metric.add_metric([key], number)
    return metric


def make_registry(
    counters: Counters, gauges: Gauges, is_ready: Callable[[], bool]
) -> CollectorRegistry:
    """Return a registry of its own with the daemon's counters and gauges; nothing is global.

    Memory, processor time and open files of this process come with them, as ``process_...``.
    """
    registry = CollectorRegistry()
    registry.register(DaemonCollector(counters, gauges, is_ready))
    ProcessCollector(registry=registry)
    return registry


def show_worker(registry: CollectorRegistry, pid: Callable[[], int | None]) -> None:
    """Show memory, processor time and open files of the narrator's process, while there is one."""
    ProcessCollector(WORKER, pid=lambda: pid() or "none", registry=registry)
