"""The messages of the plugin, and what it means when none come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from enum import Enum, auto
from typing import Protocol

import zmq

from contracts.clock import NS_PER_S, Clock
from contracts.errors import DependencyError, UserError, WireError
from stream_sources.rigs.open_ephys.connection import PluginConnection
from stream_sources.rigs.open_ephys.plugin_format import PluginMessage, read_message

logger = logging.getLogger(__name__)

WAIT_MS = 50
"""How long one look for a message takes."""

SILENT_NS = 2 * NS_PER_S
"""Without data for so long, the acquisition counts as stopped."""


class NoMessage(Enum):
    """What stands in the place of a message."""

    NOT_UNDERSTOOD = auto()
    NONE_WAITS = auto()  # none has come for `WAIT_MS`
    STOPPED = auto()  # the same, and the acquisition has just come to count as stopped


class MessageCounters(Protocol):
    """What the reader counts, and what who takes the messages does."""

    n_messages: int
    n_messages_unread: int


class PluginReader:
    """Reads the data port of a plugin, over the starts and stops of the GUI.

    Parameters
    ----------
    start_timeout_s : float
        How long a plugin may take to answer at first.
    end_silence_s : float, optional
        End after so long without data; None: go on until closed.
    place : str
        Where a user names the data port: ``with --connect``.

    Raises
    ------
    UserError
        If the address is not allowed.
    """

    def __init__(
        self,
        address: str,
        clock: Clock,
        counters: MessageCounters,
        *,
        start_timeout_s: float,
        end_silence_s: float | None,
        place: str,
    ) -> None:
        self._clock, self._counters, self._place = clock, counters, place
        self._start_timeout_ns = round(start_timeout_s * NS_PER_S)
        self._end_silence_ns = None if end_silence_s is None else round(end_silence_s * NS_PER_S)
        self._context = zmq.Context()
        try:
            self._connection = PluginConnection(self._context, address, clock)
        except UserError:
            self._context.term()
            raise
        self.address = self._connection.address

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._connection.is_closed

    def messages(self) -> Iterator[PluginMessage | NoMessage]:
        """Yield messages as they come, and what stands in their place at least every 50 ms.

        Raises
        ------
        DependencyError
            If no plugin answers at first.
        """
        began_ns = newest_ns = self._clock.now_ns()
        is_silent = True
        while not self._connection.is_closed:
            parts = self._connection.receive(WAIT_MS)
            now_ns = self._clock.now_ns()
            if parts is not None:
                newest_ns, is_silent = now_ns, False
                yield self._read(parts)
                continue
            self._check_start(now_ns - began_ns)
            silent_ns = now_ns - newest_ns
            if not is_silent and silent_ns >= SILENT_NS:
                is_silent = True
                yield NoMessage.STOPPED
            else:
                yield NoMessage.NONE_WAITS
            if self._end_silence_ns is not None and self._counters.n_messages:
                if silent_ns > self._end_silence_ns:
                    return

    def count_unread(self, error: WireError) -> None:
        """Count a message that did not follow the format, and log it now and then."""
        self._counters.n_messages_unread += 1
        n = self._counters.n_messages_unread
        if n.bit_count() == 1:  # the first, second, fourth, ...
            logger.warning("message not understood", extra={"n": n, "detail": str(error)})

    def close(self) -> None:
        """Close the sockets; `messages` ends."""
        self._connection.close()
        self._context.term()

    def _read(self, parts: list[bytes]) -> PluginMessage | NoMessage:
        try:
            return read_message(parts)
        except WireError as error:
            self.count_unread(error)
            return NoMessage.NOT_UNDERSTOOD

    def _check_start(self, waited_ns: int) -> None:
        """Refuse to wait for ever where there is nothing.

        Raises
        ------
        DependencyError
            If nothing has answered within the time for it.
        """
        if self._counters.n_messages or self._connection.n_replies:
            return
        if waited_ns > self._start_timeout_ns:
            raise DependencyError(
                f"No ZMQ Interface answers at {self.address} (heartbeats to "
                f"{self._connection.heartbeat_address}). Open the GUI with that plugin in the "
                f"signal chain, and give its data port {self._place}; its editor shows the number."
            )
