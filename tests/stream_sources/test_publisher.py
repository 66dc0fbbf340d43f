"""The source's socket: greetings, live sources that never wait, lossless ones that lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import unpack
from stream_sources.publisher import QUEUE_MESSAGES, SpikePublisher
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, ramp_population
from tests.support.wait_until import wait_until

Context = zmq.Context[zmq.Socket[bytes]]
HELLO = Hello("probeA", RUN, "test", ramp_population(4))

N_UNREAD = 300
"""Batches that a reader leaves unread: more than the system's own buffers take."""


@contextmanager
def publisher_of(
    context: Context, clock: ManualClock | HostClock | None = None, *, is_lossless: bool = False
) -> Iterator[SpikePublisher]:
    publisher = SpikePublisher(
        context, "tcp://127.0.0.1:*", HELLO, clock or ManualClock(), is_lossless=is_lossless
    )
    try:
        yield publisher
    finally:
        publisher.close()
        publisher.wait()


@contextmanager
def subscriber(
    context: Context, publisher: SpikePublisher, topic: bytes = b"", *, queue: int = 0
) -> Iterator[zmq.Socket[bytes]]:
    n_before = publisher.n_subscribers
    with context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, queue)
        if queue:
            socket.set(zmq.RCVBUF, 4096)
        socket.subscribe(topic)
        socket.connect(publisher.endpoint)
        if b"spikes".startswith(topic[:6]):
            serve_until(publisher, lambda: publisher.n_subscribers == n_before + 1)
        yield socket


def serve_until(publisher: SpikePublisher, condition: Callable[[], bool]) -> None:
    def holds() -> bool:
        publisher.serve(wait_ms=5)
        return condition()

    wait_until(holds, what="subscribers")


def batch(seq: int, *, n_spikes: int = 0) -> SpikeBatch:
    start_ns = seq * 10_000
    times = start_ns + np.arange(n_spikes, dtype=np.int64)
    units = np.zeros(n_spikes, dtype=np.uint32)
    return SpikeBatch("probeA", RUN, seq, start_ns, start_ns + 10_000, times, units)


def heard(socket: zmq.Socket[bytes]) -> Hello | SpikeBatch | Mark | StreamEnd:
    assert socket.poll(5000), "nothing heard"
    return unpack(socket.recv_multipart())


def test_newcomer_is_greeted_at_once(context: Context):
    """The hello comes with the subscription and says which number is next."""
    with publisher_of(context) as publisher:
        publisher.send(batch(0))
        with subscriber(context, publisher) as socket:
            hello = heard(socket)
    assert isinstance(hello, Hello)
    assert (hello.next_seq, hello.population) == (1, HELLO.population)


def test_everybody_is_greeted_once_a_second(context: Context):
    """A turn of the clock by one second brings one hello, and less brings none."""
    clock = ManualClock()
    with publisher_of(context, clock) as publisher, subscriber(context, publisher) as socket:
        heard(socket)
        for step_ns, n_hellos in ((NS_PER_S - 1, 0), (1, 1), (1, 0), (5 * NS_PER_S, 1)):
            clock.ns += step_ns
            publisher.serve()
            publisher.serve()
            for _ in range(n_hellos):
                assert isinstance(heard(socket), Hello)
            assert not socket.poll(20)


def test_hello_also_comes_between_batches(context: Context):
    """A source that only ever sends still says hello every second."""
    clock = ManualClock()
    with publisher_of(context, clock) as publisher, subscriber(context, publisher) as socket:
        for seq in range(30):
            clock.ns += NS_PER_S // 10
            publisher.send(batch(seq))
        kinds = [type(heard(socket)) for _ in range(1 + 30 + 3)]
    assert kinds.count(Hello) == 1 + 3


def test_batches_marks_and_end_come_in_order(context: Context):
    """What is sent arrives as it was, stamped; the end carries the totals."""
    mark = Mark("probeA", RUN, 5, 10, "movie", 7, frame=3, caption="A dog.")
    clock = ManualClock(77)
    with publisher_of(context, clock) as publisher, subscriber(context, publisher) as socket:
        heard(socket)
        publisher.send(mark)
        publisher.send(batch(0, n_spikes=3))
        publisher.send(batch(1))
        publisher.send_end()
        assert heard(socket) == mark
        first, empty, end = heard(socket), heard(socket), heard(socket)
        totals = publisher.totals
    assert isinstance(first, SpikeBatch)
    assert isinstance(empty, SpikeBatch)
    assert (first.sent_host_ns, first.spike_time_ns.tolist()) == (77, [0, 1, 2])
    assert (empty.seq, empty.n_spikes) == (1, 0)
    assert end == StreamEnd("probeA", RUN, n_batches=2, n_spikes=3)
    assert (totals.n_batches, totals.n_spikes, totals.n_marks) == (2, 3, 1)


