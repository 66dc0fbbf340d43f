"""The small synthetic recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from simulation.nwb_file import SAMPLING_HZ
from simulation.recording import FRAME_S, REFRACTORY_S, write_recording
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.recording import describe
from tests.support import spike_lists


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one recording for the tests of this file."""
    path = tmp_path_factory.mktemp("recording") / "small.nwb"
    write_recording(path, seconds=12.0, n_units=24, seed=3)
    return path


def contents(path: Path) -> dict[str, Any]:
    """Return every number and text of the file, without the random names of objects."""
    found: dict[str, Any] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is None:
            found[name] = np.asarray(item[()]).tolist()

    with h5py.File(path) as file:
        file.visititems(keep)
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(("specifications", "file_create_date"))
    }


def test_the_seed_decides_everything(path: Path, tmp_path: Path) -> None:
    """The same arguments give the same numbers, and another seed others."""
    again, other = tmp_path / "again.nwb", tmp_path / "other.nwb"
    write_recording(again, seconds=12.0, n_units=24, seed=3)
    write_recording(other, seconds=12.0, n_units=24, seed=4)
    assert contents(again) == contents(path)
    assert contents(other)["units/spike_times"] != contents(path)["units/spike_times"]


def test_it_has_the_layout_of_the_public_sessions(path: Path) -> None:
    """Areas through the peak channel, two probes, noise units, movie and grey screen."""
    summary = describe(NwbSource(str(path)))
    assert summary.areas == {"VISp": 6, "VISl": 6, "LGd": 6, "CA1": 6}
    assert summary.probes == {"probeA": 12, "probeB": 12}
    assert summary.qualities == {"good": 22, "noise": 2}
    assert list(summary.presentations) == ["spontaneous", "natural_movie_one"]


def test_the_default_filter_of_allen_keeps_some(path: Path) -> None:
    """Every column that the filter needs is there, and it leaves units out."""
    assert 0 < len(NwbSource(str(path), units="allen").population) < 22


def test_frames_follow_each_other_at_the_measured_period(path: Path) -> None:
    """Frames last 33.361 ms and number the movie from 0."""
    marks = [m for m in NwbSource(str(path)).marks() if m.stimulus == "natural_movie_one"]
    assert [mark.frame for mark in marks] == list(range(len(marks)))
    lengths = {mark.stop_ns - mark.start_ns for mark in marks}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) == pytest.approx(FRAME_S * 1e9, abs=1)


def test_no_unit_fires_within_its_refractory_time(path: Path) -> None:
    """Intervals are at least 1 ms, but for the rounding to samples."""
    with h5py.File(path) as file:
        trains = np.split(file["units/spike_times"][:], file["units/spike_times_index"][:-1])
    shortest = min(np.diff(train).min() for train in trains if len(train) > 1)
    assert shortest >= REFRACTORY_S - 1.01 / SAMPLING_HZ


def test_pynwb_reads_it_alike(path: Path) -> None:
    """Units, areas, spikes and presentations are those that pynwb finds."""
    from pynwb import NWBHDF5IO

    source = NwbSource(str(path))
    with NWBHDF5IO(path, "r") as io:
        file = io.read()
        electrodes = file.electrodes.to_dataframe()
        trains = [np.asarray(file.units["spike_times"][row]) for row in range(24)]
        ids = [str(unit_id) for unit_id in file.units.id[:]]
        peaks = file.units["peak_channel_id"].data[:]
        n_frames = len(file.intervals["natural_movie_one_presentations"])
    units = source.population.units
    assert [unit.unit_id for unit in units] == ids
    assert [unit.area for unit in units] == [electrodes.loc[peak].location for peak in peaks]
    assert [unit.probe for unit in units] == [electrodes.loc[peak].group_name for peak in peaks]
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(trains)
    assert describe(source).presentations["natural_movie_one"] == n_frames


def test_pynwb_finds_it_valid(path: Path) -> None:
    """The file follows the schema."""
    from pynwb import validate

    assert not validate(path=str(path))


def test_spikeinterface_reads_it_alike(path: Path) -> None:
    """SpikeInterface finds the same samples of the same units."""
    from spikeinterface.extractors import read_nwb_sorting

    sorting = read_nwb_sorting(path, sampling_frequency=float(SAMPLING_HZ), t_start=0.0)
    source = NwbSource(str(path))
    ours = [
        (round(time_ns * SAMPLING_HZ / 1e9), row)
        for time_ns, row in spike_lists.of_batches(source.batches())
    ]
    vector = sorting.to_spike_vector()
    theirs = zip(vector["sample_index"].tolist(), vector["unit_index"].tolist(), strict=True)
    assert sorted(ours) == sorted(theirs)
    assert [str(unit_id) for unit_id in sorting.unit_ids] == [
        unit.unit_id for unit in source.population.units
    ]


def test_a_very_short_recording_is_legal(tmp_path: Path) -> None:
    """A second of recording still has a movie."""
    write_recording(tmp_path / "short.nwb", seconds=1.0, n_units=4)
    assert describe(NwbSource(str(tmp_path / "short.nwb"))).presentations["natural_movie_one"] > 10
