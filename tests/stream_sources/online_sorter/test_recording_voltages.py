"""A saved recording is played in microvolts, at a pace."""

import numpy as np
import pytest

from contracts.clock import NS_PER_S
from contracts.errors import UserError
from stream_sources.online_sorter.open_voltages import open_voltages
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.rigs.voltages import VoltageChunk
from tests.support.ground_truth import ground_truth, save
from tests.support.manual_clock import ManualClock
from tests.support.pickles import run_on_load


def test_all_samples_come_once_in_microvolts():
    """Chunks join to the recording, offset and gain applied."""
    recording = ground_truth().recording
    source = RecordingVoltages(recording, label="recording:x", speed=None, duration_s=0.5)
    chunks = [chunk for chunk in source.chunks() if isinstance(chunk, VoltageChunk)]
    assert source.n_samples == 15_000
    assert [chunk.first_sample for chunk in chunks] == list(range(0, 15_000, 600))
    np.testing.assert_array_equal(
        np.concatenate([chunk.voltages_uv for chunk in chunks]),
        recording.get_traces(end_frame=15_000, return_in_uV=True),
    )
    assert {chunk.voltages_uv.dtype for chunk in chunks} == {np.dtype(np.float32)}
    assert len({chunk.run for chunk in chunks}) == 1


def test_a_chunk_comes_when_it_is_over():
    """At twice the speed a second takes half a second, and None comes while it waits."""
    clock = ManualClock()
    started_ns = clock.now_ns()
    source = RecordingVoltages(
        ground_truth().recording, label="recording:x", speed=2.0, duration_s=1.0, clock=clock
    )
    times_ns, n_waits = [], 0
    for chunk in source.chunks():
        if chunk is None:
            n_waits += 1
        else:
            times_ns.append(clock.now_ns() - started_ns)
    assert times_ns == [round((n + 1) * 0.01 * NS_PER_S) for n in range(50)]
    assert n_waits >= 50


def test_a_closed_source_ends():
    """Nothing comes after `close`."""
    source = RecordingVoltages(ground_truth().recording, label="recording:x", speed=None)
    chunks = source.chunks()
    next(chunks)
    source.close()
    assert list(chunks) == []


def test_a_saved_recording_is_opened_by_its_folder(tmp_path):
    """Channels, places and rate are those that were saved."""
    recording = ground_truth().recording
    save(recording.frame_slice(0, 90_000), tmp_path / "my rec")
    source = open_voltages(str(tmp_path / "my rec"), speed=None)
    assert source.label == "recording:my_rec"
    assert source.rate_hz == 30_000.0
    assert source.layout.channel_ids == ground_truth().templates.layout.channel_ids
    np.testing.assert_array_equal(
        source.layout.positions_um, ground_truth().templates.layout.positions_um
    )


def test_what_is_no_recording_is_refused(tmp_path):
    """Nothing there, a text, a pickle, a sorting, an unknown rig."""
    with pytest.raises(UserError, match="no such file"):
        open_voltages(str(tmp_path / "nothing"))
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="cannot load it"):
        open_voltages(str(tmp_path / "a.txt"))
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match="a pickle may run any program"):
        open_voltages(str(tmp_path / "a.pkl"))
    save(ground_truth().sorting, tmp_path / "sorting")
    with pytest.raises(UserError, match="a recording is wanted, got a"):
        open_voltages(str(tmp_path / "sorting"))
    with pytest.raises(UserError, match="no source of voltages 'blackrock'"):
        open_voltages("blackrock:probe")


@pytest.mark.parametrize("name", ["cached.pkl", "part/recording.pickle"])
def test_a_folder_with_a_pickle_is_refused_before_it_is_loaded(tmp_path, name):
    """SpikeInterface would run what is in it."""
    file = tmp_path / "r" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(run_on_load(tmp_path / "ran"))
    with pytest.raises(UserError, match=rf"{name}: a pickle may run any program"):
        open_voltages(str(tmp_path / "r"))
    assert not (tmp_path / "ran").exists()


def test_a_zarr_folder_with_a_pickle_is_refused(tmp_path):
    """Its arrays say in which way their objects were written."""
    (tmp_path / "r.zarr" / "recording").mkdir(parents=True)
    (tmp_path / "r.zarr" / "recording" / ".zarray").write_text('{"filters": [{"id": "pickle"}]}')
    with pytest.raises(UserError, match="a pickle may run any program"):
        open_voltages(str(tmp_path / "r.zarr"))


def test_a_recording_after_a_filter_is_refused(tmp_path):
    """It would be filtered once more, and its spikes would be others."""
    recording = ground_truth().recording.frame_slice(0, 3_000)
    recording.annotate(is_filtered=True)
    save(recording, tmp_path / "filtered")
    with pytest.raises(UserError, match="it was saved after a filter"):
        open_voltages(str(tmp_path / "filtered"))


def test_field_potentials_are_refused(tmp_path):
    """A spike is a sample or two there."""
    from spikeinterface.preprocessing import decimate

    slow = decimate(ground_truth().recording.frame_slice(0, 3_000), 12, antialias=False)
    save(slow, tmp_path / "slow")
    with pytest.raises(UserError, match="its sampling rate is 2500 Hz"):
        open_voltages(str(tmp_path / "slow"))
