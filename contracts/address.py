"""Which addresses may be bound or connected to, and what to say otherwise. No socket here.

One rule for everything that listens: what other machines can reach needs keys or ``--insecure``.
Names and interfaces are looked up, and what is bound is the number that was found
(`check_bindable`, `check_host`). The same for what is connected to, by the address as it is written
(`check_kept_private`): a name may not be known yet.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from contracts.errors import UserError
from contracts.keys import ClientKeys

MAX_REQUEST_BYTES = 1024
"""Largest message that a subscriber may send to a publisher: a topic to subscribe to."""

MAX_PORT = 65_535
"""Ports are 16 bits wide (RFC 9293)."""

MAX_IPC_PATH_BYTES = 107
"""``sun_path`` holds 108, the last of them zero (man 7 unix)."""

_ANY_HOST = {"": "0.0.0.0", "*": "0.0.0.0"}
"""What sockets and ZeroMQ take for every interface of this machine."""

WITH_KEYS = (
    "give it keys (--key NAME; 'neurrate keys new NAME' makes them), or add --insecure if the "
    "network is yours"
)
"""What to do about an address that other machines can reach."""

_UNKNOWN_HOST = "names neither an address nor an interface of this machine"

_SIOCGIFADDR = 0x8915
"""Asks for the IPv4 address of an interface (man 7 netdevice)."""

_AUTHORITY = re.compile(r"(?:[^/?#]*//)?([^/?#]*).*", re.DOTALL)
"""Where a name and a password would stand, also where the rest is no URL (RFC 3986)."""

_BLANK = re.compile(r"[\x00-\x20\x7f]")
"""Spaces and control characters, which no URL has (RFC 3986)."""

_HOST = re.compile(r"[^\x00-\x20\x7f/;\[\]]+")
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; port 0 is any free one. To connect, perhaps from a source address."""

    host: str
    port: int
    source: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class IpcAddress:
    """The path of a Unix socket; after ``@`` a name in Linux' abstract namespace."""

    path: str

    def __str__(self) -> str:
        return f"ipc://{self.path}"


Address = TcpAddress | IpcAddress


def check_bindable(
    address: str, *, setting: str, is_insecure: bool, has_keys: bool = False
) -> Address:
    """Return what to bind, a host as its number; refuse what other machines can reach unasked.

    Names are looked up, and must all be of this machine's loopback interface, unless there are keys
    or it is insecure on purpose.

    Raises
    ------
    UserError
        With what to do.
    """
    _check_scheme(address, setting)
    parsed = _parse(address, may_be_any_port=True)
    if isinstance(parsed, str):
        raise UserError(f"{setting} {parsed}.")
    if not isinstance(parsed, TcpAddress):
        return parsed
    host = check_host(
        parsed.host,
        setting=setting,
        is_allowed=is_insecure or has_keys,
        remedy=WITH_KEYS,
        family=socket.AF_INET,
        shown=address,
    )
    return TcpAddress(host, parsed.port)


def check_connectable(address: str, *, setting: str) -> Address:
    """Return what to connect to, names as they are; refuse what nobody can listen on.

    Raises
    ------
    UserError
        With what to do.
    """
    _check_scheme(address, setting)
    parsed = _parse(address, may_be_any_port=False)
    if isinstance(parsed, str):
        raise UserError(f"{setting} {parsed}.")
    return parsed


def check_kept_private(
    addresses: Sequence[str],
    keys: Sequence[ClientKeys | None],
    *,
    is_insecure: bool,
    remedy: str,
) -> None:
    """Refuse to connect to another machine without keys, unless it is insecure on purpose.

    Raises
    ------
    UserError
        With the first such address, and what to do.
    """
    for address, of_address in zip(addresses, keys, strict=True):
        if of_address is None and not is_insecure and leaves_machine(address):
            raise UserError(
                f"{address} is on another machine, and without keys nothing on the way is "
                f"encrypted, nor is it known who is there. {remedy}, or add --insecure if the "
                "network is yours."
            )


