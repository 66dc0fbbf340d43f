"""The source over real sockets, against the emulated GUI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import zmq

from contracts.errors import DependencyError, UserError
from contracts.spikes import Mark, SpikeBatch
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.sorting import SortingSource
from stream_sources.rigs.open_ephys.emulator import Fault, parse_fault
from stream_sources.rigs.open_ephys.plugin_format import data_message
from stream_sources.rigs.open_ephys.source import OpenEphysSource
from tests.support.emulated_gui import emulated_gui, table, table_of
from tests.support.nwb_files import (
    random_trains,
    write_kilosort,
    write_presentations,
    write_units,
)
from tests.support.wait_until import wait_until

RATE_HZ = 30_000


@pytest.fixture
def sorting(tmp_path: Path) -> SortingSource:
    """Five seconds of ten units, about 200 spikes each."""
    rng = np.random.default_rng(1)
    trains = {
        unit: sorted({*rng.integers(0, 5 * RATE_HZ, 200).tolist(), 5 * RATE_HZ - 1})
        for unit in range(10)
    }
    return SortingSource(write_kilosort(tmp_path / "ks", trains))


def spikes_of(batches: Iterator[SpikeBatch]) -> list[tuple[int, int]]:
    return sorted(
        spike
        for batch in batches
        for spike in zip(batch.spike_time_ns.tolist(), batch.unit_index.tolist(), strict=True)
    )


def test_spikes_are_those_of_a_replay_to_the_nanosecond(sorting: SortingSource):
    """Through the GUI's format and its unit table, a sorting is what `stream sorting` sends."""
    with (
        emulated_gui(sorting) as gui,
        closing(OpenEphysSource(gui.address, table_of(gui), end_silence_s=1)) as source,
    ):
        received = spikes_of(source.batches())
        assert received == spikes_of(sorting.batches())
        counters = source.counters
        assert counters.n_sent == gui.report.n_spikes == sorting.n_spikes
        assert counters.n_messages == gui.report.n_messages
        assert gui.report.n_heartbeats >= 1


@pytest.mark.parametrize("host", ["127.0.0.2", "192.0.2.1"])
def test_another_machine_is_warned_of(
    host: str, sorting: SortingSource, caplog: pytest.LogCaptureFixture
):
    """Once: the plugin has no encryption. Not on loopback."""
    address = f"tcp://{host}:5556"
    units = list(sorting.population.units)
    numbered = [((0, row), unit) for row, unit in enumerate(units)]
    OpenEphysSource(address, table(numbered)).close()
    warned = [one for one in caplog.records if "not encrypted" in one.message]
    assert [one.__dict__["address"] for one in warned] == [address] * (host == "192.0.2.1")


def test_planted_faults_are_counted_to_the_spike(sorting: SortingSource):
    """A gap, a pause and a restart: sent + in gaps + lost by the GUI is everything."""
    faults = [Fault("gap", 1.0, 40), Fault("pause", 2.0, 0.2), Fault("restart", 3.0)]
    with (
        emulated_gui(sorting, faults=faults) as gui,
        closing(OpenEphysSource(gui.address, table_of(gui), end_silence_s=1)) as source,
    ):
        batches = list(source.batches())
        counters = source.counters
        assert counters.n_messages_lost == gui.report.n_messages_lost == 40
        assert (counters.n_gaps, counters.n_runs, counters.n_late) == (1, 2, 0)
        assert counters.n_received == gui.report.n_spikes - gui.report.n_spikes_lost
        assert counters.n_received == counters.n_sent + counters.n_in_gaps
    runs = [list(run) for _, run in groupby(batches, lambda batch: batch.run)]
    assert [run[0].start_ns for run in runs] == [0, 0]
    holes = [b.start_ns - a.stop_ns for a, b in zip(runs[0], runs[0][1:], strict=False)]
    assert [hole for hole in holes if hole] == [round(counters.gap_s * 1e9)]


