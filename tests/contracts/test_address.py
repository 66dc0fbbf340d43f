"""Which addresses may be bound or connected to, and what is said otherwise."""

import errno
import socket

import pytest

from contracts.address import (
    TcpAddress,
    cannot_bind,
    check_bindable,
    check_connectable,
    check_host,
    http_problem,
)
from contracts.errors import UserError


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:5570", "tcp://127.0.0.1:*", "tcp://127.1.2.3:0", "tcp://localhost:5570",
     "ipc:///run/neurrate/spikes"],
)  # fmt: skip
def test_loopback_is_allowed(address):
    """Addresses that other machines cannot reach need no further word."""
    check_bindable(address, setting="--bind", is_insecure=False)


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://192.168.0.3:5570", "tcp://0:5570",
     "tcp://0x0:5570", "tcp://192.43205:5570"],
)  # fmt: skip
def test_other_addresses_need_a_word(address):
    """An address that other machines can reach is refused, unless the user insists."""
    with pytest.raises(UserError, match=r"--bind .* can be reached from other machines"):
        check_bindable(address, setting="--bind", is_insecure=False)
    check_bindable(address, setting="--bind", is_insecure=True)


@pytest.mark.parametrize(
    ("found", "is_refused"),
    [
        (["127.0.0.1"], False),
        (["127.0.1.1", "127.0.0.1"], False),
        (["127.0.0.1", "192.168.0.3"], True),
        (["8.8.8.8"], True),
    ],
)
def test_names_are_looked_up(found, is_refused, monkeypatch):
    """What counts is where a name leads, all of it; and that is what is bound."""
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_: [(2, 1, 6, "", (number, 0)) for number in found]
    )
    for address in ("tcp://rig.example.org:5570", "tcp://127.example.org:5570"):
        if is_refused:
            with pytest.raises(UserError, match="can be reached from other machines"):
                check_bindable(address, setting="--bind", is_insecure=False)
        bound = check_bindable(address, setting="--bind", is_insecure=is_refused)
        assert str(bound) == f"tcp://{found[0]}:5570"


def test_interfaces_have_addresses():
    """An interface stands for its own address: ``lo`` is loopback."""
    assert str(check_bindable("tcp://lo:0", setting="", is_insecure=False)) == "tcp://127.0.0.1:0"


@pytest.mark.parametrize("is_insecure", [False, True])
def test_a_name_that_leads_nowhere_is_refused(is_insecure):
    """No such interface, no such name."""
    with pytest.raises(UserError, match="names neither an address nor an interface"):
        check_bindable("tcp://eth77.invalid:0", setting="--bind", is_insecure=is_insecure)


@pytest.mark.parametrize("is_insecure", [False, True])
@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:0;0.0.0.0:0", "tcp://127.0.0.1:5570;127.0.0.1:5571", "tcp://;0.0.0.0:0",
     "tcp://127.0.0.1;0.0.0.0:0"],
)  # fmt: skip
def test_a_source_before_the_address_to_bind_is_refused(address, is_insecure):
    """ZeroMQ would bind the second, and the first would have been looked at."""
    with pytest.raises(UserError, match="must be one address to bind, without a source"):
        check_bindable(address, setting="--bind", is_insecure=is_insecure)


def test_a_source_before_the_address_to_connect_to():
    """The interface to connect from; its own port may be any."""
    address = check_connectable("tcp://127.0.0.1:0;10.0.0.7:5570", setting="")
    assert address == TcpAddress("10.0.0.7", 5570, source=("127.0.0.1", 0))
    for wrong in ("tcp://;10.0.0.7:5570", "tcp://127.0.0.1;10.0.0.7:5570", "tcp://a:1;b:0"):
        with pytest.raises(UserError, match="must "):
            check_connectable(wrong, setting="")


@pytest.mark.parametrize("is_insecure", [False, True])
@pytest.mark.parametrize(
    "address",
    ["epgm://eth0;239.1.1.1:5570", "udp://127.0.0.1:5570", "ws://127.0.0.1:5570", "tipc://{1,2,3}",
     "file:///etc/passwd", "tcp://", "ipc://", "tcp://127.0.0.1/x:5570",
     "tcp://a b:5570", "tcp://:5570", "tcp://1:2:5570"],
)  # fmt: skip
def test_other_transports_and_forms_are_refused(address, is_insecure):
    """Only what is known to be local or not; the sockets are ours."""
    with pytest.raises(UserError, match=r"--bind must (be tcp://HOST:PORT|have a port)"):
        check_bindable(address, setting="--bind", is_insecure=is_insecure)


@pytest.mark.parametrize("path", ["*", "@", "a\0b", "x" * 108, "\u00fc" * 54])
def test_paths_that_no_socket_can_have(path):
    """Too long for the system, or a folder that nobody would find."""
    with pytest.raises(UserError, match="must name a path of at most 107 bytes"):
        check_bindable(f"ipc://{path}", setting="--bind", is_insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "*", "::", "0", "192.168.0.3", "::ffff:8.8.8.8"])
