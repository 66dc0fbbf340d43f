"""What the daemon counts, plain integers that only go up, and where each loss is counted.

The path adds to them as it goes, on the fast loop, without a lock; `daemon.service.metrics` names
them for Prometheus and `daemon.service.stats` puts them into the ``stats`` message. Both may run
while the fast loop counts on.

Every loss has a counter. In the order of the path:

=============  ==========================================  ===================  ================
lost           counter, and why                            found in             counted in
=============  ==========================================  ===================  ================
connection     ``subscribers_dropped``: see `peer_guard`   subscriber_guard     there
connection     ``sources_dropped``: see `peer_guard`       source_reader        there
request        ``http_refused``: not the right token       service.http         there
message        ``wire_errors``: breaks the wire format     contracts.wire       ingest
message        ``wire_errors``: no hello, foreign units    stream_registry      ingest
batch          ``wire_errors``: ``jump``, out of step      stream_clocks        ingest
message        ``wire_errors``: ``taken``, second source   stream_registry      ingest
mark           ``marks_dropped``: unknown run, too many    ingest               ingest
hello          ``wire_errors``: ``stream``, one too many   ingest               ingest
hello          ``wire_errors``: ``rate``, too often        hello_reader         ingest
batch          ``batches_before``: sent before we listened stream_registry      ingest
batch          ``batches_lost``: never arrived             stream_registry      ingest
batch          ``batches_duplicate``: came twice           stream_registry      ingest
spike          ``spikes_late``: its bin is below the       bin_ring             pipeline
               watermark
spike          ``spikes_unknown``: not in the encoder      bin_ring             pipeline
bin            ``overrun_bins``: the ring was full         bin_ring             pipeline
bin            ``gap_bins``: a stream did not cover it     bin_ring             pipeline
window, uncut  ``windows_gap_skipped``: unseen, overrun    window_cutter        pipeline
window         ``windows_dropped``: see `DROP_REASONS`     there                there
crossing       ``triggers_refractory``: within that time   triggers.crossing    triggers
trigger        ``trigger_sink_failed``: did not arrive     triggers.sinks       triggers
trigger        ``trigger_sink_dropped``: never tried       triggers.sinks       triggers
narration      ``likeness_dropped``: never compared        triggers             triggers
log line       ``log_lines_dropped``: nobody reads them    service.logs         monitor
=============  ==========================================  ===================  ================

Two sums hold once nothing is under way:

1. spikes_received = spikes_binned + spikes_late + spikes_unknown
       ``test_spikes_of_unknown_units_are_counted``, ``test_batch_from_nowhere_never_raises``
2. windows = windows narrated + sum(windows_dropped)
       ``test_replay_ends_by_itself_with_every_spike_accounted_for``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from contracts.narration import Status
from peer_guard.zmtp import REASONS

DROP_REASONS = (
    "encoder_busy", "narrator_busy", "narration_failed", "worker_died", "worker_stopped",
    "not_selected", "no_units", "shutdown",
)  # fmt: skip
"""Why a window that was cut is not narrated.

``encoder_busy``
    Several windows became complete in one step; only the newest is encoded (`daemon.pipeline`).
``not_selected``
    ``handover.every`` leaves it out (`daemon.pipeline`).
``no_units``
    No stream sends a unit of any of its populations (`daemon.pipeline`).
``narrator_busy``
    A newer window took its place in the hand-over (`daemon.handover`).
``narration_failed``, ``worker_died``, ``worker_stopped``
    The narrator failed, its process died, or missed its heartbeat (`daemon.worker.client`).
``shutdown``
    The daemon stopped before it was narrated (`daemon.service.service`).
