"""What the daemon counts, and how Prometheus sees it. Durations are in latencies.py.

The fast loop adds to plain integers in `Counters`; nothing there takes a lock. When somebody
asks, `DaemonCollector` reads them and names them. ``docs/metrics.md`` is made from the help
texts below, which are written for the person on call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.narration import Status

PREFIX = "neurrate"

DROP_REASONS = (
    "encoder_busy", "narrator_busy", "narration_failed", "worker_died", "worker_stopped",
    "not_selected", "shutdown",
)  # fmt: skip
STATUSES = tuple(status.value for status in Status)
WIRE_REASONS = (
    "version", "size", "parts", "topic", "header", "field", "length", "span", "stream", "run",
    "population", "no_hello", "jump",
)  # fmt: skip


def _help(help_text: str) -> dict[str, Any]:
    return {"help": help_text}


def _by(label: str, values: tuple[str, ...], help_text: str) -> dict[str, Any]:
    return {"help": help_text, "label": label, "values": values}


def _zeros(values: tuple[str, ...]) -> Callable[[], dict[str, int]]:
    """Make the usual labels at the start, so that rates begin at zero."""
    return lambda: dict.fromkeys(values, 0)


@dataclass(slots=True)
class Counters:
    """Everything that only goes up. Written by the fast loop alone, read by any thread."""

    messages_received: int = field(
        default=0,
        metadata=_help(
            "Messages from sources, legal or not. Flat at zero: no source is connected; look at "
            "ingest.connect and at the source."
        ),
    )
    hellos_received: int = field(
        default=0,
        metadata=_help(
            "Hello messages: one a second from every source. Rising alone: the source is up and "
            "has no spikes to send."
        ),
    )
    marks_received: int = field(default=0, metadata=_help("Stimulus marks from sources."))
    spikes_received: int = field(default=0, metadata=_help("Spikes in accepted batches."))
    spikes_binned: int = field(default=0, metadata=_help("Spikes that got a bin in the ring."))
    spikes_late: int = field(
        default=0,
        metadata=_help(
            "Spikes whose bin had already left in a window, and which were dropped. Rising: a "
            "probe was declared blind and came back, or its source sends out of order."
        ),
    )
    spikes_unknown: int = field(
        default=0,
        metadata=_help(
            "Spikes of units that the encoder does not know, and which were dropped. Expected with "
            "ingest.extra_units = ignore; otherwise the source runs with another unit table."
        ),
    )
    batches_lost: int = field(
        default=0,
        metadata=_help(
            "Batches missing by their sequence numbers. Rising: the network or this process is too "
            "slow; the bins they covered count as gaps."
        ),
    )
    batches_duplicate: int = field(
        default=0,
        metadata=_help(
            "Batches that came twice or out of order, and were dropped. Rising: two sources send "
            "under one stream name."
        ),
    )
    overrun_bins: int = field(
        default=0,
        metadata=_help(
            "Bins that the ring dropped before they were cut. Rising: one probe is further behind "
            "than ring.capacity_s; enlarge it."
        ),
    )
    wire_errors: dict[str, int] = field(
        default_factory=_zeros(WIRE_REASONS),
        metadata=_by(
            "reason",
            WIRE_REASONS,
            "Messages that do not follow the wire format, and were dropped. The log names the "
            "message; 'version' means that source and daemon are of different releases.",
        ),
    )
    gap_bins: int = field(
        default=0,
        metadata=_help(
            "Bins in windows that some stream did not cover: lost batches or a pause of the "
            "source. A bin counts once in each window that holds it."
        ),
    )
    streams_blind: int = field(
        default=0,
        metadata=_help(
            "Times that a stream fell silent past ingest.stream_timeout_s; windows went on without "
            "it. Look at that probe's source."
        ),
    )
    stream_restarts: int = field(
        default=0, metadata=_help("Times that a source began anew under the same stream name.")
    )
    windows: int = field(
        default=0,
        metadata=_help("Windows cut from the ring. Flat while spikes rise: one probe lags."),
    )
    windows_gap_skipped: int = field(
        default=0,
        metadata=_help(
            "Windows never cut, because no stream covered them or the ring had lost their bins."
        ),
    )
    windows_encoded: int = field(
        default=0, metadata=_help("Windows that went through the encoder.")
    )
    windows_dropped: dict[str, int] = field(
        default_factory=_zeros(DROP_REASONS),
        metadata=_by(
            "reason",
            DROP_REASONS,
            "Windows cut and never narrated. 'narrator_busy' is normal where windows come faster "
            "than sentences: the newest wins. 'encoder_busy': the encoder is too slow for this "
            "stride. 'narration_failed', 'worker_died' and 'worker_stopped': the narrator refused "
            "the window, ended over it or was stopped by somebody; it is published with status "
            "failed and the reason. Look at the log of the narrator's process. 'not_selected': "
            "handover.every leaves it out.",
        ),
    )
    narrations: dict[str, int] = field(
        default_factory=_zeros(STATUSES),
        metadata=_by(
            "status",
            STATUSES,
            "Narrations by how they ended. 'failed' carries its reason in the message and the log; "
            "'truncated' met narrator.max_new_tokens or narrator.deadline_s.",
        ),
    )
    triggers: dict[str, int] = field(
        default_factory=dict,
        metadata=_by("rule", (), "Triggers published, by rule; dry runs too."),
    )
    triggers_refractory: dict[str, int] = field(
        default_factory=dict,
        metadata=_by(
            "rule",
            (),
            "Crossings passed over within the rule's refractory time. Rising steadily: the score "
            "hovers at the threshold; set a release.",
        ),
    )
    trigger_sink_sent: dict[str, int] = field(
        default_factory=dict,
        metadata=_by("sink", (), "Triggers that arrived, by sink of the rules' file."),
    )
    trigger_sink_failed: dict[str, int] = field(
        default_factory=dict,
        metadata=_by(
            "sink",
            (),
            "Triggers that a sink did not take in time, refused, or had ended for; see the log.",
        ),
    )
    trigger_sink_dropped: dict[str, int] = field(
        default_factory=dict,
        metadata=_by(
            "sink",
            (),
            "Triggers never tried: the sink's queue was full, they were older than max_age_s, or "
            "they were left in the queue at the end. Rising: the sink is slower than its rules.",
        ),
    )
    likeness_dropped: int = field(
        default=0,
        metadata=_help(
            "Narrations never compared with the rules' sentences. Rising: the sentence model is "
            "slower than the narrator, or its process dies or cannot load it; /readyz says why."
        ),
    )
    published_messages: int = field(
        default=0,
        metadata=_help(
            "Messages handed to the publish socket, statistics included. Slow subscribers "
            "may miss some."
        ),
    )
    worker_restarts: int = field(
        default=0,
        metadata=_help(
            "Times that the narrator's process was started again. Rising: out of memory, or "
            "batches beyond narrator.batch_timeout_s."
        ),
    )

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Return a copy, safe to keep while the fast loop counts on."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in values.items()
        }


@dataclass(slots=True)
class Gauges:
    """What goes up and down. Written by the fast loop alone, read by any thread."""

    ring_fill_bins: int = field(
        default=0,
        metadata={
            "help": "Bins that the fastest stream has reached and the slowest has not. Near the "
            "capacity: one probe lags and bins will be overrun."
        },
    )
    ring_capacity_bins: int = field(
        default=0, metadata={"help": "Bins that the ring can hold (ring.capacity_s)."}
    )
    streams_waiting: int = field(
        default=0,
        metadata={
            "help": "Streams that are left unread: they are far ahead of the others, or, under the "
            "policy all, the narrator has as many windows waiting as it may. Else above zero for "
            "long: one source is slower than the rest, or has stopped; stream_lag_seconds says "
            "which."
        },
    )
    handover_windows: int = field(
        default=0,
        metadata={
            "help": "Windows that wait for the narrator: 0 or 1 under the policy newest. At "
            "handover.capacity under the policy all: the source is held back."
        },
    )
    narrator_windows: int = field(
        default=0,
        metadata={"help": "Windows that wait for the narrator or are being narrated."},
    )
    stream_lag_seconds: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "Seconds since the newest batch of each stream arrived. Beyond "
            "ingest.stream_timeout_s the stream is blind.",
            "label": "stream",
        },
    )


READY_HELP = "1 while the daemon can narrate, else 0; /readyz says why not."


class DaemonCollector(Collector):
    """Turns counters and gauges into metric families when Prometheus asks.

    Parameters
    ----------
    counters : Counters
    gauges : Gauges
    is_ready : callable
        Whether the daemon is ready, for ``neurrate_ready``.
    """

    def __init__(self, counters: Counters, gauges: Gauges, is_ready: Callable[[], bool]) -> None:
        self._counters = counters
        self._gauges = gauges
        self._is_ready = is_ready

    def collect(self) -> Iterator[Metric]:
        """Yield every family. Called on the HTTP thread; reads only.

        Yields
        ------
        Metric
        """
        for one in fields(Counters):
            counter = CounterMetricFamily(metric_name(one), help_of(one), labels=_labels(one))
            _fill(counter, getattr(self._counters, one.name))
            yield counter
        for one in fields(Gauges):
            gauge = GaugeMetricFamily(metric_name(one), help_of(one), labels=_labels(one))
            _fill(gauge, getattr(self._gauges, one.name))
            yield gauge
        yield GaugeMetricFamily(f"{PREFIX}_ready", READY_HELP, value=float(self._is_ready()))


def metric_name(one: Field[Any]) -> str:
    """Return the family's name; Prometheus adds ``_total`` to counters."""
    return f"{PREFIX}_{one.name}"


def help_of(one: Field[Any]) -> str:
    """Return the family's help text."""
    return str(one.metadata["help"])


def _labels(one: Field[Any]) -> list[str] | None:
    return [one.metadata["label"]] if "label" in one.metadata else None


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily, value: float | Mapping[str, float]
) -> None:
    if isinstance(value, Mapping):
        for label, number in dict(value).items():  # a copy: the fast loop may add a key meanwhile
            family.add_metric([label], number)
    else:
        family.add_metric([], value)


def make_registry(
    counters: Counters, gauges: Gauges, is_ready: Callable[[], bool]
) -> CollectorRegistry:
    """Return a registry of its own with the daemon's counters and gauges; nothing is global."""
    registry = CollectorRegistry()
    registry.register(DaemonCollector(counters, gauges, is_ready))
    return registry
