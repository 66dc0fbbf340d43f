"""Continuous data of the GUI as voltages: whole blocks, gaps, restarts, pulses, bad input."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from probeinterface import generate_linear_probe, write_probeinterface
from spikeinterface import BaseRecording, NumpyRecording

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import DependencyError, UserError, WireError
from contracts.spikes import Mark
from stream_sources.rigs.open_ephys.block_assembler import N_INCOMPLETE, BlockAssembler
from stream_sources.rigs.open_ephys.emulator import Fault
from stream_sources.rigs.open_ephys.plugin_format import (
    DataBlock,
    PluginMessage,
    data_message,
    read_message,
    ttl_message,
)
from stream_sources.rigs.open_ephys.voltages import OpenEphysVoltages
from stream_sources.rigs.probe_file import read_probe_file
from stream_sources.rigs.raw_recording import BlocksOfRecording
from stream_sources.rigs.voltages import VoltageChunk, VoltageSource
from tests.support.emulated_gui import emulated_gui
from tests.support.manual_clock import ManualClock

RATE_HZ = 30_000.0
N_CHANNELS = 4
BLOCK = 100

Item = VoltageChunk | Mark | None


@pytest.fixture
def recording() -> BaseRecording:
    """Three seconds in which each sample and channel has a value of its own."""
    n_samples = 3 * round(RATE_HZ)
    values = np.arange(n_samples, dtype=np.float32)[:, None] + np.arange(4, dtype=np.float32) / 4
    return in_microvolts(values)


def in_microvolts(values: np.ndarray) -> BaseRecording:
    recording = NumpyRecording([values], RATE_HZ)
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    return recording


def write_probe(path: Path, channels: list[int] | None = None) -> Path:
    """Write a probe of four channels; `channels` are those of its contacts."""
    probe = generate_linear_probe(N_CHANNELS, ypitch=20.0)
    if channels != []:
        probe.set_device_channel_indices(channels or range(N_CHANNELS))
    write_probeinterface(path, probe)
    return path


@pytest.fixture
def probe_file(tmp_path: Path) -> Path:
    return write_probe(tmp_path / "probe.json")


def followed(recording: BaseRecording, probe_file: Path, **gui: Any) -> tuple[list[Item], Any]:
    """Play a recording, and return all that its source gives and what the GUI sent."""
    blocks = BlocksOfRecording(recording)
    with (
        emulated_gui(blocks, recording=recording, rate_hz=RATE_HZ, **gui) as emulator,
        closing(OpenEphysVoltages(emulator.address, probe_file, end_silence_s=1.0)) as source,
    ):
        protocol: VoltageSource = source
        items = list(protocol.chunks())
        return items, (emulator.report, source.counters)


def test_voltages_are_those_of_the_recording(recording: BaseRecording, probe_file: Path):
    """Every sample of every channel, and the pulses of TTL line 1 as marks."""
    items, (_, counters) = followed(recording, probe_file)
    chunks = [one for one in items if isinstance(one, VoltageChunk)]
    first = 0
    for chunk in chunks:
        assert chunk.first_sample == first
        first += len(chunk.voltages_uv)
    received = np.concatenate([chunk.voltages_uv for chunk in chunks])
    np.testing.assert_array_equal(received, recording.get_traces())
    assert received.dtype == np.float32
    assert counters.n_samples == len(received)
    marks = [one for one in items if isinstance(one, Mark)]
    wanted = [mark.start_ns for mark in BlocksOfRecording(recording).marks()]
    assert [round(mark.start_ns / 1e6) for mark in marks] == [round(at / 1e6) for at in wanted]
    assert {mark.stimulus for mark in marks} == {"TTL line 1"}


def test_lost_messages_are_a_gap_and_a_restart_is_a_run(recording: BaseRecording, probe_file: Path):
    """What comes is right, and the numbers of the samples tell what does not."""
    faults = [Fault("gap", 1.0, 6), Fault("restart", 2.0)]
    items, (report, counters) = followed(recording, probe_file, faults=faults)
    chunks = [one for one in items if isinstance(one, VoltageChunk)]
    assert (counters.n_messages_lost, report.n_messages_lost, counters.n_runs) == (6, 6, 2)
    truth = recording.get_traces()
    zeros = set()
    for chunk in chunks:
        begin = int(chunk.voltages_uv[0, 0])  # the value is the number of the sample
        wanted = truth[begin : begin + len(chunk.voltages_uv)]
        np.testing.assert_array_equal(chunk.voltages_uv, wanted)
        zeros.add((chunk.run, begin - chunk.first_sample))
    assert len(zeros) == 2  # each run counts from one sample
    assert len(truth) - counters.n_samples in {600, 1200}  # one or two blocks lack messages


def publish(source: OpenEphysVoltages, socket: Any, messages: list[list[bytes]]) -> None:
    """Send messages that wait in the source's queue before it reads."""
    socket.recv()  # it has subscribed
    for message in messages:
        socket.send_multipart(message)
    # Nothing tells how many have arrived; the first read waits for the first one.
    assert source._reader._connection._data.poll(10_000)
    time.sleep(0.2)


