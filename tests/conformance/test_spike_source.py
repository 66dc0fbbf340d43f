"""What the daemon and the tests rely on in every SpikeSource."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from contracts.population import Population
from contracts.spikes import MAX_SPAN_NS, MAX_SPIKES, RUN_ID, STREAM_NAME
from simulation.recording import write_recording
from stream_sources.journal import JournalSource
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.sorting import SortingSource
from stream_sources.rigs.open_ephys.source import OpenEphysSource
from stream_sources.source import SpikeSource
from tests.support.emulated_gui import emulated_gui, table_of
from tests.support.ground_truth import ground_truth
from tests.support.journals import sent, write_journal
from tests.support.nwb_files import random_trains, write_kilosort, write_units
from tests.support.range_server import range_server


def nwb_of_the_simulation(folder: Path, stack: ExitStack) -> SpikeSource:
    write_recording(folder / "world.nwb", seconds=4.0, n_units=8)
    return NwbSource(str(folder / "world.nwb"))


def nwb_flat(folder: Path, stack: ExitStack) -> SpikeSource:
    return NwbSource(str(write_units(folder / "flat.nwb", random_trains(start_s=-1.0))))


def nwb_compressed(folder: Path, stack: ExitStack) -> SpikeSource:
    path = write_units(folder / "z.nwb", random_trains(), chunks=(64,), compression="gzip")
    return NwbSource(str(path), batch_ms=25.0)


def nwb_over_http(folder: Path, stack: ExitStack) -> SpikeSource:
    write_units(folder / "remote.nwb", random_trains())
    server = stack.enter_context(range_server(folder))
    return NwbSource(server.url("remote.nwb"), cache_dir=folder / "cache")


def kilosort_folder(folder: Path, stack: ExitStack) -> SpikeSource:
    return SortingSource(write_kilosort(folder / "ks", {3: [5, 90_000], 7: [5, 31_000, 31_001]}))


def sorting_in_memory(folder: Path, stack: ExitStack) -> SpikeSource:
    from spikeinterface import NumpySorting

    sorting = NumpySorting.from_samples_and_labels(
        [np.array([10, 400, 70_000])], [np.array([1, 2, 1])], sampling_frequency=25_000.0
    )
    return SortingSource(sorting)


MAKERS = [
    nwb_of_the_simulation,
    nwb_flat,
    nwb_compressed,
    nwb_over_http,
    kilosort_folder,
    sorting_in_memory,
]
"""Sources that know beforehand what they will send, and can send it again."""


def open_ephys(folder: Path, stack: ExitStack) -> SpikeSource:
    trains = {3: [5, 90_000], 7: [5, 31_000, 31_001]}
    gui = stack.enter_context(emulated_gui(SortingSource(write_kilosort(folder / "ks", trains))))
    return OpenEphysSource(gui.address, table_of(gui), end_silence_s=0.5)


def online_sorter(folder: Path, stack: ExitStack) -> SpikeSource:
    recording, _, templates = ground_truth()
    voltages = RecordingVoltages(recording, label="recording:x", speed=None, duration_s=1.05)
    return OnlineSorterSource(
        voltages, templates, SorterOptions(method="nearest", speed=None, block_ms=50.0)
    )


def journal(folder: Path, stack: ExitStack) -> SpikeSource:
    return JournalSource(write_journal(folder / "journal", list(sent(30))))


LIVE = [open_ephys, online_sorter, journal]
"""Sources that do not know beforehand what they will send."""


@pytest.fixture(params=MAKERS + LIVE, ids=lambda make: make.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpikeSource]:
    yield from made(request, tmp_path)


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpikeSource]:
    yield from made(request, tmp_path)


def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpikeSource]:
    make: Callable[[Path, ExitStack], SpikeSource] = request.param
    with ExitStack() as stack:
        source = make(tmp_path, stack)
        stack.callback(source.close)
        yield source


def test_a_source_says_who_it_is(source: SpikeSource) -> None:
    """Names follow the rules of the wire and the population is there before the first batch."""
    assert STREAM_NAME.fullmatch(source.stream)
    assert RUN_ID.fullmatch(source.run)
    assert re.fullmatch(r"\w+:\S+", source.label)
    assert isinstance(source.population, Population)


def test_seq_and_time_have_no_holes(source: SpikeSource) -> None:
    """Batches are numbered from zero and each starts where the one before stopped."""
    batches = list(source.batches())
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    stops = [batch.stop_ns for batch in batches[:-1]]
    assert stops == [batch.start_ns for batch in batches[1:]]


def test_batches_fill_the_span(recording: SpikeSource) -> None:
    """The first batch starts and the last one stops where the source said."""
    batches = list(recording.batches())
    assert recording.span_ns == (batches[0].start_ns, batches[-1].stop_ns)


def test_every_spike_is_counted_before_it_is_sent(recording: SpikeSource) -> None:
    """The number of spikes is known before streaming and is exact."""
    announced = recording.n_spikes
    assert announced == sum(batch.n_spikes for batch in recording.batches())
    assert announced


def test_batches_are_within_limits(source: SpikeSource) -> None:
    """No batch is too long, too full, or of another stream or run."""
    for batch in source.batches():
        assert batch.stop_ns - batch.start_ns <= MAX_SPAN_NS
        assert batch.n_spikes <= MAX_SPIKES
        assert (batch.stream, batch.run) == (source.stream, source.run)


def test_units_are_rows_of_the_population(source: SpikeSource) -> None:
    """Every unit index is a row."""
    rows = [row for batch in source.batches() for row in batch.unit_index.tolist()]
    assert set(rows) <= set(range(len(source.population)))


def test_spikes_are_in_order_of_time(source: SpikeSource) -> None:
    """A recording is sent sorted, which receivers may not need but people expect."""
    times = np.concatenate([batch.spike_time_ns for batch in source.batches()])
    assert (np.diff(times) >= 0).all()


def test_a_source_can_be_played_twice(recording: SpikeSource) -> None:
    """A second iteration starts again and says the same."""
    first, second = ([batch.n_spikes for batch in recording.batches()] for _ in range(2))
    assert first == second


def test_marks_are_in_order_of_start(source: SpikeSource) -> None:
    """Marks come in order and carry the source's names."""
    marks = list(source.marks())
    starts = [mark.start_ns for mark in marks]
    assert starts == sorted(starts)
    assert all((mark.stream, mark.run) == (source.stream, source.run) for mark in marks)


def test_close_may_be_called_twice(source: SpikeSource) -> None:
    """Closing is safe at any time and more than once."""
    batches = source.batches()
    next(batches)
    source.close()
    source.close()
