"""The handshake of CURVE and its frames, without a socket of ours and against libzmq."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Sequence

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from contracts.keys import ClientKeys, KeyPair
from peer_guard.curve import (
    COOKIE_BYTES,
    FROM_CLIENT,
    FROM_SERVER,
    CurveClient,
    CurveEnd,
    CurveServer,
    curve_greeting,
)
from peer_guard.curve_frames import OVERHEAD_BYTES, Opener, Sealer
from peer_guard.zmtp import PeerViolation
from tests.support.daemon_components import Context
from tests.support.keys import as_client, as_server, new_pair
from tests.support.zmtp_peer import COMMAND, GREETING, MORE, frame, handshake, ready

MAX_BODY = 1024
SERVER, CLIENT, OTHER = new_pair(), new_pair(), new_pair()


def make_server(
    is_allowed: Callable[[bytes], bool] = CLIENT.public.__eq__, own: KeyPair = SERVER
) -> CurveServer:
    return CurveServer(own, is_allowed, socket_type=b"XPUB", max_body_bytes=MAX_BODY)


def make_client(own: KeyPair = CLIENT, server: bytes = SERVER.public) -> CurveClient:
    return CurveClient(own, server, socket_type=b"SUB", max_body_bytes=1 << 20)


def shake_hands(client: CurveClient, server: CurveServer) -> tuple[bytes, bytes]:
    """Let both talk until they are done; return what each has received without encryption."""
    to_server, to_client = bytearray(), bytearray()
    while (one := client.take_reply()) or server.is_ready != client.is_ready or not to_server:
        to_server += server.receive(one)
        to_client += client.receive(server.take_reply())
        if client.is_ready and server.is_ready:
            break
    assert server.seal(handshake(b"XPUB")) == b""  # the socket's own introduction
    return bytes(to_server + server.take_held()), bytes(to_client)


def ready_ends() -> tuple[CurveClient, CurveServer]:
    client, server = make_client(), make_server()
    shake_hands(client, server)
    return client, server


def violation_of(action: Callable[[], object]) -> PeerViolation:
    with pytest.raises(PeerViolation) as caught:
        action()
    return caught.value


def test_both_sides_see_an_introduction_without_encryption():
    """A handshake of CURVE looks like one without security to whoever checks it next."""
    client, server = make_client(), make_server()
    assert shake_hands(client, server) == (handshake(b"SUB"), handshake(b"XPUB"))
    assert server.client_key == CLIENT.public


def test_frames_pass_both_ways():
    """Messages, their parts and commands arrive as they were sent, long ones too."""
    client, server = ready_ends()
    request = frame(b"\x01topic") + frame(b"\x04PING" + bytes(2), COMMAND)
    assert server.receive(client.seal(request)) == request
    published = frame(b"topic", MORE) + frame(bytes(5000)) + frame(b"")
    assert client.receive(server.seal(published)) == published


def test_introduction_waits_for_the_greeting_of_the_socket():
    """libzmq wants to greet before it is told who is there, and what it wants."""
    client, server = make_client(), make_server()
    received = b""
    while not (client.is_ready and server.is_ready):
        received += server.receive(client.take_reply())
        client.receive(server.take_reply())
    assert received == GREETING
    assert server.is_holding
    assert server.receive(client.seal(frame(b"\x01topic"))) == b""
    assert server.take_held() == b""
    server.seal(GREETING)
    assert not server.is_holding
    assert server.take_held() == ready(b"SUB") + frame(b"\x01topic")


def in_pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_cutting_gives_the_same(cuts):
    """However TCP cuts what is sent, the same comes out."""
    client, server = make_client(), make_server()
    to_server = b""
    while not (client.is_ready and server.is_ready):
        for piece in in_pieces(client.take_reply(), cuts):
            to_server += server.receive(piece)
        for piece in in_pieces(server.take_reply(), cuts):
            client.receive(piece)
    published = frame(b"topic", MORE) + frame(bytes(300)) + frame(b"\x04PONG", COMMAND)
    sealed = b"".join(map(server.seal, in_pieces(handshake(b"XPUB") + published, cuts)))
    assert to_server + server.take_held() == handshake(b"SUB")
    assert b"".join(map(client.receive, in_pieces(sealed, cuts))) == published


def test_unlisted_client_is_refused():
    """A client whose key is not on the list gets no answer to its proof, and its key is named."""
    client, server = make_client(own=OTHER), make_server()
    violation = violation_of(lambda: shake_hands(client, server))
    assert violation.reason == "key"
    assert "not on the list: " in violation.detail
    assert server.take_reply() == b""


def test_wrong_public_key_of_the_server_is_refused():
    """A client that knows another server's key goes no further than its first word."""
    client, server = make_client(server=OTHER.public), make_server()
    assert violation_of(lambda: shake_hands(client, server)).reason == "key"


