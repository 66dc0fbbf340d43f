"""Continuous data of the Open Ephys GUI as a source of voltages, through its ZMQ Interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import zmq

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import DependencyError, UserError, WireError
from contracts.spikes import Mark
from stream_sources.rigs.open_ephys.block_assembler import BlockAssembler
from stream_sources.rigs.open_ephys.connection import PluginConnection
from stream_sources.rigs.open_ephys.plugin_format import read_message
from stream_sources.rigs.probe_file import read_probe_file
from stream_sources.rigs.voltages import VoltageChunk

logger = logging.getLogger(__name__)

WAIT_MS = 50
SILENT_NS = 2 * NS_PER_S
FOREIGN_NS = WAIT_MS * 1_000_000
"""So long with messages of other streams alone tells that nothing of the probe waits."""


class OpenEphysVoltages:
    """Follows the GUI; a `stream_sources.rigs.voltages.VoltageSource`.

    Parameters
    ----------
    address : str
        The data port of the plugin.
    probe_file : Path
        Positions of the channels, in the JSON format of probeinterface: the plugin sends none.
        Channels are called CH1, CH2, ..., unless the file has their names.
    rate_hz : float
        Samples per second that the stream must have.
    start_timeout_s : float
        How long a plugin may take to answer at first.
    end_silence_s : float, optional
        End after so long without data; None: go on until closed.
    gui_stream
        As in `BlockAssembler`.

    Raises
    ------
    UserError
        If the address or the probe file is none.
    """

    def __init__(
        self,
        address: str,
        probe_file: Path,
        *,
        rate_hz: float = 30_000.0,
        gui_stream: str = "",
        start_timeout_s: float = 30.0,
        end_silence_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self.layout, channels = read_probe_file(probe_file, lambda channel: f"CH{channel + 1}")
        self.n_samples: int | None = None
        self.session_start_utc = ""
        self._clock = clock or HostClock()
        self._start_timeout_ns = round(start_timeout_s * NS_PER_S)
        self._end_silence_ns = None if end_silence_s is None else round(end_silence_s * NS_PER_S)
        self._assembler = BlockAssembler(channels, rate_hz=rate_hz, gui_stream=gui_stream)
        self.counters = self._assembler.counters
        self._context = zmq.Context()
        try:
            self._connection = PluginConnection(self._context, address, self._clock)
        except UserError:
            self._context.term()
            raise
        self.label = f"open-ephys:{self._connection.address}"

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield blocks of all channels, marks among them, and None while there is nothing.

        Raises
        ------
        DependencyError
            If no plugin answers at first.
        UserError
            If the plugin sends another sampling rate, or not all channels of the probe file.
        """
        began_ns = newest_ns = self._clock.now_ns()
        is_silent = True
        foreign_ns: int | None = None  # since when nothing but others' messages comes
        while not self._connection.is_closed:
            parts = self._connection.receive(WAIT_MS)
            now_ns = self._clock.now_ns()
            if parts is not None:
                newest_ns, is_silent = now_ns, False
                n_before = self.counters.n_messages_of_stream
                yield from self._read(parts)
                if self.counters.n_messages_of_stream > n_before:
                    foreign_ns = None
                    continue
                # None tells that nothing waits to be sorted, so that a block in part is none. But
                # where others' messages come without an end, somebody has to get to serve and stop.
                foreign_ns = now_ns if foreign_ns is None else foreign_ns
                if now_ns - foreign_ns < FOREIGN_NS:
                    continue
                foreign_ns = now_ns
            else:
                foreign_ns = None
                self._check_start(now_ns - began_ns)
                if not is_silent and now_ns - newest_ns > SILENT_NS:
                    is_silent = True
                    fields = {"source": self.label, "run": self._assembler.run}
                    logger.warning("no data: the acquisition has stopped", extra=fields)
                if self._end_silence_ns is not None and self.counters.n_messages:
                    if now_ns - newest_ns > self._end_silence_ns:
                        return
            yield None

    def close(self) -> None:
        """Close the sockets; `chunks` ends."""
        self._connection.close()
        self._context.term()

    def _read(self, parts: list[bytes]) -> Iterator[VoltageChunk | Mark]:
        counters = self.counters
        try:
            yield from self._assembler.add(read_message(parts))
        except WireError as error:
            counters.n_messages_unread += 1
            if counters.n_messages_unread.bit_count() == 1:  # the first, second, fourth, ...
                fields = {"n": counters.n_messages_unread, "detail": str(error)}
                logger.warning("message not understood", extra=fields)

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
                "chain, and give its data port; its editor shows the number."
            )
