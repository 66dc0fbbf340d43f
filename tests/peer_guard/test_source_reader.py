"""A source that breaks a rule is dropped and tried again; nothing of it fills the memory."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from threading import Event

import psutil
import pytest

from contracts.address import check_connectable
from peer_guard import guard, source_reader
from peer_guard.source_reader import SourceReader
from peer_guard.source_stream import LONG_BODY_BYTES, MAX_WAITING, Part, SourceLimits
from tests.support.zmtp_peer import (
    COMMAND,
    GREETING,
    GREETING_2,
    LONG,
    MORE,
    frame,
    introduce,
    is_cut,
    ready,
    send_until_cut,
)

LIMITS = SourceLimits(part_bytes=1 << 20, message_bytes=2 << 20, parts=5)


class _Listening:
    """A place where sources can be, and a reader that looks for them."""

    def __init__(self) -> None:
        self.place = socket.create_server(("127.0.0.1", 0))
        self.place.settimeout(10)
        self.address = f"tcp://127.0.0.1:{self.place.getsockname()[1]}"
        target = check_connectable(self.address, setting="test")
        self.reader = SourceReader(target, LIMITS)

    def message(self, timeout_s: float = 10) -> list[Part] | None:
        """Return the next message, or None if none comes."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            if (parts := self.reader.take()) is not None:
                return parts
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            select.select(self.reader.poll_fds, (), (), left_s)
            self.reader.read()

    def has_message(self) -> bool:
        self.reader.read()
        return self.reader.has_messages

    def accept(self) -> socket.socket:
        peer, _ = self.place.accept()
        peer.settimeout(10)
        return peer

    def source(self) -> socket.socket:
        """Return a peer that has introduced itself as a publisher, and is subscribed to."""
        peer = self.accept()
        introduce(peer, b"PUB")
        received = b""
        while not received.endswith(frame(b"\x01")):
            received += peer.recv(4096)
        return peer

    def close(self) -> None:
        self.reader.close()
        self.reader.wait()
        self.place.close()


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Listening]:
    monkeypatch.setattr(source_reader, "FIRST_PAUSE_S", 0.02)
    listening = _Listening()
    yield listening
    listening.close()


def assert_heals(listening: _Listening) -> None:
    """Show that a right source at the same address is listened to."""
    with listening.source() as peer:
        peer.sendall(frame(b"topic", MORE) + frame(b"right"))
        assert listening.message() == [b"topic", b"right"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n"], "greeting"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "greeting"),
        ([b"\xff" + bytes(8) + b"\x7f\x02" + bytes(53)], "version"),
        ([GREETING_2[:-1] + b"\x01" + frame(b"")], "version"),
        ([GREETING.replace(b"NULL", b"PLAI")], "mechanism"),
        ([GREETING, ready(b"SUB")], "socket_type"),
        ([GREETING, ready(b"ROUTER")], "socket_type"),
        ([GREETING, frame(b"\x05ERROR\x04oops", COMMAND)], "handshake"),
        ([GREETING, frame(b"topic")], "handshake"),
        ([GREETING], "handshake"),
        ([b"\xff"], "handshake"),
    ],
)
def test_something_else_at_the_address_is_dropped(sent, reason, listening):
    """Another server, another kind of socket, half a handshake: dropped with its reason."""
    with listening.accept() as peer:
        for part in sent:
            peer.sendall(part)
        peer.shutdown(socket.SHUT_WR)
        assert is_cut(peer)
    assert {name: n for name, n in listening.reader.dropped.items() if n} == {reason: 1}
    assert_heals(listening)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x08\x00", "frame"),
        (frame(b"x", MORE | COMMAND), "frame"),
        (bytes([LONG]) + b"\xff" * 8, "frame"),
        (bytes([LONG]) + (1 << 63).to_bytes(8, "big"), "frame"),
        (bytes([LONG]) + ((1 << 63) - 1).to_bytes(8, "big"), "size"),
        (bytes([LONG]) + (LIMITS.part_bytes + 1).to_bytes(8, "big"), "size"),
        (bytes([LONG | COMMAND]) + (1 << 40).to_bytes(8, "big"), "size"),
        (frame(b"", MORE) * 6, "parts"),
    ],
)
def test_frames_beyond_the_limits_cost_the_connection(sent, reason, listening):
    """Lengths and flags that cannot be, and those that may not be."""
    with listening.source() as peer:
        peer.sendall(sent)
        assert is_cut(peer)
    assert {name: n for name, n in listening.reader.dropped.items() if n} == {reason: 1}
    assert not listening.has_message()
    assert_heals(listening)


