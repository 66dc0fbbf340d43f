"""Folders that SpikeInterface would load, with files that run a program."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings.pickles import refuse_pickles
from stream_sources.recordings.sorting import read_sorting
from tests.support.pickles import run_on_load


def array_bytes(values) -> bytes:
    """Return what numpy writes."""
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "values",
    [[1, 2], ["a", "b"], np.array(["good", None, 3.5], dtype=object), np.array([], dtype=object)],
)
def test_arrays_of_numbers_and_texts_are_read(tmp_path, values):
    """SpikeInterface saves the labels of Kilosort as an array of Python objects."""
    (tmp_path / "quality.npy").write_bytes(array_bytes(values))
    refuse_pickles(tmp_path)


def test_an_array_that_runs_a_program_is_refused(tmp_path):
    """Where a text would be."""
    header = array_bytes(np.array(["good"], dtype=object)).split(b"\n", 1)[0] + b"\n"
    (tmp_path / "properties").mkdir()
    file = tmp_path / "properties" / "quality.npy"
    file.write_bytes(header + run_on_load(tmp_path / "ran"))
    with pytest.raises(RecordingError, match="may run any program"):
        refuse_pickles(tmp_path)
    assert not (tmp_path / "ran").exists()
    np.load(file, allow_pickle=True)
    assert (tmp_path / "ran").exists()  # as numpy would have


def test_a_broken_array_is_left_to_its_reader(tmp_path):
    """It names what is broken."""
    (tmp_path / "spikes.npy").write_bytes(b"\x93NUMPY\x01\x00")
    refuse_pickles(tmp_path)


@pytest.mark.parametrize("name", ["cached.pkl", "sorting.pickle"])
def test_a_sorting_that_is_a_pickle_is_refused_before_it_is_loaded(tmp_path, name):
    """Old versions of SpikeInterface saved so, and new ones load it."""
    folder = tmp_path / "sorting"
    folder.mkdir()
    (folder / name).write_bytes(run_on_load(tmp_path / "ran"))
    with pytest.raises(RecordingError, match="a pickle may run any program"):
        read_sorting(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", [".zarray", ".zmetadata"])
def test_pickled_arrays_of_a_zarr_are_refused_wherever_they_are_described(tmp_path, file):
    """Zarr reads the one file of all arrays, where there is one, in place of each array's own."""
    array = {"filters": [{"id": "pickle", "protocol": 5}]}
    entries = {"metadata": {"unit_ids/.zarray": array}}
    (tmp_path / file).write_text(json.dumps(array if file == ".zarray" else entries))
    with pytest.raises(RecordingError, match="a pickle may run any program"):
        refuse_pickles(tmp_path, besides=("extensions",))
    (tmp_path / file).unlink()
    extension = {"metadata": {"extensions/templates/.zarray": array}}
    (tmp_path / ".zmetadata").write_text(json.dumps(extension))
    refuse_pickles(tmp_path, besides=("extensions",))
