"""An emulator of the ZMQ Interface plugin: a sorting or a recording, as the GUI would send it.

For rehearsals and tests. Its units are spread over electrodes; the table that belongs to them is
`EmulatedGui.units`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import zmq
from numpy.typing import NDArray

from contracts.address import TcpAddress, check_bindable
from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError
from contracts.population import Unit
from contracts.spikes import SpikeBatch
from stream_sources.player import Pacer
from stream_sources.rigs.open_ephys.plugin_format import (
    HEARTBEAT_REPLY,
    data_message,
    spike_message,
    ttl_message,
)
from stream_sources.rigs.open_ephys.unit_table import SortedUnit
from stream_sources.rigs.raw_recording import microvolts_of
from stream_sources.rigs.unencrypted import warn_if_it_leaves
from stream_sources.source import SpikeSource

if TYPE_CHECKING:
    from spikeinterface import BaseRecording

UNITS_PER_ELECTRODE = 4

DETECTOR_SAMPLES = 32
"""After a peak, until the GUI's detector has the waveform and sends the spike."""

FREE_PORT_TRIES = 20
"""The port after a free one may be taken."""

QUEUE_MESSAGES = 1000
"""libzmq's high-water mark, which the plugin leaves as it is."""


class Fault(NamedTuple):
    """Something that goes wrong at a session second.

    ``gap``: `amount` messages are lost. ``pause``: nothing is sent for `amount` seconds, then all
    that was due. ``restart``: the acquisition begins again, from message 1 and sample 0.
    """

    kind: Literal["gap", "pause", "restart"]
    at_s: float
    amount: float = 1.0


@dataclass(slots=True)
class EmulatorReport:
    """What was sent; `n_spikes_lost` were in messages that a planted gap has taken."""

    n_blocks: int = 0
    n_messages: int = 0
    n_messages_lost: int = 0
    n_spikes: int = 0
    n_spikes_lost: int = 0
    n_heartbeats: int = 0
    max_lateness_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """How to play.

    Attributes
    ----------
    bind : str
        The data port; heartbeats are answered at the port after it.
    n_channels : int
        Channels of continuous data, which are noise of 10 microvolts; each block of each is a
        message.
    wait_subscribers : int
        Begin once so many listen.
    """

    bind: str = "tcp://127.0.0.1:5556"
    gui_stream: str = "ProbeA-AP"
    rate_hz: float = 30_000.0
    speed: float = 1.0
    n_channels: int = 1
    wait_subscribers: int = 1
    is_insecure: bool = False
    faults: Sequence[Fault] = ()