def test_subscribers_come_and_go(context: Context):
    """Everybody who listens to the spikes is counted, and no other."""
    with publisher_of(context) as publisher:
        with (
            subscriber(context, publisher, b""),
            subscriber(context, publisher, b"spikes."),
            subscriber(context, publisher, b"spikes.probeA"),
            subscriber(context, publisher, b"mark."),
        ):
            assert publisher.n_subscribers == 3
        serve_until(publisher, lambda: publisher.n_subscribers == 0)


def test_what_subscribers_say_is_passed_over(context: Context):
    """Noise neither counts as a subscriber nor as one that left."""
    with publisher_of(context) as publisher, context.socket(zmq.XSUB) as rogue:
        rogue.set(zmq.LINGER, 0)
        rogue.connect(publisher.endpoint)
        for event in (b"", b"x", b"noise", b"\x01hello."):
            rogue.send(event)
        with subscriber(context, publisher):
            rogue.send(b"\x01spikes.")  # comes after the noise on the same line
            serve_until(publisher, lambda: publisher.n_subscribers >= 2)
            assert publisher.n_subscribers == 2


def test_live_source_never_waits_for_a_stalled_receiver(context: Context):
    """Sixty megabytes past one that never reads: all sent; it reads on and sees the hole."""
    n_batches, n_spikes = 5 * QUEUE_MESSAGES, 1000
    with publisher_of(context) as publisher, subscriber(context, publisher, queue=1) as slow:
        one = batch(0, n_spikes=n_spikes)
        numbered = [
            SpikeBatch("probeA", RUN, seq, 0, 10_000, one.spike_time_ns, one.unit_index)
            for seq in range(n_batches)
        ]
        assert all(publisher.send(each) for each in numbered)
        assert publisher.totals.n_batches == n_batches
        seqs: list[int] = []

        def has_caught_up() -> bool:
            while slow.poll(0):
                message = unpack(slow.recv_multipart())
                if isinstance(message, SpikeBatch):
                    seqs.append(message.seq)
            publisher.send(batch(publisher.totals.n_batches))
            return bool(seqs) and seqs[-1] >= n_batches

        wait_until(has_caught_up, what="batches after the hole")
    assert seqs == sorted(set(seqs))
    assert QUEUE_MESSAGES // 2 < len(seqs) < n_batches


def test_lossless_source_loses_nothing_to_a_receiver_that_stalls(context: Context):
    """The source stands still while one queue is full, then goes on: each number comes once."""
    n_batches = 3 * QUEUE_MESSAGES
    refused = threading.Event()
    got: list[int] = []

    def read(socket: zmq.Socket[bytes]) -> None:
        refused.wait(20)  # stalls until the source had to wait for it
        while len(got) < n_batches and socket.poll(10_000):
            message = unpack(socket.recv_multipart())
            if isinstance(message, SpikeBatch):
                got.append(message.seq)

    def has_waited() -> bool:
        refused.set()
        return False

    with (
        publisher_of(context, HostClock(), is_lossless=True) as publisher,
        subscriber(context, publisher, queue=10) as slow,
        subscriber(context, publisher) as other,
    ):
        reader = threading.Thread(target=read, args=(slow,))
        reader.start()
        for seq in range(n_batches):
            assert publisher.send(batch(seq, n_spikes=200), should_give_up=has_waited)
        reader.join()
        assert refused.is_set()
        assert got == list(range(n_batches))
        seqs: list[int] = []
        while len(seqs) < n_batches:
            message = heard(other)
            if isinstance(message, SpikeBatch):
                seqs.append(message.seq)
        assert seqs == list(range(n_batches))


def stall(publisher: SpikePublisher) -> None:
    """Fill the queue of somebody who does not read, until it has been full for a while."""
    n_refused = 0

    def is_full() -> bool:
        nonlocal n_refused
        n_refused += 1
        return n_refused >= 10

    while publisher.send(batch(publisher.totals.n_batches, n_spikes=1000), should_give_up=is_full):
        n_refused = 0