@pytest.fixture
def gui_socket() -> Iterator[tuple[Any, str]]:
    """Return a socket that sends what a test has, and its address."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1", min_port=20_000, max_port=60_000)
        yield socket, f"tcp://127.0.0.1:{port}"


def test_none_is_not_yielded_while_blocks_wait(gui_socket: tuple[Any, str], probe_file: Path):
    """However long whoever reads takes for each: None tells that it has caught up."""
    socket, address = gui_socket
    n_blocks, clock, numbers = 20, ManualClock(), count(1)
    voltages = np.zeros(BLOCK, np.float32)
    messages = [
        data_message(next(numbers), "AP", channel, block * BLOCK, RATE_HZ, voltages, 0)
        for block in range(n_blocks)
        for channel in range(N_CHANNELS)
    ]
    with closing(OpenEphysVoltages(address, probe_file, clock=clock)) as source:
        publish(source, socket, messages)
        items = []
        for item in source.chunks():
            clock.sleep_ns(NS_PER_S // 5)  # twenty times a block's duration and more
            items.append(item)
            if sum(one is not None for one in items) == n_blocks:
                break
    assert all(isinstance(one, VoltageChunk) for one in items)


def test_nothing_is_lost_at_384_channels_while_the_source_stands_still(
    gui_socket: tuple[Any, str], tmp_path: Path
):
    """Of a second of messages, which wait: the queue of libzmq itself would hold 60 ms."""
    socket, address = gui_socket
    n_channels, n_blocks, numbers = 384, 43, count(1)
    probe = generate_linear_probe(n_channels, ypitch=20.0)
    probe.set_device_channel_indices(range(n_channels))
    write_probeinterface(tmp_path / "probe.json", probe)
    messages = [
        data_message(
            next(numbers), "AP", channel, 2 * block, RATE_HZ, np.full(2, block * 384 + channel), 0
        )
        for block in range(n_blocks)
        for channel in range(n_channels)
    ]
    with closing(OpenEphysVoltages(address, tmp_path / "probe.json", end_silence_s=0.5)) as source:
        publish(source, socket, messages)
        chunks = [one for one in source.chunks() if isinstance(one, VoltageChunk)]
    assert source.counters.n_messages_lost == 0
    received = np.concatenate([chunk.voltages_uv for chunk in chunks])
    np.testing.assert_array_equal(received[::2].ravel(), np.arange(n_blocks * n_channels))


def test_none_comes_among_the_messages_of_another_stream(
    gui_socket: tuple[Any, str], probe_file: Path
):
    """Or a source without data of its own could be neither stopped nor subscribed to."""
    socket, address = gui_socket
    clock = HostClock()
    voltages = np.zeros(BLOCK, np.float32)
    with closing(OpenEphysVoltages(address, probe_file, gui_stream="AP", clock=clock)) as source:
        args = ("LFP", 0, 0, RATE_HZ, voltages, 0)
        publish(source, socket, [data_message(n, *args) for n in range(1, 30_001)])
        assert next(source.chunks()) is None
        assert source.counters.n_messages_other_stream < 30_000


class Plugin:
    """Numbers messages as the plugin does, and gives them to an assembler."""

    def __init__(self, channels: list[int] | None = None) -> None:
        self.number = 0
        self.assembler = BlockAssembler(channels or list(range(N_CHANNELS)), rate_hz=RATE_HZ)
        self.items: list[Item] = []

    def send(self, message: PluginMessage, *, is_lost: bool = False) -> None:
        self.number += 1
        if not is_lost:
            self.items += self.assembler.add(message._replace(number=self.number))

    def block(self, index: int, *, lost: int | None = None, n_channels: int = N_CHANNELS) -> None:
        for channel in range(n_channels):
            microvolts = np.full(BLOCK, index * 10 + channel, np.float32)
            args = ("AP", channel, index * BLOCK, RATE_HZ, microvolts, 0)
            message = read_message(data_message(1, *args))
            self.send(message, is_lost=channel == lost)

    def edge(self, sample: int, is_high: bool) -> None:
        self.send(read_message(ttl_message(1, "AP", sample, 2, is_high, 0)))

    @property
    def firsts(self) -> list[int]:
        return [one.first_sample for one in self.items if isinstance(one, VoltageChunk)]


@pytest.mark.parametrize("lost", range(N_CHANNELS))
def test_a_block_that_lacks_a_channel_is_never_given(lost: int):
    """Whichever it is; the next one is."""
    plugin = Plugin()
    plugin.block(0)
    plugin.block(1, lost=lost)
    plugin.block(2)
    assert plugin.firsts == [0, 2 * BLOCK]
    assert plugin.assembler.counters.n_blocks_incomplete == 1
    assert plugin.assembler.counters.n_messages_lost == 1


def test_a_source_that_joins_within_a_block_begins_with_the_next():
    """Its first channels were not received."""
    plugin = Plugin()
    plugin.number = 1234
    for channel in (2, 3):
        message = data_message(1, "AP", channel, 0, RATE_HZ, np.zeros(BLOCK, np.float32), 0)
        plugin.send(read_message(message))
    plugin.block(1)
    assert plugin.firsts == [BLOCK]


def test_channels_that_the_probe_file_lacks_are_passed_over():
    """The columns are those of the file, in its order of channels."""
    plugin = Plugin([1, 3])
    plugin.block(5)
    (chunk,) = plugin.items
    assert isinstance(chunk, VoltageChunk)
    np.testing.assert_array_equal(chunk.voltages_uv[0], [51, 53])


def test_a_channel_that_never_comes_is_named():
    """After some blocks without loss."""
    plugin = Plugin([0, 1, 9])
    for index in range(N_INCOMPLETE):
        plugin.block(index)
    with pytest.raises(UserError, match=r"does not send channel_num 9 .*Select all channels"):
        plugin.block(N_INCOMPLETE)


def test_samples_that_go_back_begin_a_run():
    """The clock is another one."""
    plugin = Plugin()
    plugin.block(7)
    plugin.block(3)
    runs = [one.run for one in plugin.items if isinstance(one, VoltageChunk)]
    assert len(set(runs)) == 2


def test_a_ttl_edge_before_all_data_does_not_choose_the_stream(caplog: pytest.LogCaptureFixture):
    """It may be that of a NI-DAQ; what is passed over is said."""
    plugin = Plugin()
    with caplog.at_level(logging.WARNING):
        plugin.send(read_message(ttl_message(1, "NI-DAQ", 5, 0, True, 0)))
        plugin.block(0)
    assert plugin.firsts == [0]
    assert plugin.assembler.gui_stream == "AP"
    assert caplog.messages == ["messages of another stream are passed over"]


def test_a_pulse_with_a_lost_message_is_none():
    """Its end may be another pulse's."""
    plugin = Plugin()
    plugin.block(0)
    plugin.edge(10, is_high=True)
    plugin.edge(20, is_high=False)
    plugin.edge(30, is_high=True)
    plugin.block(1, lost=0)
    plugin.edge(130, is_high=False)
    marks = [one for one in plugin.items if isinstance(one, Mark)]
    assert [(mark.start_ns, mark.stop_ns) for mark in marks] == [(333_333, 666_667)]


