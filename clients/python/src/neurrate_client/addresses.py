"""Addresses that libzmq would take for others, or that other machines could reach unasked."""

from __future__ import annotations

import ipaddress
import re

_TCP = re.compile(r"tcp://([^/:;\[\]\s]+):([0-9]{1,5}|\*)")
_LOOPBACK_NAMES = ("localhost", "lo")


def check_connectable(address: str) -> None:
    """Refuse what nobody can listen on: libzmq connects to port 34463 for 99999.

    Raises
    ------
    ValueError
        With the form of an address.
    """
    host_and_port = _TCP.fullmatch(address)
    is_tcp = host_and_port and host_and_port[2] != "*" and 0 < int(host_and_port[2]) <= 65_535
    if not is_tcp and not _is_ipc(address):
        raise ValueError(f"an address is tcp://HOST:PORT or ipc://PATH, got {address!r:.200}.")


def check_bindable(address: str, *, insecure: bool, has_keys: bool = False) -> None:
    """Refuse what other machines could reach, unless that is wanted.

    Raises
    ------
    ValueError
        With what to do.
    """
    if _is_ipc(address):
        return
    host_and_port = _TCP.fullmatch(address)
    if not host_and_port or (host_and_port[2] != "*" and int(host_and_port[2]) > 65_535):
        raise ValueError(f"an address is tcp://HOST:PORT or ipc://PATH, got {address!r:.200}.")
    if not (insecure or has_keys) and not _is_loopback(host_and_port[1]):
        raise ValueError(
            f"{address} can be reached from other machines, and nothing on it is encrypted. Use "
            "127.0.0.1, keys (key=, allowed=), or insecure=True if the network is yours."
        )


def _is_ipc(address: str) -> bool:
    return address.startswith("ipc://") and len(address) > len("ipc://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES
