"""Which addresses may be bound or connected to, and what to say otherwise. No socket here."""

from __future__ import annotations

import errno
import os
import re
from urllib.parse import SplitResult, urlsplit

from contracts.errors import UserError

LOOPBACK_PREFIXES = ("tcp://127.", "tcp://localhost:", "ipc://")
"""Addresses that other machines cannot reach. Sockets here speak IPv4 alone."""

MAX_REQUEST_BYTES = 1024
"""Largest message that a subscriber may send to a publisher: a topic to subscribe to."""

MAX_PORT = 65_535
"""Ports are 16 bits wide (RFC 9293)."""

_AUTHORITY = re.compile(r"(?:[^/?#]*//)?([^/?#]*).*", re.DOTALL)
"""Where a name and a password would stand, also where the rest is no URL (RFC 3986)."""

_BLANK = re.compile(r"[\x00-\x20\x7f]")
"""Spaces and control characters, which no URL has (RFC 3986)."""

_NUMBER = re.compile(r"[0-9]{1,5}")


def check_bindable(address: str, *, setting: str, is_insecure: bool) -> None:
    """Refuse an address with no such port, or one that other machines can reach unasked.

    Raises
    ------
    UserError
        With what to do.
    """
    _check_scheme(address, setting)
    if address.startswith("tcp://["):
        raise UserError(f"{setting} {address} must be an IPv4 address, as tcp://127.0.0.1:5570 is.")
    if problem := bind_problem(address):
        raise UserError(f"{setting} {problem}.")
    if not address.startswith(LOOPBACK_PREFIXES) and not is_insecure:
        raise UserError(
            f"{setting} {address} can be reached from other machines, and nothing on it is "
            "encrypted. Bind to tcp://127.0.0.1:PORT, or add --insecure if the network is yours."
        )


def check_connectable(address: str, *, setting: str) -> None:
    """Refuse an address that nobody can listen on.

    Raises
    ------
    UserError
        With what to do.
    """
    _check_scheme(address, setting)
    if problem := connect_problem(address):
        raise UserError(f"{setting} {problem}.")


def bind_problem(address: str) -> str:
    """Return what is wrong with the port of an address to bind; empty if nothing is.

    ZeroMQ itself reads 99999 as 34463 and 80x as 80.

    >>> bind_problem("tcp://127.0.0.1:99999")
    "must have a port from 0 to 65535, or * for any that is free, got 'tcp://127.0.0.1:99999'"
    """
    if _port(address) == "*" or _has_port_from(0, address):
        return ""
    return f"must have a port from 0 to {MAX_PORT}, or * for any that is free, got {address!r}"


def connect_problem(address: str) -> str:
    """Return what is wrong with the port of an address to connect to; empty if nothing is.

    >>> connect_problem("tcp://127.0.0.1:0")
    "must have a port from 1 to 65535, got 'tcp://127.0.0.1:0'"
    """
    if _has_port_from(1, address):
        return ""
    return f"must have a port from 1 to {MAX_PORT}, got {address!r}"


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


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _has_port_from(lowest: int, address: str) -> bool:
    """Whether a tcp address has a port that exists; other addresses have none to be wrong."""
    port = _port(address)
    return not address.startswith("tcp://") or (
        _NUMBER.fullmatch(port) is not None and lowest <= int(port) <= MAX_PORT
    )


def _has_host(parts: SplitResult) -> bool:
    """Whether there is a host that can be looked up; else `UnicodeError`, a `ValueError`."""
    return bool(parts.hostname and parts.hostname.encode("idna"))
