"""The Open Ephys GUI as a source: its own sorter's spikes, while it acquires."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import zmq

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import DependencyError, UserError, WireError, listed, shown
from contracts.population import Population
from contracts.spikes import STREAM_NAME, Mark, SpikeBatch
from stream_sources.rigs.open_ephys.acquisition import Acquisition
from stream_sources.rigs.open_ephys.connection import PluginConnection
from stream_sources.rigs.open_ephys.plugin_format import read_message
from stream_sources.rigs.open_ephys.unit_table import RigUnitTable, SortedUnit

logger = logging.getLogger(__name__)

WAIT_MS = 50
"""How long one look for a message takes."""

NS_PER_MS = 1_000_000

SILENT_NS = 2 * NS_PER_S
"""Without data for so long, the acquisition counts as stopped."""

ADVICE_S = 10.0
"""Of data, after which it is said why no spikes are sent."""


FOREIGN_MESSAGES = 1000
"""So many messages of other streams and no other tell a wrong name of the stream."""


class OpenEphysSource:
    """Follows the GUI over its starts and stops; a `stream_sources.live.LiveSource`.

    Parameters
    ----------
    address : str
        The data port of the plugin.
    start_timeout_s : float
        How long a plugin may take to answer at first.
    end_silence_s : float, optional
        End after so long without data; None: go on until closed.
    gui_stream, rate_hz, settle_ms
        As in `Acquisition`.

    Raises
    ------
    UserError
        If the address or the name of the stream is not allowed.
    """

    def __init__(
        self,
        address: str,
        table: RigUnitTable | None,
        *,
        stream: str = "open-ephys",
        gui_stream: str = "",
        rate_hz: float | None = None,
        settle_ms: float = 5.0,
        start_timeout_s: float = 30.0,
        end_silence_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not STREAM_NAME.fullmatch(stream):
            raise UserError(f"--stream must be 1 to 64 of A-Z a-z 0-9 _ -, got {shown(stream)!r}.")
        self.stream = stream
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = None
        self.table = table.origin if table else ""
        self._table = table
        self._clock = clock or HostClock()
        self._start_timeout_ns = round(start_timeout_s * NS_PER_S)
        self._end_silence_ns = None if end_silence_s is None else round(end_silence_s * NS_PER_S)
        self._acquisition = Acquisition(
            table.row_of if table else {},
            stream=stream,
            gui_stream=gui_stream,
            rate_hz=rate_hz,
            settle_ms=settle_ms,
        )
        self.counters = self._acquisition.counters
        self._context = zmq.Context()
        try:
            self._connection = PluginConnection(self._context, address, self._clock)
        except UserError:
            self._context.term()
            raise
        self.label = f"open_ephys:{self._connection.address}"
        self._advised_run = ""
        self._is_silent = True

    @property
    def run(self) -> str:
        """Name of the run, new with each start of the acquisition."""
        return self._acquisition.run

    @property
    def population(self) -> Population:
        """The units of the table.

        Raises
        ------
        UserError
            If there is none: the source only learns.
        """
        if self._table is None:
            raise UserError("A source without a unit table has no units.")
        return self._table.population

    @property
    def learned(self) -> Counter[SortedUnit]:
        """Spikes of each sorted unit that the table does not have."""
        return self._acquisition.unknown_units

    @property
    def gui_stream(self) -> str:
        """Name of the GUI's stream; empty until it is known."""
        return self._acquisition.gui_stream

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield batches and marks as they come, and None whenever nothing has come for 50 ms.

        Raises
        ------
        DependencyError
            If no plugin answers at first.
        UserError
            If the sampling rate is not the one that was asked for.
        """
        began_ns = newest_ns = yielded_ns = self._clock.now_ns()
        while not self._connection.is_closed:
            parts = self._connection.receive(WAIT_MS)
            now_ns = self._clock.now_ns()
            if parts is not None:
                newest_ns, self._is_silent = now_ns, False
                yield from (taken := self._take(parts))
                if not taken and now_ns - yielded_ns < WAIT_MS * NS_PER_MS:
                    continue
            else:
                self._check_start(now_ns - began_ns)
                yield from self._notice_silence(now_ns - newest_ns)
                if self._end_silence_ns is not None and self.counters.n_messages:
                    if now_ns - newest_ns > self._end_silence_ns:
                        yield from self._acquisition.flush()
                        return
            yielded_ns = now_ns
            yield None

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (one for one in self.messages() if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield nothing: a mark comes among `messages` once its TTL pulse is over."""
        return iter(())

    def close(self) -> None:
        """Close the sockets; `messages` ends."""
        self._connection.close()
        self._context.term()

    def _take(self, parts: list[bytes]) -> list[SpikeBatch | Mark]:
        counters = self.counters
        try:
            message = read_message(parts)
        except WireError as error:
            counters.n_messages_unread += 1
            if counters.n_messages_unread.bit_count() == 1:  # the first, second, fourth, ...
                fields = {"n": counters.n_messages_unread, "detail": str(error)}
                logger.warning("message not understood", extra=fields)
            return []
        taken = self._acquisition.add(message)
        is_foreign = counters.n_messages_other_stream == counters.n_messages == FOREIGN_MESSAGES
        if is_foreign or (
            self._advised_run != self.run and self._acquisition.followed_s > ADVICE_S
        ):
            self._advised_run = self.run
            if advice := self._advice():
                logger.warning("no spikes", extra={"why": advice})
        return taken

    def _notice_silence(self, silent_ns: int) -> list[SpikeBatch | Mark]:
        """Return the end of the newest block once the acquisition counts as stopped."""
        if self._is_silent or silent_ns < SILENT_NS:
            return []
        self._is_silent = True
        fields = {"source": self.label, "run": self.run}
        logger.warning("no data: the acquisition has stopped", extra=fields)
        return self._acquisition.flush()

    def _check_start(self, waited_ns: int) -> None:
        """Refuse to wait for ever where there is nothing.

        Raises
        ------
        DependencyError
            If nothing has answered within the time for it.
        """
        if self.counters.n_messages or self._connection.n_replies:
            return
        if waited_ns > self._start_timeout_ns:
            connection = self._connection
            raise DependencyError(
                f"No ZMQ Interface answers at {connection.address} (heartbeats to "
                f"{connection.heartbeat_address}). Open the GUI with that plugin in the signal "
                "chain, and give its data port with --connect; its editor shows the number."
            )

    def _advice(self) -> str:
        """Say why no spikes are sent; empty if some are, or if it only learns."""
        counters = self.counters
        if counters.n_sent or (self.learned and self._table is None):
            return ""
        if self._acquisition.other_streams and not counters.n_received:
            names = listed([shown(name) for name in sorted(self._acquisition.other_streams)])
            return f"the plugin sends the stream {names}, not {shown(self.gui_stream)}"
        if not counters.n_received:
            return "the GUI sends none: put Spike Detector and Spike Sorter before ZMQ Interface"
        if counters.n_unsorted == counters.n_received:
            return "none is sorted (sorted_id 0): define units in Spike Sorter"
        names = listed([shown(f"{name}/{number}") for name, number in sorted(self.learned)])
        return f"none is of a unit of the table; there are electrode/sorted_id {names}"