@pytest.mark.parametrize("part", [frame(b"", MORE), frame(bytes(60_000), MORE)])
def test_message_that_never_ends_takes_no_memory_of_the_reader(part, listening):
    """Whether its parts are empty or large, and again and again."""
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(3):
        with listening.source() as peer:
            assert send_until_cut(peer, part * 50, limit_bytes=300 << 20) < 50 << 20
    assert process.memory_info().rss - before < 30 << 20
    assert listening.reader.dropped["parts"] + listening.reader.dropped["size"] == 3
    assert not listening.has_message()
    assert_heals(listening)


def test_bytes_that_nobody_takes_are_limited(listening, monkeypatch):
    """A high-water mark of 1,000 messages would be a gigabyte here; nothing of it is lost."""
    monkeypatch.setattr(source_reader, "MAX_WAITING_BYTES", 8 << 20)
    process = psutil.Process()
    before = process.memory_info().rss
    message = frame(bytes(1 << 20))
    n_sent = 0
    with listening.source() as peer:
        peer.settimeout(0.5)
        try:
            while n_sent < 300 * len(message):
                n_sent += peer.send(message[n_sent % len(message) :])
        except TimeoutError:
            pass
        assert process.memory_info().rss - before < 60 << 20
        assert n_sent < 60 << 20
        n_whole = n_sent // len(message)
        for _ in range(n_whole):
            assert listening.message() == [bytes(1 << 20)]


def test_what_came_before_a_violation_arrives(listening):
    """The messages before it are whole; of the one that broke off nothing is seen."""
    got = []
    with listening.source() as peer:
        peer.sendall(b"".join(frame(b"%d" % number) for number in range(50)) + frame(b"half", MORE))
        got += [int((listening.message() or [b"-1"])[0]) for _ in range(50)]
        peer.sendall(b"\xf0\xf0")
        assert is_cut(peer)
    assert got == list(range(50))
    assert_heals(listening)


def test_look_up_that_hangs_does_not_hold_up_the_reader(listening, monkeypatch):
    """What had arrived is taken, and news is taken note of once."""
    with listening.source() as peer:
        peer.sendall(frame(b"last"))
        assert listening.message() == [b"last"]
        looked_up, may_answer = Event(), Event()

        def hang(*_: object) -> list[object]:
            looked_up.set()
            may_answer.wait(10)
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert listening.message(0.01) is None  # the end of the connection is read
    assert looked_up.wait(10)
    listening.reader._tell()
    assert select.select(listening.reader.poll_fds, (), (), 10)[0]
    listening.reader.read()
    assert select.select(listening.reader.poll_fds, (), (), 0.1)[0] == []
    monkeypatch.undo()
    may_answer.set()


def test_a_source_that_breaks_off_in_a_message_comes_back(listening):
    """Its half message is forgotten and the next run is received from its first message."""
    with listening.source() as peer:
        peer.sendall(frame(b"whole") + frame(b"half", MORE) + bytes([0, 200]) + b"a part of a part")
        assert listening.message() == [b"whole"]
    assert_heals(listening)
    assert sum(listening.reader.dropped.values()) == 0


def test_a_restarted_source_is_found_at_once(listening):
    """Whole runs, one after the other."""
    for run in range(5):
        with listening.source() as peer:
            peer.sendall(frame(b"%d" % run))
            assert listening.message() == [b"%d" % run]
    assert sum(listening.reader.dropped.values()) == 0


