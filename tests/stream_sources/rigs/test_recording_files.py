"""Recordings of voltages that can be opened, and those that lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeinterface import Probe, ProbeGroup, write_probeinterface

from contracts.errors import RecordingError, UserError
from stream_sources.rigs.recording_files import first_minutes, open_recording

pytestmark = pytest.mark.filterwarnings(
    # SpikeInterface leaves the files of its recordings to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)

N_CHANNELS = 4


def probe(n_contacts: int = N_CHANNELS) -> Probe:
    """Return a line of contacts."""
    line = Probe(ndim=2, si_units="um")
    line.set_contacts(np.stack([np.zeros(n_contacts), 20.0 * np.arange(n_contacts)], axis=1))
    line.set_device_channel_indices(np.arange(n_contacts))
    return line


def geometry(path: Path, *probes: Probe) -> Path:
    """Write a file of probeinterface."""
    group = ProbeGroup()
    for one in probes:
        group.add_probe(one)
    write_probeinterface(path, group)
    return path


def saved(folder: Path, *, n_segments: int = 1, gains: bool = True, is_placed: bool = True) -> str:
    """Save two seconds of silence."""
    from spikeinterface.core import NumpyRecording

    traces = [np.zeros((60_000, N_CHANNELS), np.int16)] * n_segments
    recording: Any = NumpyRecording(traces, 30_000.0)
    if gains:
        recording.set_channel_gains(0.5)
        recording.set_channel_offsets(0.0)
    if is_placed:
        recording.set_probe(probe())
    with pytest.warns(UserWarning, match="not serializable"):
        recording.save(folder=folder, format="binary", n_jobs=1, verbose=False, progress_bar=False)
    return str(folder)


def test_the_first_minutes_are_cut_at_a_sample(tmp_path):
    """And no more than there are."""
    recording = open_recording(saved(tmp_path / "r"))
    assert first_minutes(recording, 1 / 60, path="r").get_num_samples() == 30_000
    with pytest.raises(RecordingError, match=r"lasts 0.0333 minutes.* Give --minutes 0.03,"):
        first_minutes(recording, 1.0, path="r")


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    """Segments, gains and places."""
    path = saved(tmp_path / "r", n_segments=2, gains=False, is_placed=False)
    with pytest.raises(RecordingError) as refusal:
        open_recording(path)
    problems = " ".join(refusal.value.problems)
    assert "it has 2 segments" in problems
    assert "no gain to microvolts" in problems
    assert "Give --geometry" in problems


def test_places_can_be_given_in_a_file(tmp_path):
    """Of one probe with as many contacts as there are channels."""
    path = saved(tmp_path / "r", is_placed=False)
    recording = open_recording(path, geometry=geometry(tmp_path / "p.json", probe()))
    assert recording.get_channel_locations()[:, 1].tolist() == [0.0, 20.0, 40.0, 60.0]
    other = geometry(tmp_path / "other.json", probe(5))
    with pytest.raises(RecordingError, match="1 probes with 5 contacts, and the recording 4"):
        open_recording(path, geometry=other)
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(RecordingError, match="probeinterface cannot read it"):
        open_recording(path, geometry=tmp_path / "text.json")


@pytest.mark.parametrize("name", ["session.nwb", "run_g0_t0.imec0.ap.bin"])
def test_a_file_that_its_reader_cannot_read_is_refused(tmp_path, name):
    """Whatever the library raises."""
    (tmp_path / name).write_bytes(b"not a recording")
    with pytest.raises(
        UserError, match=r"SpikeInterface cannot read it|there is no \.meta of imec0\.ap"
    ):
        open_recording(str(tmp_path / name))


def test_a_folder_that_is_no_recording_is_refused_with_what_is_missing(tmp_path):
    """An empty one, and a run of SpikeGLX of which the .meta was not copied."""
    with pytest.raises(RecordingError, match=r"holds no recording that is read here\. Name"):
        open_recording(tmp_path)
    (tmp_path / "run_g0_imec0").mkdir()
    (tmp_path / "run_g0_imec0" / "run_g0_t0.imec0.ap.bin").write_bytes(bytes(10))
    with pytest.raises(RecordingError, match=r"imec0\.ap\.bin has no \.meta beside it"):
        open_recording(tmp_path)
