"""The adapter over SpikeGLX's SDK, against a package with the same functions. Not SpikeGLX."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeinterface import generate_linear_probe, write_probeinterface

from contracts.clock import NS_PER_S
from contracts.errors import DependencyError, UserError
from contracts.spikes import Mark
from stream_sources.rigs.spikeglx.remote_api import SpikeGlxRemote
from stream_sources.rigs.voltages import VoltageChunk, VoltageSource
from tests.support import fake_sglx
from tests.support.manual_clock import ManualClock

Log = pytest.LogCaptureFixture
Item = VoltageChunk | Mark | None
N_SYNC = 8  # the word comes after four AP and four LF


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "sglx_pkg"
    folder.mkdir()
    shutil.copy(fake_sglx.__file__, folder / "sglx.py")
    return folder


@pytest.fixture
def probe_file(tmp_path: Path) -> Path:
    probe = generate_linear_probe(3, ypitch=20.0)
    probe.set_device_channel_indices([0, 1, 3])
    write_probeinterface(tmp_path / "probe.json", probe)
    return tmp_path / "probe.json"


@pytest.fixture
def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    samples = rng.integers(-500, 500, (60_000, 9)).astype(np.int16)
    samples[:, N_SYNC] = 0
    samples[20_000:21_000, N_SYNC] = 64
    return samples


@pytest.fixture
def source(package: Path, probe_file: Path, samples: np.ndarray) -> Iterator[SpikeGlxRemote]:
    clock = ManualClock()
    with closing(SpikeGlxRemote(package, probe_file, end_silence_s=5, clock=clock)) as source:
        state_of(source).samples = samples
        yield source


def state_of(source: SpikeGlxRemote) -> Any:
    return source._api.state


def until_nothing(chunks: Iterator[Item]) -> list[Item]:
    return list(iter(lambda: next(chunks), None))


def chunks_of(items: list[Item]) -> list[VoltageChunk]:
    return [one for one in items if isinstance(one, VoltageChunk)]


@pytest.mark.parametrize("host", ["localhost", "10.0.0.5"])
def test_another_machine_is_warned_of(host: str, package: Path, probe_file: Path, caplog: Log):
    """Once: SpikeGLX's protocol has no encryption. Not on loopback."""
    SpikeGlxRemote(package, probe_file, host=host, clock=ManualClock()).close()
    warned = [one for one in caplog.records if "not encrypted" in one.message]
    assert [one.__dict__["address"] for one in warned] == [f"tcp://{host}:4142"] * (
        host != "localhost"
    )


def test_samples_are_fetched_from_now_on(source: SpikeGlxRemote, samples: np.ndarray):
    """In microvolts of each channel, with the sync pulses, until nothing more comes."""
    protocol: VoltageSource = source
    state = state_of(source)
    chunks = protocol.chunks()
    state.n_acquired = 10_000
    items = until_nothing(chunks)
    assert items == []
    for n_acquired in (10_001, 19_000, 27_500):
        state.n_acquired = n_acquired
        items += until_nothing(chunks)
    assert list(chunks).count(None) > 10  # silence for 5 s
    received = chunks_of(items)
    assert received[0].first_sample == 10_000
    voltages_uv = np.concatenate([chunk.voltages_uv for chunk in received])
    wanted = samples[10_000:27_500, [0, 1, 3]] * np.array([2, 4, 8], np.float32)
    np.testing.assert_allclose(voltages_uv, wanted, rtol=1e-6)
    assert voltages_uv.dtype == np.float32
    (mark,) = [one for one in items if isinstance(one, Mark)]
    assert mark.start_ns == round(20_000 * NS_PER_S / 30_000)


def test_samples_that_are_gone_are_a_gap(source: SpikeGlxRemote):
    """The number of the next chunk tells it."""
    state, chunks = state_of(source), source.chunks()
    state.n_acquired = 1000
    until_nothing(chunks)
    state.n_acquired = 50_000
    items = until_nothing(chunks)
    (chunk,) = chunks_of(items)
    assert (chunk.first_sample, source.n_gaps) == (49_999, 1)


@pytest.mark.parametrize("stall_s", [0, 3])
def test_another_run_is_told_by_its_count(source: SpikeGlxRemote, stall_s: int):
    """Lower than before, or lower than the time that has passed would make it."""
    state, chunks = state_of(source), source.chunks()
    state.n_acquired = 5000
    until_nothing(chunks)
    state.n_acquired = 40_000
    state.n_buffered = 60_000
    first = chunks_of(until_nothing(chunks))
    source._clock.sleep_ns(stall_s * NS_PER_S)
    state.n_acquired = 45_000 if stall_s else 20_000
    until_nothing(chunks)
    state.n_acquired += 100
    second = chunks_of(until_nothing(chunks))
    assert len({chunk.run for chunk in first}) == 1
    assert second[-1].run != first[0].run