def test_a_stall_of_a_second_loses_nothing():
    """A second of 384 channels waits in the source: its queue of 1,000 never stays full."""
    microvolts = np.zeros(697, np.float32)
    n_messages, number = 384 * 43, 0

    def is_sent() -> bool:
        nonlocal number
        args = (0, 697 * (number // 384), 30_000.0, microvolts, 0)
        try:
            plugin.send_multipart(data_message(number + 1, "AP", *args), zmq.NOBLOCK)
        except zmq.Again:  # the queue is full: a plugin would drop
            return False
        number += 1
        return True

    with zmq.Context() as context, context.socket(zmq.XPUB) as plugin:
        plugin.set(zmq.XPUB_NODROP, 1)
        plugin.set(zmq.LINGER, 0)
        port = plugin.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        with closing(OpenEphysSource(address, None, end_silence_s=1)) as source:
            plugin.recv()
            while number < n_messages:
                wait_until(is_sent, what=f"room for message {number} while nobody reads")
            assert list(source.batches())
            assert source.counters.n_messages == n_messages
            assert source.counters.n_messages_lost == 0


def test_presentations_come_back_as_marks(tmp_path: Path):
    """The emulator raises TTL line 1 while something is shown; the pulse is a mark."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    shown = {"start_time": np.array([0.5, 1.5]), "stop_time": np.array([0.75, 2.0])}
    write_presentations(path, "movie_presentations", **shown, frame=np.array([0.0, 1.0]))
    with (
        emulated_gui(NwbSource(str(path), start_s=0.0)) as gui,
        closing(OpenEphysSource(gui.address, table_of(gui), end_silence_s=1)) as source,
    ):
        marks = [one for one in source.messages() if isinstance(one, Mark)]
    spans = [(mark.start_ns / 1e9, mark.stop_ns / 1e9) for mark in marks]
    assert spans == [(0.5, 0.75), (1.5, 2.0)]


def test_the_gui_may_be_closed_and_opened(sorting: SortingSource):
    """The same source follows the next acquisition, at the same address, in a new run."""
    with emulated_gui(sorting) as gui:
        source = OpenEphysSource(gui.address, table_of(gui))
        messages, n_sent = source.messages(), 0
        while n_sent < sorting.n_spikes:
            n_sent = source.counters.n_sent
            next(messages)
    port = int(gui.address.rpartition(":")[2])
    with closing(source), emulated_gui(sorting, port=port):
        while source.counters.n_sent < 2 * sorting.n_spikes:
            next(messages)
        assert source.counters.n_runs == 2


def test_nothing_at_the_address_says_what_to_do():
    """Neither data nor an answer to a heartbeat."""
    with (
        closing(OpenEphysSource("tcp://127.0.0.1:9", None, start_timeout_s=0.3)) as source,
        pytest.raises(DependencyError, match=r"No ZMQ Interface answers at tcp://127\.0\.0\.1:9"),
    ):
        list(source.messages())


def test_a_plugin_that_acquires_nothing_is_waited_for(sorting: SortingSource):
    """Answers to heartbeats are enough: the user has not pressed play yet."""
    with (
        emulated_gui(sorting, wait_subscribers=2) as gui,
        closing(OpenEphysSource(gui.address, table_of(gui), start_timeout_s=3)) as source,
    ):
        messages = source.messages()
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert next(messages) is None


def test_the_port_of_another_plugin_is_named(caplog: pytest.LogCaptureFixture):
    """Event Broadcaster sends two frames with no envelope."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        with closing(OpenEphysSource(f"tcp://127.0.0.1:{port}", None)) as source:
            messages = source.messages()
            next(messages)
            other.recv()
            other.send_multipart([b"\x01\x00", b"{}"])
            while not source.counters.n_messages_unread:
                next(messages)
    assert any("Event Broadcaster" in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize(
    ("options", "rename", "advice"),
    [
        ({"gui_stream": "LFP"}, "", "the plugin sends the stream ProbeA-AP, not LFP"),
        ({}, "E9", "none is of a unit of the table; there are electrode/sorted_id Electrode 1/1"),
    ],
)
def test_why_no_spikes_are_sent(
    sorting: SortingSource,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    rename: str,
    advice: str,
):
    """A wrong stream, or a table of other electrodes."""
    monkeypatch.setattr("stream_sources.rigs.open_ephys.source.ADVICE_S", 2.0)
    with emulated_gui(sorting) as gui:
        units = [((rename or key[0], key[1]), unit) for key, unit in gui.units[:4]]
        made = OpenEphysSource(gui.address, table(units), end_silence_s=1, **options)  # type: ignore[arg-type]
        with closing(made) as source:
            assert not spikes_of(source.batches())
    assert any(advice in str(vars(record).get("why")) for record in caplog.records)


@pytest.mark.parametrize("address", ["ipc:///tmp/x", "tcp://127.0.0.1", "tcp://127.0.0.1:65535"])
def test_an_address_that_is_none_is_the_users_error(address: str):
    """The heartbeats need a port after it."""
    with pytest.raises(UserError, match="--connect"):
        OpenEphysSource(address, None)


@pytest.mark.parametrize("text", ["gap", "gap@x", "flood@3", "pause@1:long"])
def test_a_fault_that_is_none_is_the_users_error(text: str):
    """With what there is."""
    with pytest.raises(UserError, match="--fault must be gap@SECOND:MESSAGES"):
        parse_fault(text)
    assert parse_fault("restart@3") == Fault("restart", 3.0)


def test_a_taken_port_is_the_users_error(sorting: SortingSource):
    """Two emulators, or an emulator beside the GUI."""
    with emulated_gui(sorting, wait_subscribers=0) as gui:
        port = int(gui.address.rpartition(":")[2])
        with pytest.raises(UserError, match="Cannot bind"), emulated_gui(sorting, port=port):
            pass
