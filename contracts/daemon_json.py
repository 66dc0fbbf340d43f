"""What the daemon publishes of itself once, as UTF-8 JSON: software, bundle, settings.

Who records a session needs it to say what made the narrations. It is sent when the daemon begins to
listen, and again to each new subscriber.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contracts.messages import DaemonMessage, SoftwareMessage
from contracts.narration_wire import dump, read_message
from contracts.software import software

DAEMON_TOPIC = b"daemon"

DAEMON_VERSION: Final = 1
"""Version of the message. Raised when a field changes meaning or goes."""


@dataclass(frozen=True, slots=True)
class DaemonIdentity:
    """Which daemon publishes. Fields as in the message."""

    host_ns: int
    software: dict[str, str]
    bundle: str
    settings: dict[str, Any]


def pack_daemon(*, bundle: str, settings: Mapping[str, Any], host_ns: int) -> list[bytes]:
    """Return ``[topic, JSON]``.

    `bundle` is the sha256 of its manifest, `settings` every effective setting by group, and
    `host_ns` when the daemon started.
    """
    made = software()
    message: DaemonMessage = {
        "version": DAEMON_VERSION,
        "repeat": False,
        "host_ns": host_ns,
        "software": SoftwareMessage(version=made["version"], commit=made["commit"]),
        "bundle": bundle,
        "settings": dict(settings),
    }
    return [DAEMON_TOPIC, dump(message)]


def daemon_of(message: Mapping[str, Any]) -> DaemonIdentity:
    """Read what the daemon is from its JSON object.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    return read_message(
        DaemonIdentity, message, name="message of the daemon", version=DAEMON_VERSION
    )