def test_impostor_is_found_out():
    """A server that has not the secret half of its key cannot welcome anybody."""
    client, impostor = make_client(), make_server(own=OTHER)
    impostor.receive(curve_greeting(is_server=False))
    client.take_reply()
    client.receive(impostor.take_reply())
    welcome = frame(b"\x07WELCOME" + bytes(160), COMMAND)
    assert violation_of(lambda: client.receive(welcome)).reason == "key"


def test_client_without_keys_is_refused():
    """A greeting without CURVE is told apart from a broken one."""
    assert violation_of(lambda: make_server().receive(GREETING)).reason == "mechanism"
    assert violation_of(lambda: make_client().receive(GREETING)).reason == "mechanism"


def test_stolen_public_key_is_not_enough():
    """A client that has the public half of an allowed key, and not the secret, is refused."""
    thief = make_client(own=KeyPair(CLIENT.public, OTHER.secret))
    assert violation_of(lambda: shake_hands(thief, make_server())).reason == "encryption"


def recorded_client_side() -> tuple[list[bytes], bytes]:
    """Return what a client sends in its handshake, and a message after it."""
    client, server, sent = make_client(), make_server(), []
    while not client.is_ready:
        sent.append(client.take_reply())
        server.receive(sent[-1])
        client.receive(server.take_reply())
    return sent, client.seal(frame(b"\x01topic"))


def test_recorded_handshake_is_refused():
    """What was recorded of a client opens no other connection: its cookie is another one's."""
    recorded, message = recorded_client_side()
    server = make_server()
    for step in recorded[:-1]:
        server.receive(step)
    assert violation_of(lambda: server.receive(recorded[-1])).reason == "replay"
    assert not server.is_ready
    fresh = make_server()
    for step in recorded[:-1]:
        fresh.receive(step)
    assert violation_of(lambda: fresh.receive(message)).reason == "handshake"


def test_repeated_message_is_refused():
    """A message that comes a second time, and one that came before another, are no messages."""
    client, server = ready_ends()
    first, second = client.seal(frame(b"\x01a")), client.seal(frame(b"\x01b"))
    server.receive(second)
    assert violation_of(lambda: server.receive(second)).reason == "replay"
    assert violation_of(lambda: server.receive(first)).reason == "replay"


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_changed_message_is_refused(at, bit):
    """One bit that is turned over on the way is noticed, wherever it is."""
    client, server = ready_ends()
    message = bytearray(client.seal(frame(b"\x01topic")))
    message[at % len(message)] ^= 1 << bit
    received, reason = b"", "waits for more"  # as it does if the length was changed
    try:
        received = server.receive(bytes(message))
    except PeerViolation as violation:
        reason = violation.reason
    assert received == b""
    assert reason in {"encryption", "replay", "frame", "size", "waits for more"}


def test_nothing_is_passed_on_before_the_key_is_allowed():
    """Requests that come before the handshake is over, encrypted or not, go no further."""
    server = make_server()
    server.receive(curve_greeting(is_server=False))
    assert violation_of(lambda: server.receive(frame(b"\x01topic"))).reason == "handshake"
    server = make_server()
    server.receive(curve_greeting(is_server=False))
    assert violation_of(lambda: server.receive(ready(b"SUB"))).reason == "handshake"


def test_long_frames_are_refused_by_their_length():
    """Nothing longer than may be is waited for, before the handshake is over or after."""
    server = make_server()
    server.receive(curve_greeting(is_server=False))
    long = b"\x06" + (5000).to_bytes(8, "big")
    assert violation_of(lambda: server.receive(long)).reason == "size"
    _, server = ready_ends()
    long = b"\x02" + (MAX_BODY + OVERHEAD_BYTES + 1).to_bytes(8, "big")
    assert violation_of(lambda: server.receive(long)).reason == "size"