def test_a_block_of_another_length_is_refused():
    """Neither fewer bytes than the header says, nor more than a second."""
    plugin = Plugin()
    with pytest.raises(WireError, match="needs 400 bytes, got 8"):
        plugin.send(DataBlock(1, "AP", 0, BLOCK, RATE_HZ, 0, bytes(8)))
    with pytest.raises(WireError, match="longer than 1 s"):
        plugin.send(DataBlock(1, "AP", 0, 1 << 30, RATE_HZ, 0, bytes(8)))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (DataBlock(1, "AP", 0, BLOCK, 2500.0, 0, bytes(400)), "the GUI says 2500"),
        (DataBlock(1, "AP", 0, BLOCK, RATE_HZ, None, bytes(1600)), "0.2 or older"),
    ],
)
def test_a_stream_that_cannot_be_read_is_refused(message: DataBlock, text: str):
    """The field potentials, or an old plugin."""
    with pytest.raises(UserError, match=text):
        Plugin().send(message)


def test_a_probe_file_gives_channels_in_their_order(tmp_path: Path):
    """Contacts may be listed in any other."""
    layout, channels = read_probe_file(
        write_probe(tmp_path / "p.json", [3, 1, 0, 7]), "CH{}".format
    )
    assert channels == [0, 1, 3, 7]
    assert layout.channel_ids == ("CH0", "CH1", "CH3", "CH7")
    assert layout.positions_um[:, 1].tolist() == [40.0, 20.0, 0.0, 60.0]