"""

WIRE_REASONS = (
    "version", "size", "parts", "topic", "header", "field", "length", "span", "stream", "run",
    "population", "no_hello", "jump", "taken", "rate",
)  # fmt: skip
"""Why a message is dropped. The last five, and ``stream`` for one too many, are found in
`daemon.message_intake`, `daemon.stream_registry` and `daemon.stream_clocks`; the others in
`contracts.wire`."""


def _zeros(keys: Sequence[str] = ()) -> Callable[[], dict[str, int]]:
    """Make the usual keys at the start, so that Prometheus sees rates begin at zero."""
    return lambda: dict.fromkeys(keys, 0)


@dataclass(slots=True)
class Counters:
    """Everything that only goes up. Written by the fast loop alone, read by any thread."""

    # Messages: counted in ingest.

    messages_received: int = 0  # ingest: each message taken from a socket, whatever it is
    hellos_received: int = 0  # ingest: each hello, repeated or new
    marks_received: int = 0  # ingest: each stimulus mark
    marks_dropped: int = 0  # ingest: each stimulus mark that was not published
    spikes_received: int = 0  # ingest: each spike of a batch that the registry accepted

    # Spikes, batches and bins: found by stream_registry and bin_ring.

    spikes_binned: int = 0  # pipeline: each spike that got its bin
    spikes_late: int = 0  # pipeline: each spike dropped because its bin was below the watermark
    # Pipeline: each spike dropped because its unit is not in the encoder's population.
    spikes_unknown: int = 0
    # Ingest: each batch that a stream had sent before it was joined, as its hello says.
    batches_before: int = 0
    # Ingest: each sequence number that was skipped, when the next batch or the end arrives.
    batches_lost: int = 0
    # Ingest: each batch dropped because its sequence number is below the expected one.
    batches_duplicate: int = 0
    overrun_bins: int = 0  # pipeline: each bin that the ring pushed out before it was complete
    # Ingest, by reason: each message that was dropped.
    wire_errors: dict[str, int] = field(default_factory=_zeros(WIRE_REASONS))
    # Pipeline, when a window is cut, for each of its bins that a live stream did not cover.
    gap_bins: int = 0
    streams_blind: int = 0  # pipeline: each time that a silent stream is no longer waited for
    # Pipeline: each time that a stream is no longer waited for because its time does not agree.
    streams_aside: int = 0
    stream_restarts: int = 0  # ingest: each hello of a known stream with another run
    session_restarts: int = 0  # pipeline: each time that the session begins anew at another time

    # Windows: window_cutter, pipeline, handover, worker.

    windows: int = 0  # pipeline: each window cut from the ring
    # Pipeline, from the cutter: windows of the grid never cut, unseen or overrun.
    windows_gap_skipped: int = 0
    windows_encoded: int = 0  # pipeline: each window after its encoding
    # By reason: pipeline at once; once a second what the narrator's client has counted.
    windows_dropped: dict[str, int] = field(default_factory=_zeros(DROP_REASONS))
    # Narration publisher, by status, for each population of a window.
    narrations: dict[str, int] = field(default_factory=_zeros([status.value for status in Status]))

    # Triggers: triggers/evaluator.

    # By rule: each trigger published, dry runs too.
    triggers: dict[str, int] = field(default_factory=_zeros())
    # By rule: each crossing within the refractory time.
    triggers_refractory: dict[str, int] = field(default_factory=_zeros())
    # By sink: each trigger that arrived.
    trigger_sink_sent: dict[str, int] = field(default_factory=_zeros())
    # By sink: each trigger that was tried and did not arrive.
    trigger_sink_failed: dict[str, int] = field(default_factory=_zeros())
    # By sink: each trigger that was never tried.
    trigger_sink_dropped: dict[str, int] = field(default_factory=_zeros())
    likeness_dropped: int = 0  # narrations that were never compared with the sentences of the rules

    # Peers: counted by the guards, copied once a second.

    # By reason: each subscriber or source whose connection was cut.
    subscribers_dropped: dict[str, int] = field(default_factory=_zeros(REASONS))
    sources_dropped: dict[str, int] = field(default_factory=_zeros(REASONS))
    http_refused: int = 0  # HTTP server: each request without the right token
    # Publisher: each message of a subscriber that is not a subscription.
    requests_ignored: int = 0

    # Messages out, and the process of the narrator.

    # Publisher: each message handed to the socket; copied once a second.
    published_messages: int = 0
    # Logs: each line of this process that was not written; copied once a second.
    log_lines_dropped: int = 0
    # Worker process: each time that a dead one is replaced; copied once a second.
    worker_restarts: int = 0

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Return a copy, safe to keep while the fast loop counts on."""
        values = {counter.name: getattr(self, counter.name) for counter in fields(self)}
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
