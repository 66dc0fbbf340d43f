"""The sorter behind acquisition systems, played by their emulators: the spikes of the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from probeinterface import write_probeinterface
from probeinterface.neuropixels_tools import build_neuropixels_probe
from spikeinterface import NumpyRecording
from spikeinterface.extractors import read_spikeglx

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from contracts.spikes import Mark, SpikeBatch
from stream_sources.online_sorter.open_voltages import open_voltages
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.templates import SorterTemplates
from stream_sources.rigs.open_ephys.voltages import OpenEphysVoltages
from stream_sources.rigs.raw_recording import BlocksOfRecording
from stream_sources.rigs.spikeglx.emulator import SpikeGlxWriter, WriterFault, WriterOptions
from stream_sources.rigs.spikeglx.remote_api import SpikeGlxRemote
from stream_sources.rigs.voltages import VoltageSource
from tests.support import fake_sglx
from tests.support.emulated_gui import emulated_gui
from tests.support.ground_truth import N_CHANNELS, ground_truth

N_SAMPLES = 75_000
Spikes = list[tuple[int, int]]


@pytest.fixture(scope="module")
def on_electrodes() -> Any:
    """Return the known recording as if its channels were electrodes of a Neuropixels 1.0."""
    truth = ground_truth().recording.frame_slice(0, N_SAMPLES)
    recording = NumpyRecording([truth.get_traces(return_in_uV=True)], 30_000.0)
    probe = build_neuropixels_probe("NP1010").get_slice(np.arange(N_CHANNELS))
    probe.set_device_channel_indices(np.arange(N_CHANNELS))
    recording.set_probe(probe)
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    return recording


def templates_of(recording: Any) -> SorterTemplates:
    sorting = ground_truth().sorting.frame_slice(0, N_SAMPLES)
    return estimate_templates(recording, sorting, origin="ground truth")


def sorted_spikes(
    voltages: VoltageSource,
    templates: SorterTemplates,
    *,
    on_begin: Callable[[], None] = lambda: None,
) -> list[SpikeBatch | Mark]:
    """Return what is sent; `on_begin` is called once the source waits, or has sent the first."""
    options = SorterOptions(method="nearest")
    with closing(OnlineSorterSource(voltages, templates, options)) as source:
        messages = source.messages()
        first = next(messages)
        on_begin()
        return [message for message in (first, *messages) if message is not None]


def spikes_of(messages: list[SpikeBatch | Mark]) -> Spikes:
    return sorted(
        spike
        for batch in messages
        if isinstance(batch, SpikeBatch)
        for spike in zip(batch.spike_time_ns.tolist(), batch.unit_index.tolist(), strict=True)
    )


def played(recording: Any, templates: SorterTemplates) -> Spikes:
    """Return the spikes of the recording itself."""
    return spikes_of(
        sorted_spikes(RecordingVoltages(recording, label="recording:x", speed=None), templates)
    )


def test_a_file_of_spikeglx_is_sorted_as_the_recording_that_it_becomes(
    on_electrodes: Any, tmp_path: Path
):
    """Spike for spike, though it was sorted while it was written, and its pulses are marks."""
    faults = [WriterFault("pause", 1.0, 0.2)]
    writer = SpikeGlxWriter(
        on_electrodes, tmp_path, WriterOptions(speed=5.0, faults=faults), HostClock()
    )
    writer.begin()
    source = open_voltages(f"spikeglx:{writer.path}", end_silence_s=1.0)
    # Templates need a recording; the same one, by another writer.
    whole = SpikeGlxWriter(
        on_electrodes, tmp_path / "whole", WriterOptions(speed=None), HostClock()
    )
    whole.play()
    recording = read_spikeglx(whole.path.parent, stream_id="imec0.ap")
    templates = templates_of(recording)
    thread = Thread(target=writer.play)
    messages = sorted_spikes(source, templates, on_begin=thread.start)
    thread.join()
    spikes = spikes_of(messages)
    assert spikes == played(recording, templates)
    assert len(spikes) > 100
    marks = [(one.start_ns, one.stop_ns) for one in messages if isinstance(one, Mark)]
    assert marks == [(NS_PER_S, 3 * NS_PER_S // 2)]


def test_blocks_of_open_ephys_are_sorted_as_the_recording(on_electrodes: Any, tmp_path: Path):
    """Spike for spike; the positions come from a probe file."""
    recording = on_electrodes.rename_channels([f"CH{n + 1}" for n in range(N_CHANNELS)])
    templates = templates_of(recording)
    write_probeinterface(tmp_path / "probe.json", recording.get_probe())
    blocks = BlocksOfRecording(recording)
    with emulated_gui(blocks, recording=recording, speed=5.0) as gui:
        text = f"open-ephys:{gui.address},{tmp_path / 'probe.json'}"
        source = open_voltages(text, end_silence_s=1.0)
        spikes = spikes_of(sorted_spikes(source, templates))
    assert spikes == played(recording, templates)
    assert len(spikes) > 100


def test_the_remote_api_is_sorted_with_templates_of_the_files(on_electrodes: Any, tmp_path: Path):
    """Its channels have the names of the files, so that a calibration on these fits."""
    writer = SpikeGlxWriter(on_electrodes, tmp_path / "rig", WriterOptions(speed=None), HostClock())
    writer.play()
    recording = read_spikeglx(writer.path.parent, stream_id="imec0.ap")
    templates = templates_of(recording)
    write_probeinterface(tmp_path / "probe.json", recording.get_probe())
    package = tmp_path / "sglx_pkg"
    package.mkdir()
    text = Path(fake_sglx.__file__).read_text()
    (package / "sglx.py").write_text(f"{text}\nstate.n_channels = ({N_CHANNELS}, 1, 1)\n")
    text = f"spikeglx-remote:{package},{tmp_path / 'probe.json'},localhost:4142/imec0"
    source = open_voltages(text, end_silence_s=1.0)
    assert isinstance(source, SpikeGlxRemote)
    state = source._api.state
    state.samples = np.zeros((N_SAMPLES, N_CHANNELS + 2), np.int16)
    steps_uv = 2.0 * np.arange(1, N_CHANNELS + 1)  # of the stand-in
    state.samples[:, :N_CHANNELS] = np.rint(recording.get_traces(return_in_uV=True) / steps_uv)
    state.n_acquired, state.n_buffered = 1, N_SAMPLES

    def acquire() -> None:
        state.n_acquired = N_SAMPLES

    spikes = spikes_of(sorted_spikes(source, templates, on_begin=acquire))
    assert len(spikes) > 50


def test_the_stream_of_the_gui_can_be_named(on_electrodes: Any, tmp_path: Path):
    """After the probe file; a name may have commas."""
    write_probeinterface(tmp_path / "probe.json", on_electrodes.get_probe())
    text = f"open-ephys:tcp://127.0.0.1:9,{tmp_path / 'probe.json'}"
    for name in ("", "ProbeA-AP", "a,b"):
        with closing(open_voltages(f"{text},{name}" if name else text)) as source:
            assert isinstance(source, OpenEphysVoltages)
            assert source._assembler.gui_stream == name


def bad_rigs(folder: Path) -> Iterator[tuple[str, str]]:
    yield f"spikeglx:{folder / 'x.imec0.ap.bin'}", "there is no such file"
    yield f"spikeglx:{folder / 'x.nidq.bin'}", r"Name its \.ap\.bin file"
    yield "open-ephys:tcp://127.0.0.1:5556", "and a probe file"
    yield f"open-ephys:tcp://127.0.0.1:5556,{folder / 'x.json'}", "there is no such file"
    yield "spikeglx-remote:sglx_pkg,probe.json", "an address and a probe"
    yield "spikeglx-remote:sglx_pkg,probe.json,localhost:4142", "an address and a probe"


def test_a_rig_that_is_not_named_in_full_is_refused(tmp_path: Path):
    """With the form that is needed."""
    for text, wanted in bad_rigs(tmp_path):
        with pytest.raises(UserError, match=wanted):
            open_voltages(text)
    with pytest.raises(UserError, match="--seconds is for recordings"):
        open_voltages("spikeglx:x.imec0.ap.bin", duration_s=3.0)


@pytest.mark.parametrize("speed", [None, 2.0])
def test_a_rig_has_no_speed(speed: float | None, on_electrodes: Any, tmp_path: Path):
    """It waits for nobody: at --speed max the publisher would wait for slow subscribers."""
    writer = SpikeGlxWriter(on_electrodes, tmp_path, WriterOptions(speed=None), HostClock())
    writer.begin()
    write_probeinterface(tmp_path / "probe.json", on_electrodes.get_probe())
    gui = f"open-ephys:tcp://127.0.0.1:5556,{tmp_path / 'probe.json'}"
    for text in (f"spikeglx:{writer.path}", gui):
        with pytest.raises(UserError, match="--speed is for recordings"):
            open_voltages(text, speed=speed)
    writer.play()  # and now it is over
    with closing(open_voltages(f"spikeglx:{writer.path}", speed=speed)) as source:
        assert source.n_samples == N_SAMPLES
