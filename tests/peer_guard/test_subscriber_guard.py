"""A subscriber that breaks a rule loses its connection, and nobody else notices."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psutil
import pytest
import zmq

from contracts.address import check_bindable
from peer_guard import guard, subscriber_guard
from peer_guard.sockets import bind_guarded
from peer_guard.subscriber_guard import SubscriberGuard
from tests.support.daemon_components import Context
from tests.support.wait_until import wait_until
from tests.support.zmtp_peer import (
    COMMAND,
    GREETING,
    GREETING_2,
    MORE,
    connected,
    frame,
    handshake,
    introduce,
    is_cut,
    ready,
    send_until_cut,
)


class _GuardedPublisher:
    """An XPUB socket behind its guard."""

    def __init__(
        self,
        context: Context,
        *,
        queue_messages: int = 1000,
        on_ping: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, queue_messages)
        self.socket.set(zmq.XPUB_VERBOSE, 1)
        wanted = check_bindable("tcp://127.0.0.1:*", setting="test", is_insecure=False)
        self.guard: SubscriberGuard = bind_guarded(
            self.socket, wanted, setting="test", on_ping=on_ping
        )

    def close(self) -> None:
        self.socket.close()
        self.guard.close()
        self.guard.wait()

    def requests(self) -> list[bytes]:
        """Return the subscriptions that have reached the socket."""
        got = []
        while self.socket.poll(0):
            got.append(self.socket.recv())
        return got


@pytest.fixture
def publisher(context: Context) -> Iterator[_GuardedPublisher]:
    publisher = _GuardedPublisher(context)
    yield publisher
    publisher.close()


@pytest.fixture
def good(context: Context, publisher: _GuardedPublisher) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that is there from the start."""
    with context.socket(zmq.SUB) as subscriber:
        subscriber.set(zmq.LINGER, 0)
        subscriber.subscribe(b"good")
        subscriber.connect(publisher.guard.address)
        assert publisher.socket.poll(5000)
        assert publisher.socket.recv() == b"\x01good"
        yield subscriber


def assert_untouched(publisher: _GuardedPublisher, good: zmq.Socket[bytes]) -> None:
    publisher.socket.send(b"good still")
    assert good.poll(5000), "the good subscriber was disturbed"
    assert good.recv() == b"good still"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "greeting"),
        (b"\xff" * 64, "mechanism"),
        (b"\xff" + bytes(9), "greeting"),
        (GREETING[:10] + b"\0" * 54, "version"),
        (GREETING.replace(b"NULL", b"CURV"), "mechanism"),
        (handshake(b"REQ"), "socket_type"),
        (handshake(b"PUB"), "socket_type"),
        (GREETING_2[:-1] + b"\x03", "socket_type"),
        (GREETING + frame(b"\x01good"), "handshake"),
        (GREETING + frame(b"\x05READY", COMMAND), "handshake"),
        (GREETING + frame(b"\x05READY\x0bSocket-Type\xff\xff\xff\xffSUB", COMMAND), "handshake"),
        (GREETING + frame(b"\x05READY" + bytes(5000), COMMAND), "size"),
        (handshake(b"SUB") + b"\x80\x01a", "frame"),
        (handshake(b"SUB") + frame(b"a", MORE | COMMAND), "frame"),
        (handshake(b"SUB") + b"\x02" + b"\xff" * 8, "frame"),
        (handshake(b"SUB") + b"\x02\x7f" + b"\xff" * 7, "size"),
        (handshake(b"SUB") + frame(b"\x01" + bytes(1024)), "size"),
        (handshake(b"SUB") + frame(b"\x09SUBSCRIBE" + bytes(1024), COMMAND), "size"),
        (handshake(b"SUB") + frame(b"\x01a", MORE), "request"),
    ],
)  # fmt: skip
def test_whoever_breaks_a_rule_is_disconnected(sent, reason, publisher, good):
    """Each rule of ZMTP and of ours: cut, counted with its reason, and nobody else is."""
    with connected(publisher.guard.address) as peer:
        peer.sendall(sent)
        assert is_cut(peer)
    dropped = {name: n for name, n in publisher.guard.dropped.items() if n}
    assert dropped == {reason: 1}
    assert publisher.requests() == []
    assert_untouched(publisher, good)


def test_a_ping_is_no_subscription(context: Context):
    """Where pings are taken they go to whoever answers; nothing of them is kept or passed on."""
    asked: list[tuple[int, bytes]] = []
    topic = b"ping.%016x"
    with closing(_GuardedPublisher(context, on_ping=lambda *ping: asked.append(ping))) as pinged:
        with connected(pinged.guard.address) as peer:
            introduce(peer, b"SUB")
            for number in range(2000):  # more than a subscriber may have topics
                peer.sendall(frame(b"\x01" + topic % number) + frame(b"\x00" + topic % number))
            peer.sendall(frame(b"\x01last"))
            assert pinged.socket.poll(20_000)
            assert pinged.requests() == [b"\x01last"]
        assert [one for _, one in asked] == [topic % number for number in range(2000)]
        assert len({number for number, _ in asked}) == 1
        assert not any(pinged.guard.dropped.values())