def test_heartbeats_are_answered(listening):
    """A PONG for each PING, with its context, also between messages and their parts."""
    ping, pong = frame(b"\x04PING\x00\x64me", COMMAND), frame(b"\x04PONGme", COMMAND)
    with listening.source() as peer:
        peer.sendall(ping + frame(b"between", MORE) + ping + frame(b"parts") + ping)
        pongs = b""
        while len(pongs) < 3 * len(pong):
            pongs += peer.recv(4096)
        assert pongs == pong * 3
        assert listening.message() == [b"between", b"parts"]
    assert sum(listening.reader.dropped.values()) == 0


def test_heartbeat_behind_messages_that_wait_is_answered(listening):
    """Once they are taken, also if nothing follows it."""
    n_messages = MAX_WAITING + 1
    with listening.source() as peer:
        peer.sendall(frame(b"") * n_messages + frame(b"\x04PING\x00\x64me", COMMAND))
        assert [listening.message() for _ in range(n_messages)] == [[b""]] * n_messages
        assert peer.recv(4096) == frame(b"\x04PONGme", COMMAND)


def test_a_flood_of_heartbeats_costs_the_connection(listening):
    """More of them than anybody needs, whether their answers are read or not."""
    ping = frame(b"\x04PING\x00\x64me", COMMAND)
    for _ in range(2):
        with listening.source() as peer:
            assert send_until_cut(peer, ping * 5000, limit_bytes=100 << 20) < 50 << 20
    assert listening.reader.dropped["commands"] == 2
    assert_heals(listening)


def test_a_greeting_that_drips_has_some_seconds(listening, monkeypatch):
    """Then the source is dropped, however busy it is."""
    monkeypatch.setattr(guard, "HANDSHAKE_S", 0.3)
    with listening.accept() as peer:
        peer.settimeout(0.02)
        for byte in GREETING:
            try:
                peer.sendall(bytes([byte]))
                peer.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
        peer.settimeout(10)
        assert is_cut(peer)
    assert listening.reader.dropped["handshake"] == 1
    monkeypatch.setattr(guard, "HANDSHAKE_S", 10)
    assert_heals(listening)


def test_pauses_grow(listening, monkeypatch):
    """Whoever breaks rules again and again is asked less and less often."""
    assert listening.reader._pause_s == 0.02
    for _ in range(4):
        with listening.accept() as peer:
            peer.sendall(b"junk")
            assert is_cut(peer)
    assert listening.reader._pause_s == pytest.approx(0.02 * 2**4)


def test_a_reset_is_no_error_of_ours(listening, caplog):
    """A source that is killed resets its connection."""
    with listening.source() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert_heals(listening)
    assert "guard failed" not in caplog.text


def test_any_cut_gives_the_same_messages(listening):
    """Short and long bodies, several parts, whatever chunks they arrive in."""
    sizes = [0, 1, 255, 256, LONG_BODY_BYTES, LONG_BODY_BYTES + 1, 70_000, 300_000]
    messages = [[bytes([n]) * size, b"", b"x" * (n + 1)] for n, size in enumerate(sizes)]
    sent = b"".join(
        frame(part, MORE if n < 2 else 0) for parts in messages for n, part in enumerate(parts)
    )
    with listening.source() as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for step in (len(sent), 100_000, 4099, 997):
            for first in range(0, len(sent), step):
                peer.sendall(sent[first : first + step])
                listening.reader.read()
            assert [listening.message() for _ in messages] == messages


def test_what_nobody_reads_is_read_by_the_thread(listening):
    """Beyond what the system's buffers hold, up to a number of messages; nothing is lost."""
    message = frame(bytes(10_000))
    with listening.source() as peer:
        for _ in range(MAX_WAITING):
            peer.sendall(message)
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.sendall(message * MAX_WAITING)
        for _ in range(MAX_WAITING):
            assert listening.message() == [bytes(10_000)]


def test_reader_is_told_what_the_thread_has_read(listening):
    """It may wait for the connection's descriptor, which the thread has emptied meanwhile."""
    with listening.source() as peer:
        assert listening.message(0) is None
        peer.sendall(frame(b"stolen"))
        deadline_s = time.monotonic() + 10
        while not listening.reader.has_messages and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert select.select(listening.reader.poll_fds, (), (), 10)[0]
        assert listening.message(0) == [b"stolen"]
        listening.reader.read()
        assert select.select(listening.reader.poll_fds, (), (), 0.1)[0] == []
