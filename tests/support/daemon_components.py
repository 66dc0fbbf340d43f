"""The daemon's components wired for a test: a source socket, a fast loop, a stub encoder."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import zmq
from prometheus_client import CollectorRegistry

from contracts.clock import Clock
from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance, Status, Utterance
from contracts.population import Population
from contracts.spikes import Hello, SourceMessage
from contracts.window import Window, WindowSpec
from contracts.wire import pack
from daemon.absent_units import AbsentUnits
from daemon.bin_ring import BinRing
from daemon.counters import Counters
from daemon.encoders.protocol import Encoder
from daemon.handover import EncodeWindow, NarrationBatch
from daemon.ingest import Ingest
from daemon.narration_publisher import NarrationPublisher
from daemon.narrators.protocol import EndedRow
from daemon.pipeline import FastLoop, Turn
from daemon.publisher import Publisher
from daemon.service.latencies import LatencyRecorder
from daemon.source_publisher import SourcePublisher
from daemon.stream_registry import StreamRegistry
from daemon.window_cutter import WindowCutter
from daemon.worker.narrator_client import InlineClient, NarratorClient
from peer_guard.source_stream import Part
from tests.support.ramp_population import RUN, ramp_population
from tests.support.tiny_bundle import TINY_GRID

Context = zmq.Context[zmq.Socket[bytes]]

PROVENANCE = Provenance(bundle="b" * 64, backend="test", model="", prompt="")


def hello_of(
    population: Population | None = None,
    *,
    stream: str = "probeA",
    run: str = RUN,
    next_seq: int = 0,
) -> Hello:
    """Return the hello that goes with `tests.support.ramp_population.batch_of`."""
    return Hello(stream, run, f"test:{stream}", population or ramp_population(), next_seq)


def embeddings_of(
    window: Window, populations: Sequence[str] = ("all",), *, host_ns: int = 0
) -> list[PatchEmbedding]:
    """Return patches that point to frame ``window.seq % 3`` of `stub_bundle`."""
    patches = np.zeros((TINY_GRID.n_patches, TINY_GRID.dim), dtype=np.float32)
    patches[:, window.seq % 3] = 1
    return [
        PatchEmbedding(window, name, window.counts.shape[1], TINY_GRID, patches, host_ns)
        for name in populations
    ]


class StubEncoder:
    """Remembers the windows that it was given."""

    def __init__(self, clock: Clock, populations: Sequence[str] = ("all",)) -> None:
        self.windows: list[Window] = []
        self.window_s = 0.0
        self.selections = [ramp_population().select(name, "all") for name in populations]
        self.clock = clock
        self.populations = populations

    def encode(self, windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        """Encode to `embeddings_of`."""
        self.windows += windows
        now_ns = self.clock.now_ns()
        return [
            embedding
            for window in windows
            for embedding in embeddings_of(window, self.populations, host_ns=now_ns)
        ]

    def time_window(self, budget_s: float) -> float:
        """What a test has set."""
        return self.window_s


class EchoNarrator:
    """Narrates the population and the number of the window."""

    provenance = PROVENANCE

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[int, Sequence[PatchEmbedding], int]] = []

    @property
    def n_rows(self) -> int:
        """Embeddings that wait."""
        return sum(len(embeddings) for _, embeddings, _ in self._waiting)

    def has_room(self, n: int) -> bool:
        """One window at a time."""
        return not self._waiting

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Take a window."""
        self._waiting.append((batch_id, embeddings, self._clock.now_ns()))

    def step(self) -> Sequence[EndedRow]:
        """End every row, with stamps."""
        batch_id, embeddings, start_ns = self._waiting.pop(0)
        stamps: dict[str, Any] = {
            "start_host_ns": start_ns,
            "first_token_host_ns": self._clock.now_ns(),
            "last_token_host_ns": self._clock.now_ns(),
        }
        texts = [f"{embedding.population} {embedding.window.seq}" for embedding in embeddings]
        return [
            EndedRow(batch_id, row, Utterance(text, Status.OK, **stamps))
            for row, text in enumerate(texts)
        ]

    def cancel(self, batch_id: int) -> None:
        """Drop a window."""
        self._waiting = [window for window in self._waiting if window[0] != batch_id]

    def close(self) -> None:
        """Do nothing."""


def encoded(narration_batch: NarrationBatch) -> EncodeWindow:
    """Return a window for the hand-over whose embeddings are made already."""
    return lambda: narration_batch