def leaves_machine(address: Address | str) -> bool:
    """Whether a connection to an address leaves this machine, as far as the text tells.

    Names but for ``localhost`` count as others' machines: they may not be known yet.

    >>> [leaves_machine(f"tcp://{host}:5570") for host in ("127.0.0.2", "localhost", "rig")]
    [False, False, True]
    """
    parsed = _parse(address, may_be_any_port=True) if isinstance(address, str) else address
    if not isinstance(parsed, TcpAddress):
        return False
    try:
        return not ipaddress.ip_address(parsed.host).is_loopback
    except ValueError:
        return parsed.host.lower() != "localhost"


def check_host(
    host: str,
    *,
    setting: str,
    is_allowed: bool,
    remedy: str,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    shown: str = "",
) -> str:
    """Return the number of a host to listen on; refuse one that other machines can reach unasked.

    `host` may be a number, a name, an interface or ``*``; `shown` is what the user wrote, if more;
    `remedy` what else one can do than to use loopback.

    Raises
    ------
    UserError
        With what to do.
    """
    shown = shown or host
    if not is_allowed and (problem := host_problem(host, family)):
        raise UserError(
            f"{setting} {shown} {problem}, and nothing on it is encrypted. Use 127.0.0.1, {remedy}."
        )
    try:
        return _numbers(host, family)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"{setting} {shown} {_UNKNOWN_HOST}. Use 127.0.0.1.") from error


def host_problem(host: str, family: socket.AddressFamily = socket.AF_UNSPEC) -> str:
    """Return that other machines can reach a host to listen on; empty if only this one can.

    >>> host_problem("127.0.0.1")
    ''
    >>> host_problem("0")
    'can be reached from other machines (0.0.0.0)'
    """
    try:
        numbers = _numbers(host, family)
    except (OSError, UnicodeError):
        return _UNKNOWN_HOST
    exposed = [number for number in numbers if not ipaddress.ip_address(number).is_loopback]
    return f"can be reached from other machines ({exposed[0]})" if exposed else ""


def exposure_problem(address: str) -> str:
    """Return that other machines can reach an address to bind; empty if only this one can."""
    parsed = _parse(address, may_be_any_port=True)
    return host_problem(parsed.host, socket.AF_INET) if isinstance(parsed, TcpAddress) else ""


def bind_problem(address: str) -> str:
    """Return what is wrong with the form of an address to bind; empty if nothing is.

    ZeroMQ itself reads 99999 as 34463 and 80x as 80.

    >>> bind_problem("tcp://127.0.0.1:99999")
    "must have a port from 0 to 65535, or * for any that is free, got 'tcp://127.0.0.1:99999'"
    """
    parsed = _parse(address, may_be_any_port=True)
    return parsed if isinstance(parsed, str) else ""


def connect_problem(address: str) -> str:
    """Return what is wrong with the form of an address to connect to; empty if nothing is.

    >>> connect_problem("tcp://127.0.0.1:0")
    "must have a port from 1 to 65535, got 'tcp://127.0.0.1:0'"
    """
    parsed = _parse(address, may_be_any_port=False)
    return parsed if isinstance(parsed, str) else ""


def http_problem(url: str, *, with_query: bool = False) -> str:
    """Return what is wrong with a URL of a server; empty if nothing is.

    Examples
    --------
    >>> http_problem("localhost:8000")
    "must be http://HOST:PORT or https://HOST:PORT, got 'localhost:8000'"
    """
    if "@" in _AUTHORITY.sub(r"\1", url):
        return "must not hold a name or a password, because URLs are logged; it got one"
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and _has_host(parts) and parts.port != 0
    except ValueError:
        is_right = False
    else:
        is_right = is_right and not parts.fragment and (with_query or not parts.query)
    if is_right and url.isascii() and not _BLANK.search(url):
        return ""
    return f"must be http://HOST:PORT or https://HOST:PORT, got {url!r:.200}"