def test_a_ping_is_a_topic_where_nobody_answers(publisher, good):
    """As for a daemon's socket."""
    with connected(publisher.guard.address) as peer:
        introduce(peer, b"SUB")
        peer.sendall(frame(b"\x01ping.0000000000000001"))
        assert publisher.socket.poll(5000)
        assert publisher.requests() == [b"\x01ping.0000000000000001"]


def test_message_that_never_ends_takes_no_memory(publisher, good):
    """Parts without end are refused at the first of them."""
    process = psutil.Process()
    before = process.memory_info().rss
    with connected(publisher.guard.address) as peer:
        introduce(peer, b"SUB")
        n_sent = send_until_cut(peer, frame(bytes(200), MORE) * 500, limit_bytes=200 << 20)
    assert n_sent < 20 << 20  # what the system's own buffers take
    assert process.memory_info().rss - before < 20 << 20
    assert publisher.guard.dropped["request"] == 1
    assert_untouched(publisher, good)


def test_too_many_subscriptions_cost_the_connection(publisher, good):
    """The thousand-and-first topic of one peer is one too many, and all of its are forgotten."""
    with connected(publisher.guard.address) as peer:
        introduce(peer, b"SUB")
        topics = b"".join(frame(b"\x01%d" % number) for number in range(1001))
        peer.sendall(topics)
        assert is_cut(peer)
    assert publisher.guard.dropped["subscriptions"] == 1
    events: list[bytes] = []

    def are_gone() -> bool:
        events.extend(publisher.requests())
        return sum(event[:1] == b"\x01" for event in events) == sum(
            event[:1] == b"\x00" for event in events
        )

    wait_until(are_gone, what="the end of the subscriptions")
    assert len(events) <= 2000
    assert_untouched(publisher, good)


def test_topics_of_all_subscribers_together_are_limited(publisher, good, monkeypatch):
    """Where all of them take too much, the largest gives way."""
    monkeypatch.setattr(subscriber_guard, "MAX_TOPIC_BYTES", 3000)
    with ExitStack() as peers:
        small = peers.enter_context(connected(publisher.guard.address))
        introduce(small)
        small.sendall(frame(b"\x01" + bytes(1000)))
        wait_until(lambda: b"\x01" + bytes(1000) in publisher.requests(), what="the small one")
        large = peers.enter_context(connected(publisher.guard.address))
        introduce(large)
        large.sendall(b"".join(
            frame(b"\x01" + secrets.token_bytes(600)) for _ in range(4)
        ))  # fmt: skip
        assert is_cut(large)
        small.sendall(frame(b"\x00" + bytes(1000)))
        wait_until(lambda: b"\x00" + bytes(1000) in publisher.requests(), what="the small one")
    assert publisher.guard.dropped["subscriptions"] == 1
    assert_untouched(publisher, good)


def test_a_flood_of_requests_is_read_slowly_and_nobody_waits_for_it(publisher, good, context):
    """Beyond the rate the guard does not read on; another subscriber has its turn at once."""
    flood = frame(b"\x01a") + frame(b"\x00a")
    with connected(publisher.guard.address) as peer:
        introduce(peer, b"XSUB")
        peer.setblocking(False)
        n_sent = n_events = 0

        def is_held_back() -> bool:
            nonlocal n_sent, n_events
            try:
                n_sent += peer.send(flood * 5000)
            except BlockingIOError:
                return True
            n_events += len(publisher.requests())
            return False

        wait_until(is_held_back, what="a full connection")
        n_most = subscriber_guard.REQUESTS_AT_ONCE + 10 * subscriber_guard.REQUESTS_PER_S
        assert n_events < n_most < n_sent / 3
        with context.socket(zmq.SUB) as late:
            late.subscribe(b"late")
            late.connect(publisher.guard.address)
            wait_until(lambda: b"\x01late" in publisher.requests(), what="the late subscriber")
    assert_untouched(publisher, good)


def test_a_flood_of_requests_is_taken_in_few_turns(publisher, good, monkeypatch):
    """However small the pieces in which it comes: every turn takes the interpreter's lock."""
    monkeypatch.setattr(subscriber_guard, "REST_S", 0.05)
    turns_s: list[float] = []
    take = publisher.guard.take

    def take_noted(peer):
        turns_s.append(time.monotonic())
        return take(peer)

    monkeypatch.setattr(publisher.guard, "take", take_noted)
    with connected(publisher.guard.address) as peer:
        introduce(peer, b"SUB")
        end_s = time.monotonic() + 0.5
        while time.monotonic() < end_s:
            peer.sendall(frame(b"\x01a") + frame(b"\x00a"))
    assert 0 < sum(one < end_s for one in turns_s) < 15
    assert_untouched(publisher, good)


