"""The fast loop: the path of a spike on one screen.

::

    source ═ TCP ═► ingest ─► bin_ring ─► window_cutter ─► encoder ─► narrator_client (handover)
                                                              │                │
                                                           triggers   narration_publisher
                                                              └──► publisher ◄─┘

`FastLoop.step` takes what has arrived, publishes what it triggers, and offers it to the narrator.
It never raises for bad data, and never waits for a narrator worker. In the sequential mode the
narrator runs inside the step, which then takes as long as the narration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Protocol

from contracts.clock import NS_PER_S, Clock
from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.window import Window
from daemon.absent_units import AbsentUnits
from daemon.bin_ring import BinRing
from daemon.counters import Counters
from daemon.encoders.protocol import Encoder
from daemon.handover import NarrationBatch
from daemon.ingest import Ingest
from daemon.message_intake import SessionStart, StreamAside
from daemon.narration_publisher import NarrationPublisher
from daemon.rate_meter import RateMeter
from daemon.source_publisher import SourcePublisher
from daemon.window_cutter import WindowCutter
from daemon.worker.narrator_client import NarratedPopulation, NarratorClient, failed

MAX_MESSAGES = 256
"""Messages taken in one step, so that a burst does not keep narrations and signals waiting."""

MAX_STEP_NS = NS_PER_S // 10
"""A step takes no further message after this: in the sequential mode one may take seconds."""

NO_UNITS = "no source sends a unit of this population"


@dataclass(frozen=True, slots=True)
class Turn:
    """Populations that are narrated of one window, in this order.

    `encoder` is of those that `FastLoop.urgent` does not encode; None if there are none.
    """

    populations: Sequence[str]
    encoder: Encoder | None


class Triggers(Protocol):
    """What the fast loop needs of the triggers."""

    def evaluate(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Publish what one window triggers; called on the fast loop, must not block."""


