"""HDF5's fill values are not taken for data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from contracts.errors import RecordingError, UserError
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.nwb_storage import holes
from tests.support.nwb_files import random_trains, write_presentations, write_units

TRAINS = random_trains(6)
N_SPIKES = sum(map(len, TRAINS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a recording without faults."""
    electrodes = {"id": [3], "location": ["VISp"], "group_name": ["probeA"]}
    columns = {"quality": ["good"] * 6, "peak_channel_id": [3] * 6, "area": ["CA1"] * 6}
    return write_units(tmp_path / "file.nwb", TRAINS, columns=columns, electrodes=electrodes)


def remake(path: Path, name: str, **storage: object) -> None:
    """Replace a data set by an unwritten one of the same shape and type."""
    with h5py.File(path, "a") as file:
        old = file[name]
        shape, dtype = old.shape, old.dtype
        del file[name]
        file.create_dataset(name, shape=shape, dtype=dtype, **storage)


def take_spikes(file: h5py.File) -> Any:
    """Remove the spike times and return them."""
    times = file["units/spike_times"][:]
    del file["units/spike_times"]
    return times


@pytest.mark.parametrize("storage", [{}, {"chunks": (4,)}, {"chunks": (4,), "compression": "gzip"}])
@pytest.mark.parametrize("name", ["spike_times", "spike_times_index", "id"])
def test_an_unwritten_column_is_refused(path: Path, name: str, storage: dict[str, object]) -> None:
    """The message names the column and the reason."""
    remake(path, f"units/{name}", **storage)
    with pytest.raises(UserError, match=f"units/{name} was allocated and never written"):
        NwbSource(str(path))


@pytest.mark.parametrize("name", ["quality", "peak_channel_id", "area"])
def test_an_unwritten_optional_column_is_left_out(path: Path, name: str) -> None:
    """It is noted, and its fill values are not labels or peaks."""
    remake(path, f"units/{name}", chunks=(4,))
    source = NwbSource(str(path))
    assert any(f"left out: units/{name} was allocated and never" in text for text in source.notes)
    assert {unit.area for unit in source.population.units} == {"VISp" if name == "area" else "CA1"}
    assert {unit.quality for unit in source.population.units} == {
        "" if name == "quality" else "good"
    }


@pytest.mark.parametrize("name", ["start_time", "stop_time", "frame"])
def test_an_unwritten_column_of_presentations_is_left_out(path: Path, name: str) -> None:
    """Its fill values are neither presentations at 0 s nor frame 0."""
    rows = np.arange(5.0)
    write_presentations(path, "m_presentations", start_time=rows, stop_time=rows + 1, frame=rows)
    remake(path, f"intervals/m_presentations/{name}")
    source = NwbSource(str(path))
    assert any(f"m_presentations/{name} was allocated and never" in text for text in source.notes)
    frames = [mark.frame for mark in source.marks()]
    assert frames == ([None] * 5 if name == "frame" else [])


def test_a_chunk_that_was_never_written_is_refused_where_it_matters(path: Path) -> None:
    """A missing chunk refuses the units with spikes in it, not others."""
    with h5py.File(path, "a") as file:
        times = take_spikes(file)
        stops = file["units/spike_times_index"][:]
        column = file["units"].create_dataset("spike_times", times.shape, "f8", chunks=(8,))
        column[: stops[2]] = times[: stops[2]]
        first = stops[2] // 8 * 8 + 16
        column[first:] = times[first:]
        assert [hole.first for hole in holes(column)] == [first - 8]
    with pytest.raises(
        RecordingError, match=r"never written in 1 of its \d+ chunks: 8 spikes of 1 "
    ):
        NwbSource(str(path))
    assert NwbSource(str(path), units="ids:0|4|5").n_spikes == sum(
        map(len, (TRAINS[0], *TRAINS[4:]))
    )


def test_rows_beyond_the_last_unit_may_be_unwritten(path: Path) -> None:
    """A column longer than its data can be read."""
    with h5py.File(path, "a") as file:
        times = take_spikes(file)
        column = file["units"].create_dataset("spike_times", (len(times) + 99,), "f8", chunks=(8,))
        column[: len(times)] = times
    assert NwbSource(str(path)).n_spikes == N_SPIKES


@pytest.mark.parametrize("fill", [0.0, -1.0])
def test_a_contiguous_column_written_in_part_is_refused(path: Path, fill: float) -> None:
    """HDF5 does not record which part was written; two first spikes at the fill value tell."""
    with h5py.File(path, "a") as file:
        times = take_spikes(file)
        n_written = int(file["units/spike_times_index"][3])
        column = file["units"].create_dataset("spike_times", times.shape, "f8", fillvalue=fill)
        column[:n_written] = times[:n_written]
    with pytest.raises(RecordingError, match=r"2 units begin with spikes at .* unit_id 4, 5"):
        NwbSource(str(path))


def virtual(path: Path, *, rows: int = N_SPIKES, source: str = "source.h5") -> None:
    """Put the spikes in another file, and a virtual data set in their place."""
    with h5py.File(path, "a") as file, h5py.File(path.with_name("source.h5"), "w") as other:
        times = take_spikes(file)
        other["deep/times"] = times
        layout = h5py.VirtualLayout(shape=times.shape, dtype="f8")
        layout[:rows] = h5py.VirtualSource(source, "deep/times", shape=times.shape)[:rows]
        file["units"].create_virtual_dataset("spike_times", layout, fillvalue=0.0)


def truncate(path: Path) -> None:
    """Shorten the source's data set."""
    with h5py.File(path, "a") as file:
        times = file["deep/times"][:-3]
        del file["deep/times"]
        file["deep/times"] = times