def test_lossless_source_can_give_up_a_stalled_receiver(context: Context):
    """Asked to stop, a source does not wait for ever; what it gave up is not in its totals."""
    with (
        publisher_of(context, is_lossless=True) as publisher,
        subscriber(context, publisher, queue=1),
    ):
        stall(publisher)
        n_before = publisher.totals.n_batches
        assert not publisher.send(batch(n_before), should_give_up=lambda: True)
        assert not publisher.send_end(should_give_up=lambda: True)
        assert publisher.totals.n_batches == n_before
        assert n_before >= QUEUE_MESSAGES // 2


def test_lossless_source_goes_on_when_the_stalled_receiver_leaves(context: Context):
    """A receiver that dies in the middle holds nobody up."""
    with publisher_of(context, is_lossless=True) as publisher:
        with subscriber(context, publisher, queue=1):
            stall(publisher)
        assert publisher.send(batch(publisher.totals.n_batches))
        assert publisher.n_subscribers == 0


def test_newcomer_during_a_stall_is_greeted_before_its_first_batch(context: Context):
    """Who joins while the source waits hears the hello, then the batch that it announced."""
    with publisher_of(context, is_lossless=True) as publisher:
        with subscriber(context, publisher, queue=1) as slow:
            stall(publisher)
            with context.socket(zmq.SUB) as newcomer:
                newcomer.set(zmq.LINGER, 0)
                newcomer.subscribe(b"")
                newcomer.connect(publisher.endpoint)

                def drain_once_joined() -> bool:
                    if publisher.n_subscribers == 2:
                        while slow.poll(5):
                            slow.recv_multipart()
                    return False

                next_seq = publisher.totals.n_batches
                assert publisher.send(batch(next_seq), should_give_up=drain_once_joined)
                hello, first = heard(newcomer), heard(newcomer)
    assert isinstance(hello, Hello)
    assert isinstance(first, SpikeBatch)
    assert hello.next_seq == first.seq == next_seq


def test_taken_port_says_what_to_change(context: Context):
    """The address, the cause and the option."""
    with (
        publisher_of(context) as publisher,
        pytest.raises(UserError, match=r"Cannot bind tcp.*in use.*--bind"),
    ):
        SpikePublisher(context, publisher.endpoint, HELLO, ManualClock())


def test_open_address_needs_to_be_written_out(context: Context):
    """Other machines can reach it only if the user says so."""
    with pytest.raises(UserError, match="--insecure"):
        SpikePublisher(context, "tcp://*:0", HELLO, ManualClock())


def test_rapid_start_and_stop_leaks_nothing(context: Context):
    """Three hundred lives leave no file descriptor behind."""
    process = psutil.Process()

    def live() -> None:
        publisher = SpikePublisher(context, "tcp://127.0.0.1:*", HELLO, ManualClock())
        publisher.close()
        publisher.wait()

    live()
    before = process.num_fds()
    for _ in range(300):
        live()
    wait_until(lambda: process.num_fds() <= before + 2, what="closed descriptors")


@contextmanager
def much_unread(context: Context) -> Iterator[tuple[SpikePublisher, zmq.Socket[bytes], Context]]:
    """Send seven megabytes to a reader that reads none of it yet."""
    own: Context = zmq.Context()
    publisher = SpikePublisher(own, "tcp://127.0.0.1:*", HELLO, ManualClock(), is_lossless=True)
    with subscriber(context, publisher, b"spikes", queue=10) as socket:
        for seq in range(N_UNREAD):
            assert publisher.send(batch(seq, n_spikes=2000))
        try:
            yield publisher, socket, own
        finally:
            own.destroy(linger=0)
            publisher.wait()


def test_lossless_source_that_has_ended_waits_for_a_slow_reader(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    """What waits for a reader at the end leaves however long it takes, not for half a minute."""
    monkeypatch.setattr("stream_sources.publisher.FLUSH_MS", 1)
    with much_unread(context) as (publisher, socket, own):
        publisher.close()
        ending = threading.Thread(target=own.term)
        ending.start()
        messages = [heard(socket) for _ in range(N_UNREAD)]
        ending.join()
    batches = [each for each in messages if isinstance(each, SpikeBatch)]
    assert [each.seq for each in batches] == list(range(N_UNREAD))


def test_lossless_source_that_is_stopped_does_not_wait_for_a_slow_reader(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    """Whoever asks a source to stop does not wait for an hour."""
    monkeypatch.setattr("stream_sources.publisher.FLUSH_MS", 1)
    with much_unread(context) as (publisher, socket, own):
        publisher.close(is_urgent=True)
        own.term()
        assert socket.poll(5000)
