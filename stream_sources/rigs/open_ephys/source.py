"""The Open Ephys GUI as a source: its own sorter's spikes, while it acquires."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

from contracts.clock import Clock, HostClock
from contracts.errors import UserError, listed, shown
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch
from stream_sources.rigs.open_ephys.acquisition import Acquisition
from stream_sources.rigs.open_ephys.plugin_format import PluginMessage
from stream_sources.rigs.open_ephys.plugin_reader import WAIT_MS, NoMessage, PluginReader
from stream_sources.rigs.open_ephys.unit_table import RigUnitTable, SortedUnit
from stream_sources.source import check_stream_name

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000

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
    start_timeout_s, end_silence_s
        As in `PluginReader`.
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
        check_stream_name(stream)
        self.stream = stream
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = None
        self.table = table.origin if table else ""
        self._table = table
        self._clock = clock or HostClock()
        self._acquisition = Acquisition(
            table.row_of if table else {},
            stream=stream,
            gui_stream=gui_stream,
            rate_hz=rate_hz,
            settle_ms=settle_ms,
        )
        self.counters = self._acquisition.counters
        self._reader = PluginReader(
            address,
            self._clock,
            self.counters,
            start_timeout_s=start_timeout_s,
            end_silence_s=end_silence_s,
            place="with --connect",
        )
        self.label = f"open_ephys:{self._reader.address}"
        self._advised_run = ""

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
        yielded_ns = self._clock.now_ns()
        for message in self._reader.messages():
            now_ns = self._clock.now_ns()
            if message is NoMessage.STOPPED:
                fields = {"source": self.label, "run": self.run}
                logger.warning("no data: the acquisition has stopped", extra=fields)
                yield from self._acquisition.flush()
            elif message is not NoMessage.NONE_WAITS:
                taken = [] if message is NoMessage.NOT_UNDERSTOOD else self._take(message)
                yield from taken
                if not taken and now_ns - yielded_ns < WAIT_MS * NS_PER_MS:
                    continue
            yielded_ns = now_ns
            yield None
        if not self._reader.is_closed:
            yield from self._acquisition.flush()

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (one for one in self.messages() if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield nothing: a mark comes among `messages` once its TTL pulse is over."""
        return iter(())

    def close(self) -> None:
        """Close the sockets; `messages` ends."""
        self._reader.close()

    def _take(self, message: PluginMessage) -> list[SpikeBatch | Mark]:
        counters = self.counters
        taken = self._acquisition.add(message)
        is_foreign = counters.n_messages_other_stream == counters.n_messages == FOREIGN_MESSAGES
        if is_foreign or (
            self._advised_run != self.run and self._acquisition.followed_s > ADVICE_S
        ):
            self._advised_run = self.run
            if advice := self._advice():
                logger.warning("no spikes", extra={"why": advice})
        return taken

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
