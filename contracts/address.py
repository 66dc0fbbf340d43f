"""Which addresses may be bound, and what to say when one cannot. No socket here."""

from __future__ import annotations

import errno
import os

from contracts.errors import UserError

LOOPBACK_PREFIXES = ("tcp://127.", "tcp://localhost:", "ipc://", "inproc://")
"""Addresses that other machines cannot reach. Sockets here speak IPv4 alone."""

MAX_REQUEST_BYTES = 1024
"""Largest message that a subscriber may send to a publisher: a topic to subscribe to."""


def check_bindable(address: str, *, setting: str, is_insecure: bool) -> None:
    """Refuse an address that other machines can reach, unless the user says so.

    Raises
    ------
    UserError
        With what to do.
    """
    if "://" not in address:
        raise UserError(
            f"{setting} {address!r} needs tcp:// in front, as in tcp://127.0.0.1:5570 "
            "(or ipc:// and a path)."
        )
    if address.startswith("tcp://["):
        raise UserError(f"{setting} {address} must be an IPv4 address, as tcp://127.0.0.1:5570 is.")
    if not address.startswith(LOOPBACK_PREFIXES) and not is_insecure:
        raise UserError(
            f"{setting} {address} can be reached from other machines, and nothing on it is "
            "encrypted. Bind to tcp://127.0.0.1:PORT, or add --insecure if the network is yours."
        )


def cannot_bind(address: str, error_number: int, *, setting: str) -> UserError:
    """Return the error for a failed bind.

    Parameters
    ----------
    address : str
    error_number : int
        As the operating system gave it.
    setting : str
        What the user would change.
    """
    remedy = (
        f"Set {setting} to another port or stop the other process."
        if error_number == errno.EADDRINUSE
        else f"{setting} must be an address such as tcp://127.0.0.1:5570."
    )
    return UserError(f"Cannot bind {address}: {os.strerror(error_number).lower()}. {remedy}")
