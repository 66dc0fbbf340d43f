"""Continuous data of the Open Ephys GUI as a source of voltages, through its ZMQ Interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from contracts.clock import Clock, HostClock
from contracts.errors import WireError
from contracts.spikes import Mark
from stream_sources.rigs.open_ephys.block_assembler import BlockAssembler
from stream_sources.rigs.open_ephys.plugin_format import PluginMessage
from stream_sources.rigs.open_ephys.plugin_reader import WAIT_MS, NoMessage, PluginReader
from stream_sources.rigs.probe_file import read_probe_file
from stream_sources.rigs.voltages import VoltageChunk

logger = logging.getLogger(__name__)

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
    start_timeout_s, end_silence_s
        As in `PluginReader`.
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
        self._assembler = BlockAssembler(channels, rate_hz=rate_hz, gui_stream=gui_stream)
        self.counters = self._assembler.counters
        self._reader = PluginReader(
            address,
            self._clock,
            self.counters,
            start_timeout_s=start_timeout_s,
            end_silence_s=end_silence_s,
            place="in open-ephys:ADDRESS,PROBE.json",
        )
        self.label = f"open-ephys:{self._reader.address}"

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield blocks of all channels, marks among them, and None while there is nothing.

        Raises
        ------
        DependencyError
            If no plugin answers at first.
        UserError
            If the plugin sends another sampling rate, or not all channels of the probe file.
        """
        foreign_ns: int | None = None  # since when nothing but others' messages comes
        for message in self._reader.messages():
            now_ns = self._clock.now_ns()
            if message is NoMessage.NONE_WAITS or message is NoMessage.STOPPED:
                foreign_ns = None
                if message is NoMessage.STOPPED:
                    fields = {"source": self.label, "run": self._assembler.run}
                    logger.warning("no data: the acquisition has stopped", extra=fields)
            else:
                n_before = self.counters.n_messages_of_stream
                if not isinstance(message, NoMessage):
                    yield from self._take(message)
                if self.counters.n_messages_of_stream > n_before:
                    foreign_ns = None
                    continue
                # None tells that nothing waits to be sorted, so that a block in part is none. But
                # where others' messages come without an end, somebody has to get to serve and stop.
                foreign_ns = now_ns if foreign_ns is None else foreign_ns
                if now_ns - foreign_ns < FOREIGN_NS:
                    continue
                foreign_ns = now_ns
            yield None

    def close(self) -> None:
        """Close the sockets; `chunks` ends."""
        self._reader.close()

    def _take(self, message: PluginMessage) -> Iterator[VoltageChunk | Mark]:
        try:
            yield from self._assembler.add(message)
        except WireError as error:
            self._reader.count_unread(error)