def empty(path: Path) -> None:
    """Leave the source's data set unwritten."""
    remake(path, "deep/times")


def rename(path: Path) -> None:
    """Move the source's data set away."""
    with h5py.File(path, "a") as file:
        file.move("deep/times", "deep/other")


def spoil(path: Path) -> None:
    """Overwrite the source with something else."""
    path.write_bytes(b"not HDF5 at all")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Path.unlink, "deep/times in source.h5 is not there"),
        (rename, "deep/times in source.h5 is no data set"),
        (truncate, r"deep/times in source.h5 has another shape than it had: \(\d+,\)"),
        (empty, "deep/times in source.h5 was allocated and never written"),
        (spoil, r"deep/times in source.h5 cannot be opened \(file signature not found\)"),
    ],
)
def test_a_virtual_source_that_is_gone_is_refused(
    path: Path, change: Callable[[Path], None], text: str
) -> None:
    """HDF5 would read fill values in place of its data."""
    virtual(path)
    assert NwbSource(str(path)).n_spikes == N_SPIKES
    change(path.with_name("source.h5"))
    with pytest.raises(RecordingError, match=f"units/spike_times is a virtual .* {text}"):
        NwbSource(str(path))


def test_a_virtual_data_set_with_a_hole_is_refused(path: Path) -> None:
    """Rows that no source covers would be fill values."""
    virtual(path, rows=N_SPIKES - 10)
    with pytest.raises(
        RecordingError, match=r"without a source for some rows: 10 spikes of 1 units"
    ):
        NwbSource(str(path))


def test_the_sources_of_a_virtual_source_are_checked(path: Path) -> None:
    """A virtual data set may refer to another one, whose own source may be gone."""
    virtual(path)
    with h5py.File(path.with_name("source.h5"), "a") as other:
        times = other["deep/times"][:]
        other.move("deep/times", "deep/kept")
        layout = h5py.VirtualLayout(shape=times.shape, dtype="f8")
        layout[:] = h5py.VirtualSource("third.h5", "x", shape=times.shape)
        other["deep"].create_virtual_dataset("times", layout)
    with pytest.raises(RecordingError, match=r"whose source x in third\.h5 is not there"):
        NwbSource(str(path))
    with h5py.File(path.with_name("third.h5"), "w") as third:
        third["x"] = times
    assert NwbSource(str(path)).n_spikes == N_SPIKES


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Path.unlink, "which is not there"),
        (lambda raw: os.truncate(raw, raw.stat().st_size // 2), "which is too short"),
    ],
)
def test_an_external_raw_file_that_is_gone_or_short_is_refused(
    path: Path, change: Callable[[Path], None], text: str
) -> None:
    """HDF5 would read zeros past the end of a raw file."""
    raw = path.with_name("spikes.raw")
    with h5py.File(path, "a") as file:
        times = take_spikes(file)
        column = file["units"].create_dataset(
            "spike_times", times.shape, "f8", external=[(str(raw), 0, times.nbytes)]
        )
        column[:] = times
    assert NwbSource(str(path)).n_spikes == N_SPIKES
    change(raw)
    with pytest.raises(RecordingError, match=rf"is kept in .*spikes\.raw, {text}"):
        NwbSource(str(path))


def test_a_filter_that_is_not_installed_is_named(path: Path) -> None:
    """A missing filter is not damage."""
    with h5py.File(path, "a") as file:
        times = take_spikes(file)
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((16,))
        settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(
            file["units"].id,
            b"spike_times",
            h5py.h5t.IEEE_F64LE,
            h5py.h5s.create_simple(times.shape),
            settings,
        )
    with pytest.raises(RecordingError, match=r"packed with the filter .* \(32015\)") as caught:
        NwbSource(str(path))
    assert "damaged" not in str(caught.value)


def write_damaged(path: Path, name: str, data: object) -> None:
    """Add a compressed data set and overwrite its chunk."""
    with h5py.File(path, "a") as file:
        chunk = file.create_dataset(name, data=data, compression="gzip").id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)


def test_codes_whose_names_are_damaged_are_left_out(path: Path) -> None:
    """The names are read as a column is."""
    write_damaged(path, "units/names", np.array([b"good", b"mua"]))
    with h5py.File(path, "a") as file:
        del file["units/quality"]
        file["units/quality"] = np.zeros(6, dtype=np.uint8)
        file["units/quality"].attrs["elements"] = file["units/names"].ref
    source = NwbSource(str(path))
    assert {unit.quality for unit in source.population.units} == {""}
    assert "left out: units/quality.elements cannot be read: " in source.notes[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("units/cell_type", ["RS"] * 6),
        ("units/waveform_mean", np.ones((6, 5, 1))),
        ("intervals/m_presentations/frame", np.arange(5.0)),
    ],
)
def test_damaged_data_of_an_optional_column_are_left_out(
    path: Path, name: str, data: object
) -> None:
    """A chunk that cannot be unpacked is noted; the spikes and the other columns are read."""
    rows = np.arange(5.0)
    write_presentations(path, "m_presentations", start_time=rows, stop_time=rows + 1)
    with h5py.File(path, "a") as file:
        file["units/electrodes"] = [0, 1] * 6
        file["units/electrodes_index"] = np.arange(2, 14, 2)
        table = file["general/extracellular_ephys/electrodes"]
        for column, values in (("id", [3, 4]), ("location", ["A", "B"]), ("group_name", "pp")):
            del table[column]
            table[column] = [*values]
        del file["units/area"], file["units/peak_channel_id"]
    write_damaged(path, name, data)
    source = NwbSource(str(path))
    assert source.n_spikes == N_SPIKES
    assert len(list(source.marks())) == 5
    assert any(f"left out: {name} cannot be read: " in note for note in source.notes)
