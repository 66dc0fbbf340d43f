"""The fast loop: the walk of a spike on one screen.

::

    source ═ SUB ═► ingest ─► bin_ring ─► window_cutter ─► encoder ─► port ─► desk ─► publisher
                                                              └─► triggers ─────────────┘

`FastLoop.step` takes what has arrived, says what it triggers, and leaves it to the narrator. It
never waits for the narrator and never raises for bad data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.clock import NS_PER_S, Clock
from contracts.embedding import PatchEmbedding
from contracts.errors import PopulationMismatchError
from contracts.spikes import Hello, SpikeBatch, StreamEnd
from contracts.window import Window
from daemon.bin_ring import AddReport, BinRing
from daemon.counters import Counters
from daemon.encoders.protocol import Encoder
from daemon.ingest import Ingest
from daemon.narration_publisher import NarrationPublisher
from daemon.window_cutter import WindowCutter
from daemon.worker.narrator_client import NarratedPopulation, NarratorClient

MAX_MESSAGES = 256
"""Messages taken in one step, so that narrations and signals are seen to between bursts."""

MAX_STEP_NS = NS_PER_S // 10
"""A step takes no further message after this: in the sequential mode one may take seconds."""


class Triggers(Protocol):
    """What the fast loop asks of the triggers."""

    def judge(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Publish what one window triggers; called on the fast loop, must not block."""
        ...