def test_a_failed_count_is_no_new_run(source: SpikeGlxRemote, caplog: pytest.LogCaptureFixture):
    """The connection is opened again, and the run goes on with the number of its sample."""
    state, chunks = state_of(source), source.chunks()
    state.n_acquired = 10_000
    until_nothing(chunks)
    state.n_acquired = 11_000
    items = until_nothing(chunks)
    with caplog.at_level(logging.WARNING):
        state.is_connected = False
        for _ in range(10):
            assert next(chunks) is None
        # What it acquired meanwhile it still holds.
        state.is_connected, state.n_acquired, state.n_buffered = True, 50_000, 60_000
        while not isinstance(item := next(chunks), VoltageChunk):
            assert item is None
        items += [item, *until_nothing(chunks)]
    received = chunks_of(items)
    assert len({chunk.run for chunk in received}) == 1
    assert [chunk.first_sample for chunk in received] == [10_000, *range(11_000, 50_000, 3_000)]
    assert state.n_connected == 2
    notices = [message for message in caplog.messages if "connection" in message]
    assert notices == [
        "the connection to SpikeGLX is lost",
        "the connection to SpikeGLX is open again",
    ]


def test_a_connection_that_stays_lost_ends_the_source(
    package: Path, probe_file: Path, samples: np.ndarray
):
    """After half a minute, with the library's reason."""
    with closing(SpikeGlxRemote(package, probe_file, clock=ManualClock())) as source:
        state = state_of(source)
        state.samples, state.n_acquired = samples, 1000
        chunks = source.chunks()
        until_nothing(chunks)
        state.is_connected = False
        with pytest.raises(DependencyError, match="does not answer at localhost:4142"):
            list(chunks)


def test_a_stop_of_the_acquisition_is_silence_until_the_next_run(source: SpikeGlxRemote):
    """A count of 0 that is no error opens no connection."""
    state, chunks = state_of(source), source.chunks()
    state.n_acquired = 10_000
    until_nothing(chunks)
    state.n_acquired = 11_000
    first = chunks_of(until_nothing(chunks))
    state.n_acquired = 0
    for _ in range(50):
        assert next(chunks) is None
    state.n_acquired = 500
    until_nothing(chunks)
    state.n_acquired = 900
    second = chunks_of(until_nothing(chunks))
    assert second[0].first_sample == 500
    assert second[0].run != first[0].run
    assert state.n_connected == 1


def test_channels_have_the_names_of_the_files(package: Path, probe_file: Path):
    """Those of which templates are made, by the number of the probe and of the channel."""
    with closing(SpikeGlxRemote(package, probe_file)) as source:
        names = source.layout.channel_ids
    assert names == ("imec0.ap#AP0", "imec0.ap#AP1", "imec0.ap#AP3")


def test_the_handle_is_given_back(source: SpikeGlxRemote):
    """Once, and the chunks end."""
    chunks = source.chunks()
    next(chunks)
    source.close()
    source.close()
    assert list(chunks) == []
    assert state_of(source).n_destroyed == 1


def test_a_missing_package_is_said(tmp_path: Path, probe_file: Path):
    """With where it comes from."""
    with pytest.raises(DependencyError, match=r"sglx\.py: there is no such file\. It is part of"):
        SpikeGlxRemote(tmp_path, probe_file)


@pytest.mark.parametrize("text", ["import ctypes\nctypes.CDLL('libSglxApi.so')", "import nothere"])
def test_a_package_without_its_library_is_said(package: Path, probe_file: Path, text: str):
    """It loads libSglxApi.so when it is imported."""
    (package / "sglx.py").write_text(text)
    with pytest.raises(DependencyError, match=r"cannot be loaded: .*LD_LIBRARY_PATH"):
        SpikeGlxRemote(package, probe_file)


def test_no_answer_is_a_missing_program(package: Path, probe_file: Path):
    """With the library's reason."""
    with pytest.raises(DependencyError, match="does not answer at localhost:9: connection refused"):
        SpikeGlxRemote(package, probe_file, port=9)


def test_a_probe_that_is_not_there_is_refused(package: Path, probe_file: Path):
    """By its number."""
    with pytest.raises(UserError, match="no probe imec3"):
        SpikeGlxRemote(package, probe_file, probe=3)


def test_a_probe_file_of_another_probe_is_refused(package: Path, tmp_path: Path):
    """It has channels that the probe has not."""
    probe = generate_linear_probe(3, ypitch=20.0)
    probe.set_device_channel_indices([0, 1, 4])
    write_probeinterface(tmp_path / "other.json", probe)
    with pytest.raises(UserError, match="no channel 4 of imec0"):
        SpikeGlxRemote(package, tmp_path / "other.json")