def cannot_bind(address: str, error_number: int, *, setting: str) -> UserError:
    """Return the error for a failed bind."""
    remedy = (
        f"Set {setting} to another port or stop the other process."
        if error_number == errno.EADDRINUSE
        else f"{setting} must be an address such as tcp://127.0.0.1:5570."
    )
    return UserError(f"Cannot bind {address}: {os.strerror(error_number).lower()}. {remedy}")


def _check_scheme(address: str, setting: str) -> None:
    if "://" not in address:
        raise UserError(
            f"{setting} {address!r} needs tcp:// in front, as in tcp://127.0.0.1:5570 "
            "(or ipc:// and a path)."
        )
    if address.startswith("inproc://"):
        raise UserError(
            f"{setting} {address} would be reached within one process alone, and sources, daemon "
            "and subscribers are processes of their own. Use tcp://127.0.0.1:PORT or ipc://PATH."
        )


def _parse(address: str, *, may_be_any_port: bool) -> Address | str:
    """Return an address to bind or to connect to, or what is wrong with it."""
    transport, _, rest = address.partition("://")
    match transport:
        case "tcp":
            return _parse_tcp(address, rest, may_be_any_port=may_be_any_port)
        case "ipc" if _is_path(rest):
            return IpcAddress(rest)
        case "ipc" if rest:
            limit = f"at most {MAX_IPC_PATH_BYTES} bytes"
            return f"must name a path of {limit} after ipc://, got {address!r:.200}"
    return f"must be tcp://HOST:PORT or ipc://PATH, got {address!r:.200}"


def _is_path(path: str) -> bool:
    # ZeroMQ takes * for a folder that it makes; nobody would find the socket in it.
    is_named = path not in {"", "@", "*"} and "\0" not in path
    return is_named and len(os.fsencode(path)) <= MAX_IPC_PATH_BYTES


def _parse_tcp(address: str, rest: str, *, may_be_any_port: bool) -> TcpAddress | str:
    # ZeroMQ reads SOURCE;DESTINATION, also for a bind, where it would bind the second.
    source_text, semicolon, destination = rest.rpartition(";")
    if semicolon and may_be_any_port:
        return f"must be one address to bind, without a source before it, got {address!r:.200}"
    source = None
    if semicolon:
        source = _host_and_port(source_text, lowest=0)
        if source is None:
            return f"must be tcp://SOURCE:PORT;HOST:PORT, got {address!r:.200}"
    if "[" in destination:
        return f"must be an IPv4 address, as tcp://127.0.0.1:5570 is, got {address!r:.200}"
    target = _host_and_port(destination, lowest=0 if may_be_any_port else 1)
    if target is not None:
        return TcpAddress(*target, source=source)
    host, _, port = destination.rpartition(":")
    if _HOST.fullmatch(host) is None and _NUMBER.fullmatch(port):
        return f"must be tcp://HOST:PORT, got {address!r:.200}"
    if may_be_any_port:
        ports = f"from 0 to {MAX_PORT}, or * for any that is free"
    else:
        ports = f"from 1 to {MAX_PORT}"
    return f"must have a port {ports}, got {address!r:.200}"


def _host_and_port(text: str, *, lowest: int) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    if port == "*" and lowest == 0:
        port = "0"
    if _HOST.fullmatch(host) is None or ":" in host or _NUMBER.fullmatch(port) is None:
        return None
    return (host, int(port)) if lowest <= int(port) <= MAX_PORT else None


def _numbers(host: str, family: socket.AddressFamily) -> list[str]:
    """Return the addresses of a host in numbers; an interface's before a name server is asked."""
    host = _ANY_HOST.get(host, host)
    if host in {name for _, name in socket.if_nameindex()}:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("256s", host.encode())
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
        return [socket.inet_ntoa(answer[20:24])]  # ifr_addr.sin_addr
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _has_host(parts: SplitResult) -> bool:
    """Whether there is a host that can be looked up; else `UnicodeError`, a `ValueError`."""
    return bool(parts.hostname and parts.hostname.encode("idna"))