class FastLoop:
    """Receive, bin, cut, encode, offer, publish.

    Parameters
    ----------
    ingest : Ingest
    ring : BinRing
    cutter : WindowCutter
    encoder : Encoder
    port : NarratorClient
    desk : NarrationPublisher
    counters : Counters
    clock : Clock
    encode_every_window : bool
        True in the sequential mode and where every window is to be narrated. False: of the windows
        that one step completes, the newest is encoded and the others are counted.
    narrate_every : int
        Of the windows, those whose number it divides are handed over.
    triggers : Triggers, optional
        Judges every window that was encoded, before it is handed over.
    in_turn : tuple of two Encoders, optional
        Of the populations that the triggers listen to, and of the others, where a batch gains
        nothing: the first are encoded and judged before the others. None: all at once.
    """

    def __init__(
        self,
        *,
        ingest: Ingest,
        ring: BinRing,
        cutter: WindowCutter,
        encoder: Encoder,
        port: NarratorClient,
        desk: NarrationPublisher,
        counters: Counters,
        clock: Clock,
        encode_every_window: bool,
        narrate_every: int = 1,
        triggers: Triggers | None = None,
        in_turn: tuple[Encoder, Encoder] | None = None,
    ) -> None:
        self.ingest = ingest
        self.ring = ring
        self.cutter = cutter
        self.port = port
        self._encoder = encoder
        self._desk = desk
        self._counters = counters
        self._clock = clock
        self._encode_every_window = encode_every_window
        self._narrate_every = narrate_every
        self._triggers = triggers
        self._in_turn = in_turn
        self._pending: Window | None = None
        ring.hold(is_held=True)  # until every unit is announced: the other probes are yet to come

    def step(self) -> None:
        """Take what has arrived, and leave it to the narrator.

        Raises
        ------
        PopulationMismatchError
            At the start, if a stream has units that the encoder does not know.
        """
        stop_ns = self._clock.now_ns() + MAX_STEP_NS
        self.ingest.is_held = self.port.is_full

        def should_stop() -> bool:
            return self.port.is_full or self._clock.now_ns() > stop_ns

        for message in self.ingest.receive(max_messages=MAX_MESSAGES, should_stop=should_stop):
            match message:
                case SpikeBatch():
                    self._count(self.ring.add(message))
                    self._cut(message.received_host_ns)
                case Hello():
                    self.ring.add_stream(message.stream)
                    self.ingest.is_settled |= not self.ingest.registry.missing_units()
                    self.ring.hold(is_held=not self.ingest.is_settled)
                case StreamEnd():
                    self.ring.end_stream(message.stream)
                    self._cut(self._clock.now_ns())
        self._encode_pending()
        self.publish_narrated()
        self.ingest.is_held = self.port.is_full  # for whoever polls what is to be read

    def stop_waiting_for(self, stream: str) -> None:
        """Go on without a stream that has been silent for too long."""
        self._counters.streams_blind += 1
        self.ring.set_blind(stream, is_blind=True)
        self._cut(self._clock.now_ns())

    @property
    def is_idle(self) -> bool:
        """Whether every window has been narrated or dropped."""
        return self._pending is None and not self.port.n_unfinished

    def _cut(self, received_host_ns: int) -> None:
        if not self.ingest.is_settled:
            return
        for window in self.cutter.ready(self.ring, received_host_ns=received_host_ns):
            self._counters.windows += 1
            self._counters.gap_bins += window.n_gap_bins
            self._take_up(window)
            if self._encode_every_window:
                self._encode_pending()
                self.publish_narrated()
        self._counters.windows_gap_skipped = self.cutter.n_unseen + self.cutter.n_overrun

    def _take_up(self, window: Window) -> None:
        """Let a window wait to be encoded, or count it."""
        is_selected = self._is_selected(window)
        if not is_selected and self._triggers is None:
            self._drop("not_selected")
            return
        if self._pending is not None:
            if self._is_selected(self._pending) and not is_selected:
                self._encode_pending()  # it is to be narrated, and the newer one is not
            else:
                self._drop("encoder_busy")
        self._pending = window.detached()  # the ring may move on before this step ends

    def _is_selected(self, window: Window) -> bool:
        return window.seq % self._narrate_every == 0

    def _encode_pending(self) -> None:
        if self._pending is None:
            return
        window, self._pending = self._pending, None
        is_selected = self._is_selected(window)
        embeddings = self._encode(window, is_selected=is_selected)
        self._counters.windows_encoded += 1
        if is_selected:
            self.port.offer(embeddings)
        else:
            self._drop("not_selected")

    def _encode(self, window: Window, *, is_selected: bool) -> Sequence[PatchEmbedding]:
        """Encode a window and let it be judged as soon as what the triggers listen to is there."""
        if self._in_turn is None or self._triggers is None:
            embeddings = self._encoder.encode([window])
            if self._triggers is not None:
                self._triggers.judge(embeddings)
            return embeddings
        urgent, others = self._in_turn
        embeddings = urgent.encode([window])
        self._triggers.judge(embeddings)
        if not is_selected:
            return embeddings
        by_name = {each.population: each for each in (*embeddings, *others.encode([window]))}
        return [by_name[each.name] for each in self._encoder.selections]

    def publish_narrated(self) -> None:
        """Publish what the narrator has said since."""
        for said in self.port.collect():
            if isinstance(said, NarratedPopulation):
                self._desk.publish(said)
            else:
                self._desk.publish_partial(said)

    def _count(self, report: AddReport) -> None:
        counters = self._counters
        counters.spikes_binned += report.n_binned
        counters.spikes_late += report.n_late
        counters.spikes_unknown += report.n_unknown
        counters.overrun_bins += report.n_overrun_bins

    def _drop(self, reason: str) -> None:
        self._counters.windows_dropped[reason] += 1


def check_population(ingest: Ingest, *, first_hello_ns: int, timeout_s: float, now_ns: int) -> None:
    """Give up on units that no stream has announced for too long after the first hello.

    Raises
    ------
    PopulationMismatchError
        With the missing unit ids.
    """
    if ingest.is_settled or now_ns - first_hello_ns < timeout_s * NS_PER_S:
        return
    sources = ", ".join(stream.hello.source for stream in ingest.registry.streams.values())
    raise PopulationMismatchError(ingest.registry.missing_units(), [], source=sources)