def test_what_is_no_subscription_goes_no_further(publisher, good):
    """Messages upstream, ends of what never began, unknown commands: counted, and that is all."""
    sent = [
        frame(b""), frame(b"\x07noise"), frame(b"\x04DRIP", COMMAND), frame(b"", COMMAND),
        frame(b"\x00never"), frame(b"\x06CANCELnever", COMMAND),
    ]  # fmt: skip
    with connected(publisher.guard.address) as peer:
        introduce(peer)
        peer.sendall(b"".join(sent) + frame(b"\x09SUBSCRIBEmine", COMMAND))
        assert publisher.socket.poll(5000)
        assert publisher.requests() == [b"\x01mine"]
        publisher.socket.send(b"mine")
        received = b""
        while not received.endswith(frame(b"mine")):
            received += peer.recv(4096)
    assert publisher.guard.n_ignored == 4
    assert_untouched(publisher, good)


def test_old_peers_are_understood(publisher):
    """ZMTP 2.0 has no commands: an identity, then subscriptions as messages."""
    with connected(publisher.guard.address) as peer:
        peer.sendall(GREETING_2 + frame(b"") + frame(b"\x01old"))
        assert publisher.socket.poll(5000)
        assert publisher.requests() == [b"\x01old"]
        publisher.socket.send(b"old friend")
        received = b""
        while not received.endswith(frame(b"old friend")):
            received += peer.recv(4096)


def test_whoever_says_nothing_is_disconnected(publisher, good, monkeypatch):
    """A greeting that comes byte by byte, or not at all, has some seconds."""
    monkeypatch.setattr(guard, "HANDSHAKE_S", 0.3)
    with connected(publisher.guard.address) as dripping, connected(publisher.guard.address) as mute:
        dripping.settimeout(0.05)
        for byte in GREETING + ready(b"SUB"):
            try:
                dripping.sendall(bytes([byte]))
                if not dripping.recv(4096):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        dripping.settimeout(10)
        assert is_cut(dripping)
        assert is_cut(mute)
    assert publisher.guard.dropped["handshake"] == 2
    assert_untouched(publisher, good)


def test_connections_are_limited(publisher, good, context, monkeypatch):
    """One too many waits, which is counted; when another has gone there is room for it."""
    monkeypatch.setattr(subscriber_guard, "MAX_CONNECTIONS", 3)
    with ExitStack() as peers:
        for number in range(2):
            peer = peers.enter_context(connected(publisher.guard.address))
            introduce(peer)
            peer.sendall(frame(b"\x01%d" % number))
            wait_until(lambda: bool(publisher.requests()), what="a subscriber")
        again = peers.enter_context(context.socket(zmq.SUB))
        again.subscribe(b"again")
        again.connect(publisher.guard.address)
        wait_until(lambda: publisher.guard.dropped["connections"] == 1, what="the count")
        assert not publisher.socket.poll(100)
        peer.close()
        wait_until(lambda: b"\x01again" in publisher.requests(), what="a subscriber")
    assert_untouched(publisher, good)


def test_a_subscriber_that_does_not_read_costs_no_memory(context: Context):
    """Two hundred megabytes for one that reads nothing: the socket drops them, the guard holds few.

    The publisher never waits.
    """
    publisher = _GuardedPublisher(context, queue_messages=10)
    process = psutil.Process()
    with connected(publisher.guard.address) as mute:
        introduce(mute)
        mute.sendall(frame(b"\x01"))
        assert publisher.socket.poll(5000)
        before = process.memory_info().rss
        for _ in range(200):
            publisher.socket.send(bytes(1 << 20))
        assert process.memory_info().rss - before < 64 << 20
    publisher.close()


def test_what_was_sent_leaves_before_the_end(context: Context):
    """A publisher that is closed lets its last messages go, in order."""
    publisher = _GuardedPublisher(context)
    with context.socket(zmq.SUB) as subscriber:
        subscriber.set(zmq.RCVHWM, 0)
        subscriber.subscribe(b"")
        subscriber.connect(publisher.guard.address)
        assert publisher.socket.poll(5000)
        for number in range(500):
            publisher.socket.send(b"%d" % number)
        publisher.socket.close(linger=5000)
        publisher.guard.close(flush_s=5)
        publisher.guard.wait()
        got = []
        while subscriber.poll(500):
            got.append(int(subscriber.recv()))
    assert got == list(range(500))


def test_only_this_process_reaches_the_socket_behind(publisher, good):
    """The way between the guard and its socket is closed to other processes."""
    names = [
        connection.laddr
        for connection in psutil.Process().net_connections("unix")
        if "neurrate-" in str(connection.laddr)
    ]
    assert names
    script = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_UNIX) as peer:\n"
        "    peer.settimeout(5)\n"
        "    peer.connect('\\0' + sys.argv[1].lstrip('@\\0'))\n"
        "    try: got = peer.recv(10)\n"
        "    except OSError: got = b''\n"
        "    sys.exit(bool(got))\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", script, str(names[0])], check=False).returncode == 0
    )
    assert_untouched(publisher, good)