def test_refusal_of_another_server_is_told():
    """A libzmq server refuses with a code; it is in the log, whatever it holds."""
    client = make_client()
    client.receive(curve_greeting(is_server=True))
    error = frame(b"\x05ERROR\x03400\x1b[2J", COMMAND)
    violation = violation_of(lambda: client.receive(error))
    assert (violation.reason, "400" in violation.detail) == ("key", True)
    assert "\x1b" not in violation.detail


def test_key_that_any_secret_fits_is_refused():
    """A public key of zeros makes the shared key known to everybody."""
    server = make_server()
    server.receive(curve_greeting(is_server=False))
    hello = b"\x05HELLO\x01\x00" + bytes(72 + 32) + bytes(7) + b"\x01" + bytes(80)
    assert violation_of(lambda: server.receive(frame(hello, COMMAND))).reason == "encryption"


ENDS: Sequence[Callable[[], CurveEnd]] = (
    make_server, make_client, lambda: ready_ends()[0], lambda: ready_ends()[1],
)  # fmt: skip


@given(
    end=st.integers(0, 3),
    chunks=st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.just(curve_greeting(is_server=True)),
            st.builds(frame, st.binary(max_size=400), st.sampled_from((0, MORE, COMMAND))),
            st.builds(
                lambda name, rest: frame(name + rest, COMMAND),
                st.sampled_from((b"\x05HELLO\x01\x00", b"\x07WELCOME", b"\x08INITIATE",
                                 b"\x05READY", b"\x05ERROR", b"\x07MESSAGE")),
                st.one_of(st.binary(max_size=400), *(st.binary(min_size=n, max_size=n)
                          for n in (160, 192, COOKIE_BYTES + 200))),
            ),
        ),
        max_size=6,
    ),
)  # fmt: skip
def test_noise_is_a_violation(end, chunks):
    """Whatever arrives: it waits for more, or is a violation."""
    one = ENDS[end]()
    try:
        for chunk in chunks:
            one.receive(chunk)
            one.take_reply()
    except PeerViolation:
        pass


def test_counters_never_repeat():
    """A nonce that came twice under one key would give the key stream away."""
    sealer, sent = Sealer(bytes(32), FROM_CLIENT, counter=2), set()
    for _ in range(100):
        sent.add(sealer.seal(frame(b"same")))
    counters = [int.from_bytes(one[10:18], "big") for one in sent]
    assert sorted(counters) == list(range(3, 103))
    opener = Opener(bytes(32), FROM_SERVER, counter=0)
    assert violation_of(lambda: opener.open(0, min(sent)[2:])).reason == "encryption"


def test_client_of_libzmq_is_served(context: Context):
    """libzmq's own CURVE, as a subscriber, with our server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as place,
        context.socket(zmq.SUB) as subscriber,
    ):
        as_client(subscriber, ClientKeys(CLIENT, SERVER.public))
        subscriber.set(zmq.LINGER, 0)
        subscriber.subscribe(b"topic")
        subscriber.connect(f"tcp://127.0.0.1:{place.getsockname()[1]}")
        peer, _ = place.accept()
        with peer:
            peer.settimeout(10)
            server, plain = make_server(), b""
            peer.sendall(server.take_reply())
            while not server.is_ready:
                plain += server.receive(peer.recv(4096))
                peer.sendall(server.take_reply())
            server.seal(handshake(b"XPUB"))
            plain += server.take_held()
            while not plain.endswith(frame(b"\x01topic")):
                plain += server.receive(peer.recv(4096))
            published = frame(b"topic", MORE) + frame(bytes(70_000))
            peer.sendall(server.seal(published))
            assert subscriber.poll(10_000)
            assert subscriber.recv_multipart() == [b"topic", bytes(70_000)]


def test_server_of_libzmq_is_read(context: Context):
    """libzmq's own CURVE, as a publisher, with our client."""
    with context.socket(zmq.XPUB) as publisher:
        as_server(publisher, SERVER)
        publisher.set(zmq.LINGER, 0)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            client, plain = make_client(), b""
            peer.sendall(client.take_reply())
            while not client.is_ready:
                plain += client.receive(peer.recv(4096))
                peer.sendall(client.take_reply())
            peer.sendall(client.seal(frame(b"\x01")))
            assert publisher.poll(10_000)
            assert publisher.recv() == b"\x01"
            publisher.send_multipart([b"topic", bytes(70_000)])
            published = frame(b"topic", MORE) + frame(bytes(70_000))
            while not plain.endswith(published):
                plain += client.receive(peer.recv(65_536))