def test_the_same_rule_for_http(host):
    """What other machines can reach needs a word there too, also in IPv6."""
    with pytest.raises(UserError, match=r"http\.host .*can be reached from other machines"):
        check_host(host, setting="http.host", is_allowed=False, remedy="or do this")
    check_host(host, setting="http.host", is_allowed=True, remedy="")
    check_host("::1", setting="http.host", is_allowed=False, remedy="")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:5570", "localhost:5570", "0.0.0.0:5570", "5570", ""]
)
@pytest.mark.parametrize("is_insecure", [False, True])
def test_a_forgotten_scheme_is_said(address, is_insecure):
    """An address without a scheme is told what it lacks, and nothing of other machines."""
    with pytest.raises(UserError, match=r"--bind '.*' needs tcp:// in front") as caught:
        check_bindable(address, setting="--bind", is_insecure=is_insecure)
    assert "other machines" not in str(caught.value)


@pytest.mark.parametrize("is_insecure", [False, True])
def test_an_address_within_one_process_is_refused(is_insecure):
    """Nobody else could connect: the programs here are processes of their own."""
    with pytest.raises(UserError, match=r"--bind inproc://x would be reached within one process"):
        check_bindable("inproc://x", setting="--bind", is_insecure=is_insecure)
    with pytest.raises(UserError, match=r"--connect inproc://x would .* Use tcp://127"):
        check_connectable("inproc://x", setting="--connect")


@pytest.mark.parametrize("address", ["tcp://[::1]:5570", "tcp://[::]:5570"])
@pytest.mark.parametrize("is_insecure", [False, True])
def test_ipv6_is_refused(address, is_insecure):
    """Sockets speak IPv4 alone: such an address would be allowed and then fail to bind."""
    with pytest.raises(UserError, match=r"--bind must be an IPv4 address.*tcp://\["):
        check_bindable(address, setting="--bind", is_insecure=is_insecure)


@pytest.mark.parametrize(
    "port", ["99999", "65536", "80x", "x", "-1", "+80", "", "5570 ", "\u0665", "9" * 5000, "**"]
)
@pytest.mark.parametrize("is_insecure", [False, True])
def test_a_port_that_is_none_is_refused(port, is_insecure):
    """ZeroMQ would take another port in its place, without a word."""
    with pytest.raises(UserError, match=r"--bind must have a port from 0 to 65535, or \*"):
        check_bindable(f"tcp://127.0.0.1:{port}", setting="--bind", is_insecure=is_insecure)
    with pytest.raises(UserError, match=r"ingest\.connect must have a port from 1 to 65535, got"):
        check_connectable(f"tcp://127.0.0.1:{port}", setting="ingest.connect")


@pytest.mark.parametrize("port", ["0", "*"])
def test_any_port_cannot_be_connected_to(port):
    """A port that the system chooses is for those who bind."""
    check_bindable(f"tcp://127.0.0.1:{port}", setting="--bind", is_insecure=False)
    with pytest.raises(UserError, match="must have a port from 1 to 65535, got"):
        check_connectable(f"tcp://127.0.0.1:{port}", setting="ingest.connect")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "tcp://rig.example.org:65535", "ipc://a:99999"]
)
def test_an_address_that_somebody_may_listen_on_is_allowed(address):
    """Both ends of the range are ports, and other transports have none."""
    check_connectable(address, setting="ingest.connect")


def test_a_forgotten_scheme_is_said_to_those_who_connect():
    """The same rule on both ends of the line."""
    with pytest.raises(UserError, match=r"ingest\.connect '.*' needs tcp:// in front"):
        check_connectable("127.0.0.1:5570", setting="ingest.connect")


@pytest.mark.parametrize(
    ("error_number", "says"),
    [
        (errno.EADDRINUSE, "address already in use. Set --bind to another port"),
        (errno.EACCES, "permission denied. --bind must be an address such as"),
        (errno.ENODEV, "no such device. --bind must be an address such as"),
    ],
)
def test_a_failed_bind_says_what_to_do(error_number, says):
    """The reason is the operating system's, the remedy is ours."""
    error = cannot_bind("tcp://127.0.0.1:5570", error_number, setting="--bind")
    assert isinstance(error, UserError)
    assert str(error).startswith("Cannot bind tcp://127.0.0.1:5570: ")
    assert says in str(error)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "https://rig.example.org/hook/@me", "http://[::1]:80", "http://h"],
)
def test_a_server_may_be_named_in_these_ways(url):
    """A host, perhaps a port and a path."""
    assert http_problem(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h",
        "http://",
        "http://:80",
        "http://h:0",
        "http://h:99999",
        "http://h:x",
        "http://h/a b",
        "http://h/\N{DEGREE SIGN}",
        "http://h\n",
        "http://h/\0",
        "http://h/\x7f",
        "http://[::1",
        "http://a..b",
        f"http://{'a' * 64}",
        "http://h/#part",
        "http://h/?rig=1",
    ],
)
def test_a_server_that_nobody_can_ask_is_said(url):
    """Hosts and ports that cannot be, and what is no plain URL."""
    said = "must be http://HOST:PORT or https://HOST:PORT, got "
    assert http_problem(url).startswith(said)


def test_a_query_where_there_may_be_one():
    """A hook may have parameters, the root of a server has none."""
    assert http_problem("http://h/hook?who=me@here", with_query=True) == ""


@pytest.mark.parametrize(
    "url", ["http://me:secret@h", "me:secret@h", "http://me:secret@h:99999/", "http://secret@[::1"]
)
def test_a_password_is_refused_and_not_repeated(url):
    """Errors and logs are read by more people than may know it."""
    problem = http_problem(url, with_query=True)
    assert problem.startswith("must not hold a name or a password")
    assert "secret" not in problem
