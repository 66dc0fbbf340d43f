"""Messages of the plugin become blocks of all channels, and pulses. No socket and no clock here.

The plugin sends a message for each channel of each block, the channels of one block after each
other. A block is complete once every channel of the layout has come. One of which a message was
lost is never given: its samples are a gap, as are those of blocks that did not come at all.

A ``message_num`` that does not grow is a new start of the acquisition, and sample numbers that go
back are a new clock: either begins a new run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, WireError, listed, shown
from contracts.spikes import Mark
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.open_ephys.plugin_format import DataBlock, PluginMessage, TtlEdge
from stream_sources.rigs.voltages import VoltageChunk
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

N_INCOMPLETE = 20
"""Blocks one after the other that lack a channel although no message was lost."""


@dataclass(slots=True)
class BlockCounters:
    """What was received, over all runs."""

    n_messages: int = 0
    n_messages_lost: int = 0
    n_messages_unread: int = 0  # they did not follow the format
    n_messages_of_stream: int = 0  # data of the stream that is followed
    n_messages_other_stream: int = 0
    n_blocks: int = 0
    n_blocks_incomplete: int = 0
    n_samples: int = 0
    n_runs: int = 1
    n_pulses: int = 0


@dataclass(slots=True)
class _OpenBlock:
    """A block of which channels are missing yet."""

    first_sample: int
    voltages_uv: NDArray[np.float32]  # (n_samples, n_channels)
    missing: set[int]


class BlockAssembler:
    """Follows one stream of the GUI over all its starts and stops.

    Parameters
    ----------
    channels : sequence of int
        ``channel_num`` of each column.
    gui_stream : str
        The stream of the GUI; empty for the first that sends data.
    """

    def __init__(self, channels: Sequence[int], *, rate_hz: float, gui_stream: str = "") -> None:
        self.counters = BlockCounters()
        self.gui_stream = gui_stream
        self.run = new_run()
        self._column_of = {channel: column for column, channel in enumerate(channels)}
        self._rate_hz = rate_hz
        self._number = 0  # of the newest message
        self._stop = 0  # first sample after the newest block
        self._block: _OpenBlock | None = None
        self._n_incomplete = 0
        self._high_since: dict[int, int] = {}

    def add(self, message: PluginMessage) -> Iterator[VoltageChunk | Mark]:
        """Take a message; yield what is now complete.

        Raises
        ------
        UserError
            If the plugin sends another sampling rate, or not all channels of the layout.
        WireError
            If a block has not as many samples as it says.
        """
        self.counters.n_messages += 1
        self._follow_number(message.number)
        if not isinstance(message, DataBlock | TtlEdge):
            return
        if isinstance(message, DataBlock):  # a TTL edge may be that of another device
            self.gui_stream = self.gui_stream or message.stream
        if message.stream != self.gui_stream:
            self._count_foreign(message.stream)
        elif isinstance(message, TtlEdge):
            yield from self._take_edge(message)
        else:
            self.counters.n_messages_of_stream += 1
            yield from self._take_channel(message)

    def _count_foreign(self, stream: str) -> None:
        self.counters.n_messages_other_stream += 1
        n = self.counters.n_messages_other_stream
        if n.bit_count() == 1:  # the first, second, fourth, ...
            fields = {"n": n, "stream": shown(stream), "followed": shown(self.gui_stream)}
            logger.warning("messages of another stream are passed over", extra=fields)

    def _follow_number(self, number: int) -> None:
        n_missing = number - self._number - 1
        if self._number and number <= self._number:
            self._begin_run("the acquisition began again")
        elif self._number and n_missing:
            self.counters.n_messages_lost += n_missing
            self._n_incomplete = 0
            self._high_since.clear()
            logger.warning("messages lost", extra={"n": n_missing, "message_num": number})
        self._number = number

    def _take_channel(self, message: DataBlock) -> Iterator[VoltageChunk]:
        self._check(message)
        column = self._column_of.get(message.channel if message.channel is not None else -1)
        if column is None:
            return
        block = self._block
        if block is None or block.first_sample != message.first_sample:
            self._drop_block()
            if message.first_sample < self._stop:
                self._begin_run("sample numbers went back")
            shape = (message.n_samples, len(self._column_of))
            block = _OpenBlock(
                message.first_sample, np.empty(shape, np.float32), set(range(shape[1]))
            )
            self._block = block
            self._stop = message.first_sample + message.n_samples
        microvolts = message.microvolts()
        if len(microvolts) != len(block.voltages_uv):
            return  # no block of the plugin has channels of two lengths: it stays incomplete
        block.voltages_uv[:, column] = microvolts
        block.missing.discard(column)
        if not block.missing:
            self._block, self._n_incomplete = None, 0
            self.counters.n_blocks += 1
            self.counters.n_samples += len(block.voltages_uv)
            yield VoltageChunk(self.run, block.first_sample, block.voltages_uv)

    def _drop_block(self) -> None:
        """Give up the block that is open.

        Raises
        ------
        UserError
            If a channel never comes.
        """
        if self._block is None:
            return
        missing = [n for n, column in self._column_of.items() if column in self._block.missing]
        self._block = None
        self.counters.n_blocks_incomplete += 1
        self._n_incomplete += 1
        if self._n_incomplete >= N_INCOMPLETE:
            raise UserError(
                f"the plugin does not send channel_num {listed(missing)} of the stream "
                f"{shown(self.gui_stream)!r}, which the probe file has. Select all channels of the "
                "probe in ZMQ Interface, or give a probe file of those that are sent."
            )

    def _check(self, message: DataBlock) -> None:
        if message.channel is None:
            raise UserError(
                "this version of the ZMQ Interface (0.2 or older) sends all channels in one "
                "message, which is not read. Update the plugin in the GUI's plugin installer."
            )
        if message.rate_hz is not None and message.rate_hz != self._rate_hz:
            raise UserError(
                f"the stream {shown(message.stream)!r} must have {self._rate_hz:g} samples per "
                f"second, and the GUI says {message.rate_hz:g}. Choose the stream of action "
                "potentials in the plugin, or give its rate."
            )
        if message.n_samples > self._rate_hz:  # space for all channels is taken at once
            raise WireError("field", f"a block of {message.n_samples} samples is longer than 1 s")

    def _take_edge(self, edge: TtlEdge) -> Iterator[Mark]:
        """Give a pulse once it is over; one whose beginning is unknown is none."""
        if edge.is_high:
            self._high_since.setdefault(edge.line, edge.sample)
            return
        since = self._high_since.pop(edge.line, None)
        if since is not None and since < edge.sample:
            start, stop = samples_to_ns(np.array([since, edge.sample]), self._rate_hz).tolist()
            stimulus, number = f"TTL line {edge.line + 1}", self.counters.n_pulses
            self.counters.n_pulses += 1
            yield Mark("", self.run, start, stop, stimulus, number)

    def _begin_run(self, reason: str) -> None:
        self._block, self._stop = None, 0
        self._high_since.clear()
        self.run = new_run()
        self.counters.n_runs += 1
        logger.warning("new run", extra={"reason": reason, "run": self.run})