class FastLoop:
    """Receive, bin, cut, encode, trigger, offer, publish.

    Without `encode_every_window`, of the windows that one step completes the newest is taken and
    the others are counted. Windows whose number is a multiple of `narrate_every` are offered to the
    narrator, and encoded when it has room for one. `urgent` encodes the populations that triggers
    depend on, of every window, before it is offered. `turns` says which populations are narrated of
    a window: each has its turn, and all of them are one turn where they fit.

    With `absent_units`, it may `settle` without the units that no stream sends. `unseen` is the
    provenance of the narrations that are not made, because no unit of their population is sent.
    `source_publisher` passes on the marks and unit tables of the sources. `rate_meter` publishes
    the rates of the units.
    """

    def __init__(
        self,
        *,
        ingest: Ingest,
        ring: BinRing,
        cutter: WindowCutter,
        turns: Sequence[Turn],
        narrator_client: NarratorClient,
        narration_publisher: NarrationPublisher,
        counters: Counters,
        clock: Clock,
        encode_every_window: bool,
        narrate_every: int = 1,
        triggers: Triggers | None = None,
        urgent: Encoder | None = None,
        absent_units: AbsentUnits | None = None,
        unseen: Provenance | None = None,
        source_publisher: SourcePublisher | None = None,
        rate_meter: RateMeter | None = None,
    ) -> None:
        self.ingest = ingest
        self.ring = ring
        self.narrator_client = narrator_client
        self._cutter = cutter
        self._turns = cycle(turns)
        self._narration_publisher = narration_publisher
        self._counters = counters
        self._clock = clock
        self._encode_every_window = encode_every_window
        self._narrate_every = narrate_every
        self._triggers = triggers
        self._urgent = urgent
        self._absent_units = absent_units
        self._unseen = unseen
        self._source_publisher = source_publisher
        self._rate_meter = rate_meter
        self._pending: Window | None = None
        # Until every unit is announced: which streams to wait for is not known before.
        ring.hold(is_held=True)

    def step(self) -> None:
        """Take what has arrived; leave at most one window waiting for the narrator."""
        stop_ns = self._clock.now_ns() + MAX_STEP_NS
        self.ingest.is_held = self.narrator_client.is_full

        def should_stop() -> bool:
            return self.narrator_client.is_full or self._clock.now_ns() > stop_ns

        for message in self.ingest.receive(max_messages=MAX_MESSAGES, should_stop=should_stop):
            match message:
                case SpikeBatch():
                    if self._absent_units:
                        self._absent_units.take_batch(message, self.ring.complete_until_ns)
                    self.ring.add(message)
                    self._cut(message.received_host_ns)
                case Mark():
                    if self._source_publisher:
                        self._source_publisher.publish_mark(message)
                case Hello():
                    if self._source_publisher:
                        self._source_publisher.publish_units(message)
                    self.ring.add_stream(message.stream)
                    if self._absent_units:
                        self._absent_units.take_hello(message.stream)
                    if not (self.ingest.is_settled or self.ingest.registry.missing_units()):
                        self.settle()
                case SessionStart():
                    self._counters.session_restarts += 1
                    self.ring.begin_session(message.streams)
                    if self._absent_units:
                        self._absent_units.begin_session()
                case StreamAside():
                    self.set_aside(message.stream)
                case StreamEnd():
                    self.ring.end_stream(message.stream)
                    self._cut(self._clock.now_ns())
        self._count_spikes()
        self._encode_pending()
        self.publish_narrated()
        if self._rate_meter:  # after what somebody waits for
            self._rate_meter.publish_due()
        self.ingest.is_held = self.narrator_client.is_full  # decides which sockets are polled next

    def settle(self) -> None:
        """Begin to cut windows, even if no stream has announced some of the units."""
        self.ingest.is_settled = True
        self.ring.hold(is_held=False)
        if self._absent_units:
            self._absent_units.begin_session()
        self._cut(self._clock.now_ns())

    def _cut(self, received_host_ns: int) -> None:
        """Cut the windows that have become complete."""
        if not (self.ingest.is_settled and self._cutter.is_due(self.ring)):
            return
        for window in self._cutter.ready(self.ring, received_host_ns=received_host_ns):
            self._counters.windows += 1
            self._counters.gap_bins += window.n_gap_bins
            if self._absent_units:
                absent = self._absent_units.at(window.start_ns)
                window = replace(window, absent_units=absent)
            self._keep_newest(window)
            if self._encode_every_window:
                self._encode_pending()
                self.publish_narrated()
        self._counters.windows_gap_skipped = self._cutter.n_unseen + self._cutter.n_overrun

    def _keep_newest(self, window: Window) -> None:
        """Make a window the pending one, and count the one that it replaces."""
        is_selected = self._is_selected(window)
        if not is_selected and self._urgent is None:
            self._drop("not_selected")
            return
        if self._pending is not None:
            if self._is_selected(self._pending) and not is_selected:
                self._encode_pending()  # only triggers need the newer one: both are wanted
            else:
                self._drop("encoder_busy")
        # A copy of its counts: the ring may overwrite them before this step ends.
        self._pending = window.detached()

    def _encode_pending(self) -> None:
        """Evaluate the triggers of the pending window, and offer it to the narrator."""
        if self._pending is None:
            return
        window, self._pending = self._pending, None
        evaluated = self._evaluate(window)
        if not self._is_selected(window):
            self._drop("not_selected")
        elif self._encode_every_window:
            narration_batch = self._encode(window, evaluated)
            if narration_batch:
                self.narrator_client.offer(lambda: narration_batch)
        else:
            self.narrator_client.offer(lambda: self._encode(window, evaluated))

    def _evaluate(self, window: Window) -> Sequence[PatchEmbedding]:
        """Evaluate the triggers, and return the embeddings that they needed."""
        if self._urgent is None or self._triggers is None:
            return ()
        embeddings = self._urgent.encode([window])
        self._counters.windows_encoded += 1
        self._triggers.evaluate(_seen(embeddings))
        return embeddings

    def _encode(self, window: Window, evaluated: Sequence[PatchEmbedding]) -> NarrationBatch:
        """Encode the populations whose turn it is, and return those that are seen."""
        turn = next(self._turns)
        by_population = {embedding.population: embedding for embedding in evaluated}
        if turn.encoder is not None:
            encoded = turn.encoder.encode([window])
            by_population |= {embedding.population: embedding for embedding in encoded}
        if not evaluated:
            self._counters.windows_encoded += 1
        embeddings = [by_population[name] for name in turn.populations]
        seen = _seen(embeddings)
        if not seen:
            self._drop("no_units")
        if self._unseen and len(seen) < len(embeddings):
            unseen = [embedding for embedding in embeddings if embedding.is_unseen]
            for narrated in failed(unseen, NO_UNITS, self._unseen, self._clock):
                self._narration_publisher.publish(narrated)
        return seen

    def publish_narrated(self) -> None:
        """Publish what the narrator has finished since, whole narrations and partial ones."""
        for narrated in self.narrator_client.collect():
            if isinstance(narrated, NarratedPopulation):
                self._narration_publisher.publish(narrated)
            else:
                self._narration_publisher.publish_partial(narrated)

    def stop_waiting_for(self, stream: str) -> None:
        """Continue without a stream that has been silent for too long."""
        self._counters.streams_blind += 1
        self.ring.set_blind(stream, is_blind=True)
        self._cut(self._clock.now_ns())

    def set_aside(self, stream: str) -> None:
        """Continue without a stream whose time does not agree with the others'."""
        self._counters.streams_aside += 1
        self.ring.set_blind(stream, is_blind=True)
        self._cut(self._clock.now_ns())

    @property
    def does_without_missing(self) -> bool:
        """Whether windows are cut although units are missing, which are held at their mean."""
        return self._absent_units is not None and self.ingest.is_settled

    @property
    def is_idle(self) -> bool:
        """Whether every window has been narrated or dropped."""
        return self._pending is None and not self.narrator_client.n_unfinished

    def _is_selected(self, window: Window) -> bool:
        return window.seq % self._narrate_every == 0

    def _count_spikes(self) -> None:
        report = self.ring.take_report()
        self._counters.spikes_binned += report.n_binned
        self._counters.spikes_late += report.n_late
        self._counters.spikes_unknown += report.n_unknown
        self._counters.overrun_bins += report.n_overrun_bins

    def _drop(self, reason: str) -> None:
        self._counters.windows_dropped[reason] += 1


def _seen(embeddings: Sequence[PatchEmbedding]) -> Sequence[PatchEmbedding]:
    """Return those of populations of which a unit is sent, or that have none on purpose."""
    return [embedding for embedding in embeddings if not embedding.is_unseen]
