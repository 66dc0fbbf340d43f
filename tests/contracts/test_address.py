"""Which addresses may be bound or connected to, and what is said otherwise."""

import errno

import pytest

from contracts.address import cannot_bind, check_bindable, check_connectable, http_problem
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
    ["tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://192.168.0.3:5570", "tcp://eth0:5570",
     "tcp://localhost.example.org:5570", "epgm://eth0;239.1.1.1:5570"],
)  # fmt: skip
def test_other_addresses_need_a_word(address):
    """An address that other machines can reach is refused, unless the user insists."""
    with pytest.raises(UserError, match=r"--bind .* can be reached from other machines"):
        check_bindable(address, setting="--bind", is_insecure=False)
    check_bindable(address, setting="--bind", is_insecure=True)


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
    with pytest.raises(UserError, match=r"--bind tcp://\[.* must be an IPv4 address"):
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
