"""What the emulator writes is a recording that SpikeInterface reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probeinterface import generate_linear_probe
from spikeinterface.extractors import read_spikeglx

from contracts.errors import UserError
from stream_sources.rigs.raw_recording import irregular_pulses
from stream_sources.rigs.spikeglx.emulator import WriterFault, parse_writer_fault
from tests.support.spikeglx_files import make_recording, write_spikeglx


@pytest.mark.parametrize("part_number", ["NP1010", "NP2000", "NP2013"])
def test_spikeinterface_reads_the_voltages_back(tmp_path: Path, part_number: str):
    """To half a step of the converter, at the positions of the electrodes."""
    recording = make_recording(part_number=part_number, seconds=0.2, first=100)
    path, report = write_spikeglx(tmp_path, recording, part_number=part_number)
    read = read_spikeglx(path.parent, stream_id="imec0.ap")
    step_uv = read.get_channel_gains()[0]
    difference = read.get_traces(return_in_uV=True) - recording.get_traces()
    assert np.abs(difference).max() <= step_uv / 2 * 1.001
    np.testing.assert_array_equal(read.get_channel_locations(), recording.get_channel_locations())
    assert (report.n_clipped, report.n_files) == (0, 1)


def test_channels_in_another_order_are_saved_in_that_of_the_probe(tmp_path: Path):
    """Each voltage stays with its position."""
    recording = make_recording(seconds=0.05)
    turned = recording.select_channels(recording.channel_ids[::-1])
    path, _ = write_spikeglx(tmp_path, turned)
    read = read_spikeglx(path.parent, stream_id="imec0.ap")
    np.testing.assert_array_equal(read.get_channel_locations(), recording.get_channel_locations())
    np.testing.assert_allclose(read.get_traces(return_in_uV=True), recording.get_traces(), atol=1.2)


def test_voltages_beyond_the_converter_are_clipped_and_counted(tmp_path: Path):
    """A Neuropixels 1.0 at gain 500 has 1.2 mV on each side."""
    recording = make_recording(seconds=0.01, noise_uv=1000.0)
    path, report = write_spikeglx(tmp_path, recording)
    read_uv = read_spikeglx(path.parent, stream_id="imec0.ap").get_traces(return_in_uV=True)
    step_uv = 0.6 / 512 / 500 * 1e6
    wanted = np.rint(recording.get_traces() / step_uv)
    assert report.n_clipped == ((wanted > 511) | (wanted < -512)).sum() > 0
    assert (read_uv.min(), read_uv.max()) == pytest.approx((-512 * step_uv, 511 * step_uv))


def test_the_next_file_says_how_far_it_is_from_the_first(tmp_path: Path):
    """firstSample is the number since the acquisition began."""
    path, report = write_spikeglx(tmp_path, faults=[WriterFault("jump", 1.0, 0.25)])
    assert (report.n_files, report.n_samples_skipped) == (2, 7500)
    first = [
        (path.with_name(path.name.replace("_t0.", f"_t{t}.")).with_suffix(".meta")).read_text()
        for t in (0, 1)
    ]
    assert "firstSample=0\n" in first[0]
    n_before = path.stat().st_size // 18
    assert f"firstSample={n_before + 7500}\n" in first[1]


def test_channels_that_are_no_electrodes_are_refused(tmp_path: Path):
    """Their positions would be wrong in the file."""
    recording = make_recording(n_channels=4, seconds=0.01)
    probe = generate_linear_probe(4, ypitch=17.0)
    probe.set_device_channel_indices(np.arange(4))
    recording.set_probe(probe)
    with pytest.raises(UserError, match="do not lie at electrodes of NP1010"):
        write_spikeglx(tmp_path, recording)


def test_electrodes_that_share_a_channel_are_refused(tmp_path: Path):
    """A Neuropixels 1.0 records one electrode of each channel."""
    recording = make_recording(n_channels=8, seconds=0.01)
    both = make_recording(n_channels=386, seconds=0.01).select_channels([0, 1, 384, 385])
    assert recording.get_num_channels() == 8
    with pytest.raises(UserError, match="that share a channel"):
        write_spikeglx(tmp_path, both)


def test_a_recording_is_not_overwritten(tmp_path: Path):
    """The folder has one already."""
    write_spikeglx(tmp_path, make_recording(seconds=0.01))
    with pytest.raises(UserError, match="has a recording"):
        write_spikeglx(tmp_path, make_recording(seconds=0.01))


def test_irregular_pulses_are_the_same_for_the_same_seed():
    """Two probes of one rehearsal share them; no two intervals are alike."""
    pulses_s = irregular_pulses(30.0, seed=3)
    np.testing.assert_array_equal(pulses_s, irregular_pulses(30.0, seed=3))
    intervals_s = np.diff(pulses_s[:, 0])
    assert len(np.unique(intervals_s)) == len(intervals_s)
    assert (pulses_s[1:, 0] > pulses_s[:-1, 1]).all()


@pytest.mark.parametrize("text", ["pause", "gap@3", "jump@x", ""])
def test_a_fault_that_is_none_is_refused(text: str):
    """With the three that there are."""
    with pytest.raises(UserError, match="pause@SECOND:SECONDS"):
        parse_writer_fault(text)


def test_a_fault_is_read():
    """Kind, second, amount."""
    assert parse_writer_fault("pause@2.5:3") == WriterFault("pause", 2.5, 3.0)
    assert parse_writer_fault("truncate@1") == WriterFault("truncate", 1.0)
