"""Inputs of a calibration are compared by what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RecordingError
from encoder_training.calibration.input_contents import MISSING, input_contents
from encoder_training.calibration.options import CalibrationOptions
from tests.support.nwb_files import write_kilosort


def options(folder: Path) -> CalibrationOptions:
    """Return options with every input."""
    return CalibrationOptions(
        recording="",
        out=folder / "out",
        areas=folder / "areas.csv",
        presentations=folder / "shown.csv",
        geometry=folder / "probe.json",
        sorting=folder / "ks",
    )


def test_each_input_is_known_by_its_content(tmp_path):
    """A change of one changes its own number, and no other; the same content is the same."""
    wanted = options(tmp_path)
    files = {
        "--areas": tmp_path / "areas.csv",
        "--presentations": tmp_path / "shown.csv",
        "--geometry": tmp_path / "probe.json",
    }
    for path in files.values():
        path.write_text("before")
    write_kilosort(tmp_path / "ks", {3: [5, 90_000], 4: [70]})
    before = input_contents(wanted)
    assert input_contents(wanted) == before
    for name, path in files.items():
        path.write_text("after")
        now = input_contents(wanted)
        assert [key for key in now if now[key] != before[key]] == [f"sha256 of {name}"]
        before = now


def test_a_sorting_is_known_by_its_spikes(tmp_path):
    """Curation in phy leaves path, size and number of spikes as they were."""
    wanted = options(tmp_path)
    folder = write_kilosort(tmp_path / "ks", {3: [5, 90_000], 4: [70]})
    before = input_contents(wanted)["sha256 of --sorting"]
    (folder / "notes.txt").touch()
    assert input_contents(wanted)["sha256 of --sorting"] == before
    clusters = np.load(folder / "spike_clusters.npy")
    clusters[0] = 4
    np.save(folder / "spike_clusters.npy", clusters)
    assert input_contents(wanted)["sha256 of --sorting"] != before


def test_what_is_not_given_and_what_is_gone_are_told_apart(tmp_path):
    """And a sorting that cannot be read is refused."""
    bare = CalibrationOptions(recording="", out=tmp_path)
    assert set(input_contents(bare).values()) == {None}
    assert set(input_contents(options(tmp_path)).values()) == {MISSING}
    (tmp_path / "ks").mkdir()
    with pytest.raises(RecordingError, match="no Kilosort or phy folder"):
        input_contents(options(tmp_path))
