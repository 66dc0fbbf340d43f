"""A watcher that is given messages without a socket."""

from collections.abc import Sequence

from contracts.wire_header import Part
from subscribers.listener import MessageReader
from subscribers.watch.state import ReceivedNarration, WatchState
from subscribers.watch.triggers import ReceivedTriggers


def take(
    state: WatchState,
    parts: Sequence[Part],
    *,
    host_ns: int = 1,
    reader: MessageReader | None = None,
) -> ReceivedNarration | ReceivedTriggers | None:
    """Read one message as the loop does, and hand it to the state."""
    reader = reader or MessageReader()
    received = reader.read(parts, host_ns=host_ns)
    state.n_unreadable += reader.n_unreadable
    return state.take(received) if received else None