class EmulatedGui:
    """Plays a source, whose batches become the blocks.

    Parameters
    ----------
    recording : BaseRecording, optional
        What the channels carry instead of noise; session time 0 is its first sample.

    Raises
    ------
    UserError
        If the address is taken or not loopback.
    """

    def __init__(
        self,
        source: SpikeSource,
        options: EmulatorOptions,
        clock: Clock,
        recording: BaseRecording | None = None,
    ) -> None:
        self.report = EmulatorReport()
        self._recording = recording
        self.units = spread_units(source.population.units)
        self._source = source
        self._options = options
        self._clock = clock
        self._number = self._n_to_lose = 0
        self._sample_zero = 0
        self._spikes: deque[tuple[int, int]] = deque()  # sample, row; not sent yet
        self._noise = np.random.default_rng(0).normal(0, 10, 1 << 16).astype(np.float32)
        self._context = zmq.Context()
        self._data, self._requests = self._context.socket(zmq.XPUB), self._context.socket(zmq.REP)
        self._data.set(zmq.XPUB_VERBOSER, 1)  # each subscriber is seen, also the second of a topic
        self._data.set(zmq.SNDHWM, QUEUE_MESSAGES if options.speed <= 1 else 0)
        for socket in (self._data, self._requests):
            socket.set(zmq.LINGER, 5000)
        try:
            self.address = self._bind()
        except UserError:
            self._context.destroy(linger=0)
            raise

    def play(self, should_stop: Callable[[], bool] = lambda: False) -> EmulatorReport:
        """Send everything, each block when its last sample is over, and one block more."""
        self._await_subscribers(should_stop)
        pacer = Pacer(self._clock, self._options.speed)
        faults = deque(sorted(self._options.faults, key=lambda fault: fault.at_s))
        edges = self._edges()
        edge = next(edges, None)
        for batch in self._blocks():
            pacer.due_in_ns(batch.start_ns)  # the first call starts the clock
            while (due_ns := pacer.due_in_ns(batch.stop_ns)) and not should_stop():
                self._answer()
                self._clock.sleep_ns(min(due_ns, NS_PER_S // 20))
            if should_stop():
                break
            self._answer()
            while faults and faults[0].at_s * NS_PER_S < batch.stop_ns:
                self._fail(faults.popleft(), batch)
            while edge is not None and edge[0] < batch.stop_ns:
                self._send_edge(*edge)
                edge = next(edges, None)
            self._send_block(batch)
        self.report.max_lateness_s = pacer.max_lateness_ns / NS_PER_S
        return self.report

    def close(self) -> None:
        """Close both sockets; what is queued still leaves."""
        for socket in (self._data, self._requests):
            socket.close()
        self._context.term()

    def _await_subscribers(self, should_stop: Callable[[], bool]) -> None:
        n_subscribers = 0
        while n_subscribers < self._options.wait_subscribers and not should_stop():
            self._answer()
            if self._data.poll(20):
                n_subscribers += 1 if self._data.recv()[:1] == b"\x01" else -1

    def _bind(self) -> str:
        options = self._options
        wanted = check_bindable(options.bind, setting="--bind", is_insecure=options.is_insecure)
        if not isinstance(wanted, TcpAddress):
            raise UserError("--bind must be tcp://127.0.0.1:PORT, the data port.")
        warn_if_it_leaves(wanted)
        n_tries = 1 if wanted.port else FREE_PORT_TRIES
        for n_left in reversed(range(n_tries)):
            address = ""
            try:
                self._data.bind(str(wanted) if wanted.port else f"tcp://{wanted.host}:*")
                address = self._data.get_string(zmq.LAST_ENDPOINT)
                host, _, port = address.rpartition(":")
                self._requests.bind(f"{host}:{int(port) + 1}")
                break
            except zmq.ZMQError as error:
                if not n_left:
                    problem = f"Cannot bind {wanted} and the port after it: {error}."
                    raise UserError(problem) from error
                if address:
                    self._data.unbind(address)
        return address

    def _blocks(self) -> Iterator[SpikeBatch]:
        """Yield the batches, and an empty one, so that the last spikes are over."""
        batch: SpikeBatch | None = None
        for batch in self._source.batches():
            yield batch
        if batch is not None:
            none = np.empty(0, np.int64), np.empty(0, np.uint32)
            length_ns = max(batch.stop_ns - batch.start_ns, NS_PER_S // 50)
            stop_ns = batch.stop_ns + length_ns
            yield SpikeBatch("gui", batch.run, batch.seq + 1, batch.stop_ns, stop_ns, *none)

    def _edges(self) -> Iterator[tuple[int, bool]]:
        """Yield the time and the state of each change of TTL line 1: high while one is shown."""
        for mark in self._source.marks():
            yield mark.start_ns, True
            yield mark.stop_ns, False

    def _fail(self, fault: Fault, batch: SpikeBatch) -> None:
        if fault.kind == "gap":
            self._n_to_lose += round(fault.amount)
        elif fault.kind == "pause":
            self._clock.sleep_ns(round(fault.amount * NS_PER_S))
        else:
            self._send_spikes(1 << 62)
            self._number = 0
            self._sample_zero += self._sample(batch.start_ns)

    def _sample(self, time_ns: int) -> int:
        return round(time_ns * self._options.rate_hz / NS_PER_S) - self._sample_zero

    def _send_edge(self, time_ns: int, is_high: bool) -> None:
        number, sample = self._next_number(), self._sample(time_ns)
        self._send(ttl_message(number, self._options.gui_stream, sample, 0, is_high, _unix_ms()))

    def _send_block(self, batch: SpikeBatch) -> None:
        """Send the spikes that the detector has found, then the data of each channel."""
        options, now_ms = self._options, _unix_ms()
        start, stop = self._sample(batch.start_ns), self._sample(batch.stop_ns)
        order = np.argsort(batch.spike_time_ns, kind="stable")
        times, rows = batch.spike_time_ns[order].tolist(), batch.unit_index[order].tolist()
        self._spikes.extend((self._sample(t), row) for t, row in zip(times, rows, strict=True))
        self._send_spikes(stop - DETECTOR_SAMPLES)
        for channel, microvolts in enumerate(self._microvolts(start, stop)):
            args = (options.gui_stream, channel, start, options.rate_hz, microvolts, now_ms)
            self._send(data_message(self._next_number(), *args))
        self.report.n_blocks += 1

    def _microvolts(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Yield the voltages of each channel; none once the recording is over."""
        if self._recording is not None:
            start, stop = start + self._sample_zero, stop + self._sample_zero
            stop = min(stop, self._recording.get_num_samples())
            if start < stop:
                yield from microvolts_of(self._recording, start, stop).T
            return
        for channel in range(self._options.n_channels):
            begin = (start + 997 * channel) % (len(self._noise) // 2)
            yield np.resize(self._noise[begin : begin + stop - start], stop - start)

    def _send_spikes(self, stop: int) -> None:
        """Send the spikes before a sample."""
        stream, now_ms = self._options.gui_stream, _unix_ms()
        while self._spikes and self._spikes[0][0] < stop:
            sample, row = self._spikes.popleft()
            (electrode, sorted_id), _ = self.units[row]
            number = self._next_number()
            message = spike_message(number, stream, electrode, sample, sorted_id, now_ms)
            self.report.n_spikes += 1
            self.report.n_spikes_lost += not self._send(message)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _send(self, parts: list[bytes]) -> bool:
        """Send a message, unless it is one that a planted gap takes."""
        if self._n_to_lose:
            self._n_to_lose -= 1
            self.report.n_messages_lost += 1
            return False
        self._data.send_multipart(parts)
        self.report.n_messages += 1
        return True

    def _answer(self) -> None:
        """Answer heartbeats, as the plugin does."""
        while self._requests.poll(0):
            self._requests.recv()
            self._requests.send(HEARTBEAT_REPLY)
            self.report.n_heartbeats += 1


def spread_units(units: Sequence[Unit]) -> list[tuple[SortedUnit, Unit]]:
    """Put units on electrodes, four on each, by row: names as the GUI gives them."""
    places = (divmod(row, UNITS_PER_ELECTRODE) for row in range(len(units)))
    keys = [(f"Electrode {electrode + 1}", unit + 1) for electrode, unit in places]
    return list(zip(keys, units, strict=True))


def parse_fault(text: str) -> Fault:
    """Read ``gap@12:40``, ``pause@5:1`` or ``restart@20``.

    Raises
    ------
    UserError
        If it is neither.
    """
    kind, _, rest = text.partition("@")
    at_s, _, amount = rest.partition(":")
    try:
        if kind in {"gap", "pause", "restart"}:
            return Fault(kind, float(at_s), float(amount or 1))  # type: ignore[arg-type]
    except ValueError:
        pass
    raise UserError(
        "--fault must be gap@SECOND:MESSAGES, pause@SECOND:SECONDS or restart@SECOND, "
        f"got {text!r}."
    )


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
