"""What the daemon publishes of itself once, as UTF-8 JSON: software, bundle, settings.

Who records a session needs it to say what made the narrations. It is sent when the daemon begins to
listen, and again to each new subscriber.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts.messages import DaemonMessage, SoftwareMessage
from contracts.narration_wire import dump
from contracts.software import software

DAEMON_TOPIC = b"daemon"

DAEMON_VERSION: Final = 1
"""Version of the message. Raised when a field changes meaning or goes."""


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
