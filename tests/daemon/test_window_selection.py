"""Which windows are encoded, evaluated and handed over, and what is counted of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from contracts.embedding import PatchEmbedding
from daemon.handover import EncodeWindow
from tests.support.daemon_components import Context, FakeNarratorClient, hello_of
from tests.support.ramp_session import (
    Start,
    fed_loops,
    numbers,
    ramp,
    spans,
)


@pytest.fixture
def start(context: Context) -> Iterator[Start]:
    with fed_loops(context) as start:
        yield start


class RecordingTriggers:
    """Remembers which windows it was given, and how many had been offered by then."""

    def __init__(self, client: FakeNarratorClient) -> None:
        self.seen: list[tuple[int, int]] = []
        self.populations: list[list[str]] = []
        self.client = client

    def evaluate(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Remember one window."""
        self.seen.append((embeddings[0].window.seq, len(self.client.offered)))
        self.populations.append([embedding.population for embedding in embeddings])


class BusyNarratorClient(FakeNarratorClient):
    """Keeps what it is offered as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[EncodeWindow] = []

    def offer(self, encode: EncodeWindow) -> None:
        """Remember it."""
        self.waiting.append(encode)


def test_every_window_is_encoded_in_the_sequential_mode(start: Start):
    """One batch completes ten windows: ten are encoded and offered."""
    client = FakeNarratorClient()
    daemon = start(narrator_client=client)
    daemon.receive(hello_of(), *ramp(0, 200, n_bins=100))
    assert len(client.offered) == daemon.counters.windows_encoded == 10
    assert daemon.counters.windows_dropped["encoder_busy"] == 0


def test_newest_window_of_a_step_is_encoded_in_the_worker_mode(start: Start):
    """Of ten windows that one step completes nine are counted as dropped; the newest is whole."""
    client = FakeNarratorClient()
    daemon = start(narrator_client=client, encode_every_window=False)
    daemon.receive(hello_of(), *ramp(0, 200, n_bins=100))
    assert numbers(daemon.encoder.windows) == spans(180)
    assert (daemon.counters.windows, daemon.counters.windows_encoded) == (10, 1)
    assert daemon.counters.windows_dropped["encoder_busy"] == 9
    assert len(client.offered) == 1


@pytest.mark.parametrize("encode_every_window", [True, False])
def test_every_third_window_is_handed_over(start: Start, encode_every_window: bool):
    """Those whose number three divides, in a replay or live; the others are not even encoded."""
    client = FakeNarratorClient()
    daemon = start(narrator_client=client, encode_every_window=encode_every_window, narrate_every=3)
    daemon.source.send(hello_of())
    for message in ramp(0, 200):
        daemon.receive(message)
    assert [batch[0].window.seq for batch in client.offered] == [0, 3, 6, 9]
    assert daemon.counters.windows_encoded == 4
    assert daemon.counters.windows_dropped["not_selected"] == 6
    assert daemon.counters.windows_dropped["encoder_busy"] == 0


def test_triggers_see_every_window(start: Start):
    """Also those that are not handed over, and each before it is."""
    client = FakeNarratorClient()
    triggers = RecordingTriggers(client)
    daemon = start(
        narrator_client=client, encode_every_window=False, narrate_every=3, triggers=triggers
    )
    daemon.source.send(hello_of())
    for message in ramp(0, 200):
        daemon.receive(message)
    assert triggers.seen == [(n, (n + 2) // 3) for n in range(10)]
    assert [batch[0].window.seq for batch in client.offered] == [0, 3, 6, 9]


def test_populations_of_triggers_are_encoded_and_evaluated_first(start: Start):
    """The others come after, and only of windows that are narrated; the order stays."""
    client = FakeNarratorClient()
    triggers = RecordingTriggers(client)
    daemon = start(
        narrator_client=client,
        populations=("all", "VISp", "LGd"),
        encode_every_window=False,
        narrate_every=2,
        triggers=triggers,
        urgent=("VISp",),
    )
    daemon.source.send(hello_of())
    for message in ramp(0, 80):
        daemon.receive(message)
    assert triggers.populations == [["VISp"]] * 4
    assert triggers.seen == [(0, 0), (1, 1), (2, 1), (3, 2)]
    names = [[embedding.population for embedding in batch] for batch in client.offered]
    assert names == [["all", "VISp", "LGd"]] * 2
    assert not daemon.encoder.windows


def test_window_that_waits_is_not_encoded(start: Start):
    """While the narrator is busy only what triggers need is; the newest is encoded for it then."""
    client = BusyNarratorClient()
    daemon = start(
        narrator_client=client,
        populations=("all", "VISp", "LGd"),
        encode_every_window=False,
        triggers=RecordingTriggers(client),
        urgent=("VISp",),
    )
    daemon.source.send(hello_of())
    for message in ramp(0, 80):
        daemon.receive(message)
    assert daemon.counters.windows_encoded == 4
    assert len(client.waiting) == 4
    narration_batch = client.waiting[-1]()
    assert [embedding.population for embedding in narration_batch] == ["all", "VISp", "LGd"]
    assert {embedding.window.seq for embedding in narration_batch} == {3}
    assert daemon.counters.windows_encoded == 4  # windows, not embeddings


def test_populations_take_turns(start: Start):
    """Each in its turn, in order, of the windows that the narrator takes; triggers see theirs."""
    client = BusyNarratorClient()
    triggers = RecordingTriggers(client)
    daemon = start(
        narrator_client=client,
        populations=("a", "b", "c", "d", "e"),
        at_once=2,
        encode_every_window=False,
        triggers=triggers,
        urgent=("b", "e"),
    )
    daemon.source.send(hello_of())
    for message in ramp(0, 160):
        daemon.receive(message)
    assert triggers.populations == [["b", "e"]] * 8
    narrated = [encode() for encode in client.waiting[::2]]
    names = [[embedding.population for embedding in batch] for batch in narrated]
    assert names == [["a", "b"], ["c", "d"], ["e"], ["a", "b"]]
    assert [batch[0].window.seq for batch in narrated] == [0, 2, 4, 6]


def test_selected_window_is_not_lost_to_one_that_is_not(start: Start):
    """Of ten windows that one step completes, the newest with the right number is handed over."""
    client = FakeNarratorClient()
    daemon = start(
        narrator_client=client,
        encode_every_window=False,
        narrate_every=4,
        triggers=RecordingTriggers(client),
    )
    daemon.receive(hello_of(), *ramp(0, 200, n_bins=100))
    assert [batch[0].window.seq for batch in client.offered] == [0, 4, 8]
    dropped = daemon.counters.windows_dropped
    assert daemon.counters.windows == 10 == 3 + sum(dropped.values())


def test_full_hand_over_holds_the_source(start: Start):
    """Nothing more is read until a window has been taken; the stream is waiting, not blind."""
    client = FakeNarratorClient()
    daemon = start(narrator_client=client)
    daemon.receive(hello_of())
    client.is_full = True
    daemon.receive(*ramp(0, 200))
    assert daemon.counters.messages_received == 1
    assert daemon.ingest.poll_fds == []
    assert daemon.ingest.waiting_streams() == {"probeA"}
    client.is_full = False
    daemon.loop.step()
    assert len(client.offered) == 10


def test_confirmed_jump_loses_nothing_to_a_full_narrator(start: Start):
    """Dozens of batches come at once: what the narrator has no room for waits for it."""

    class Filling(FakeNarratorClient):
        """Is full from each window on."""

        def offer(self, narration_batch) -> None:
            super().offer(narration_batch)
            self.is_full = True

    far_bins = 10 * 3600 * 100
    client = Filling()
    daemon = start(narrator_client=client, capacity_bins=1000)
    jumped = ramp(far_bins, far_bins + 400, n_bins=10, first_seq=1)
    daemon.source.send(hello_of(), *ramp(0, 10), *jumped)
    for _ in range(25):
        daemon.loop.step()
        client.is_full = False
    assert daemon.counters.spikes_received == daemon.counters.spikes_binned
    first_bins = [window.first_bin for window in daemon.encoder.windows]
    assert first_bins == list(range(far_bins, far_bins + 400, 20))


def test_pending_window_outlives_the_ring(start: Start):
    """A window that waits for its turn keeps its counts while the ring is written over."""
    daemon = start(encode_every_window=False, capacity_bins=250)
    daemon.receive(hello_of(), *ramp(0, 20), *ramp(250, 255, n_bins=5, first_seq=25))
    assert numbers(daemon.encoder.windows) == spans(0)