@dataclass
class FakeNarratorClient:
    """Takes what it is offered and narrates nothing."""

    offered: list[NarrationBatch] = field(default_factory=list)
    sockets: Sequence[zmq.Socket[bytes]] = ()
    problem: str = ""
    dropped: dict[str, int] = field(default_factory=dict)
    n_restarts: int = 0
    is_full: bool = False
    is_closed: bool = False

    @property
    def n_waiting(self) -> int:
        """What was offered."""
        return len(self.offered)

    @property
    def n_unfinished(self) -> int:
        """What was offered."""
        return len(self.offered)

    def offer(self, encode: EncodeWindow) -> None:
        """Encode it, and remember what it is."""
        if narration_batch := encode():
            self.offered.append(narration_batch)

    def collect(self):
        """Yield nothing."""
        return iter(())

    def close(self, *, deadline_s: float) -> None:
        """Remember it."""
        self.is_closed = True


class SentMessages:
    """The connection to a source in this process, which delivers at once."""

    def __init__(self) -> None:
        self._messages: deque[list[Part]] = deque()
        self.poll_fds = [0]

    @property
    def has_messages(self) -> bool:
        """Whether there is something to take."""
        return bool(self._messages)

    def send(self, *messages: SourceMessage) -> None:
        """Send values."""
        for message in messages:
            self.send_raw(*map(bytes, pack(message)))

    def send_raw(self, *parts: bytes) -> None:
        """Send anything."""
        self._messages.append(list(parts))

    def take(self) -> list[Part] | None:
        """Return the oldest message."""
        return self._messages.popleft() if self._messages else None

    def read(self) -> bool:
        """Read nothing more: what is sent is there."""
        return False


def connected_source(ingest: Ingest) -> SentMessages:
    """Connect a sender to an ingest."""
    source = SentMessages()
    ingest.add(source)
    return source


def wait_for_messages(ingest: Ingest, *, timeout_ms: int) -> bool:
    """Wait until there is something to receive; return whether there is."""
    return ingest.has_messages or bool(select.select(ingest.poll_fds, (), (), timeout_ms / 1000)[0])


@dataclass
class DaemonLoop:
    """A fast loop, and the components that a test looks into."""

    loop: FastLoop
    ingest: Ingest
    encoder: StubEncoder
    publisher: Publisher
    counters: Counters


def stub_turn(encoder: StubEncoder, urgent: StubEncoder | None, names: Sequence[str]) -> Turn:
    """Return a turn of populations, as `daemon.service.wiring` divides them."""
    others = [name for name in names if urgent is None or name not in urgent.populations]
    rest = encoder if others == list(encoder.populations) else StubEncoder(encoder.clock, others)
    return Turn(names, cast(Encoder, rest) if others else None)


@contextmanager
def daemon_loop(
    context: Context,
    clock: Clock,
    spec: WindowSpec,
    *,
    population: Population | None = None,
    narrator_client: NarratorClient | None = None,
    populations: Sequence[str] = ("all",),
    urgent: Sequence[str] = (),
    at_once: int | None = None,
    extra_units: Literal["refuse", "ignore"] = "refuse",
    capacity_bins: int = 1000,
    encode_every_window: bool = True,
    does_without: bool = False,
    **options: Any,
) -> Iterator[DaemonLoop]:
    """Wire the components as `daemon.service.wiring` does, with a stub for an encoder."""
    population = population or ramp_population()
    counters, latencies = Counters(), LatencyRecorder(CollectorRegistry())
    ring = BinRing(spec.rate, len(population), capacity_bins=capacity_bins, window_bins=spec.n_bins)
    registry = StreamRegistry(population, extra_units, reach_ns=ring.capacity_ns)
    ingest = Ingest(registry, counters, clock, is_ahead=ring.is_ahead)
    publisher = Publisher(context, "tcp://127.0.0.1:*")
    encoder = StubEncoder(clock, populations)
    urgent_encoder: StubEncoder | None = StubEncoder(clock, urgent)
    if not urgent:  # triggers are given all of them
        urgent_encoder = encoder if "triggers" in options else None
    turns = [
        stub_turn(
            encoder, urgent_encoder, populations[first : first + (at_once or len(populations))]
        )
        for first in range(0, len(populations), at_once or len(populations))
    ]
    loop = FastLoop(
        ingest=ingest,
        ring=ring,
        cutter=WindowCutter(spec, clock),
        turns=turns,
        narrator_client=narrator_client or InlineClient(EchoNarrator(clock)),
        narration_publisher=NarrationPublisher(publisher, counters, clock, latencies.record),
        counters=counters,
        clock=clock,
        encode_every_window=encode_every_window,
        absent_units=AbsentUnits(registry) if does_without else None,
        unseen=PROVENANCE,
        source_publisher=SourcePublisher(publisher, clock),
        urgent=cast(Encoder, urgent_encoder),
        **options,
    )
    try:
        yield DaemonLoop(loop, ingest, encoder, publisher, counters)
    finally:
        ingest.close()
        publisher.close()