def test_a_probe_file_may_have_the_names_of_the_channels(tmp_path: Path):
    """Or channel n is CH n+1, as the GUI names it in its files."""
    probe = generate_linear_probe(N_CHANNELS, ypitch=20.0)
    probe.set_device_channel_indices([2, 0, 1, 3])
    write_probeinterface(tmp_path / "without.json", probe)
    probe.annotate_contacts(channel_name=["AP3", "AP1", "AP2", "AP4"])
    write_probeinterface(tmp_path / "with.json", probe)
    names = []
    for name in ("without.json", "with.json"):
        with closing(OpenEphysVoltages("tcp://127.0.0.1:9", tmp_path / name)) as source:
            names.append(source.layout.channel_ids)
    assert names == [("CH1", "CH2", "CH3", "CH4"), ("AP1", "AP2", "AP3", "AP4")]


def bad_probe_files(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "none.json", "there is no such file"
    yield write_probe(folder / "unwired.json", []), "device_channel_indices must give"
    yield write_probe(folder / "twice.json", [0, 1, 1, 2]), "device_channel_indices"
    probe = generate_linear_probe(N_CHANNELS, ypitch=20.0)
    probe.set_device_channel_indices(range(N_CHANNELS))
    probe.annotate_contacts(channel_name=["a", "b", "b", "c"])
    write_probeinterface(folder / "names.json", probe)
    yield folder / "names.json", "two contacts have the same channel_name"
    (folder / "text.json").write_text("no probe")
    yield folder / "text.json", "it is no probe file"
    (folder / "other.json").write_text('{"probes": 3}')
    yield folder / "other.json", "it is no probe file"


def test_a_probe_file_that_is_none_is_refused(tmp_path: Path):
    """Each with what it lacks."""
    for path, text in bad_probe_files(tmp_path):
        with pytest.raises(UserError, match=text):
            read_probe_file(path, str)


def test_no_plugin_is_a_missing_program(probe_file: Path):
    """As for the spikes of the GUI."""
    source = OpenEphysVoltages("tcp://127.0.0.1:9", probe_file, start_timeout_s=0.2)
    with closing(source), pytest.raises(DependencyError, match="No ZMQ Interface answers"):
        list(source.chunks())
