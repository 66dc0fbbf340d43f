"""Columns that are in another file than the one that was opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import stream_sources.recordings.nwb_spikes as spikes_module
from contracts.errors import RecordingError
from stream_sources.recordings.nwb import NwbSource
from tests.support import spike_lists
from tests.support.nwb_files import random_trains, write_units, writer
from tests.support.range_server import range_server

TRAINS = random_trains(6)
UNITS = "general/kept/here"


def external(file: h5py.File) -> None:
    """The whole units table is in the other file."""
    file["units"] = h5py.ExternalLink("other.nwb", "/units")


def soft_to_external(file: h5py.File) -> None:
    """A chain: a soft link to an external one."""
    file["moved"] = h5py.ExternalLink("other.nwb", "/units")
    file["units"] = h5py.SoftLink("/moved")


def soft(file: h5py.File) -> None:
    """A soft link within the file, relative to the root."""
    file.copy(_other(file)["units"], file, name=UNITS)
    file["units"] = h5py.SoftLink(UNITS)


def through_a_group(file: h5py.File) -> None:
    """A path through a group of the other file."""
    file["all"] = h5py.ExternalLink("other.nwb", "/")
    file["units"] = h5py.SoftLink("all/units")


def each_column(file: h5py.File) -> None:
    """A group of links, one for each column."""
    units = file.create_group("units")
    for name in ("id", "spike_times", "spike_times_index"):
        units[name] = h5py.ExternalLink("other.nwb", f"/units/{name}")


def spikes_alone(file: h5py.File) -> None:
    """The spikes are in the other file, the rest of the table here."""
    units, _ = _without_spikes(file)
    units["spike_times"] = h5py.ExternalLink("other.nwb", "/units/spike_times")


def virtual(file: h5py.File) -> None:
    """A virtual data set of the other file's spikes."""
    units, times = _without_spikes(file)
    layout = h5py.VirtualLayout(shape=times.shape, dtype="f8")
    layout[:] = h5py.VirtualSource("other.nwb", "units/spike_times", shape=times.shape)
    units.create_virtual_dataset("spike_times", layout)


def raw(file: h5py.File) -> None:
    """External raw storage, after some other bytes."""
    units, times = _without_spikes(file)
    name = str(Path(file.filename).with_name("spikes.raw"))
    units.create_dataset(
        "spike_times", shape=times.shape, dtype="f8", external=[(name, 24, times.nbytes)]
    )
    units["spike_times"][:] = times


def _other(file: h5py.File) -> h5py.File:
    return h5py.File(Path(file.filename).with_name("other.nwb"))


def _without_spikes(file: h5py.File) -> tuple[h5py.Group, Any]:
    """Copy the other file's units but for their spikes, and return the copy and the spikes."""
    units = file.create_group("units")
    with _other(file) as other:
        for name in ("id", "spike_times_index"):
            units[name] = other[f"units/{name}"][:]
        return units, other["units/spike_times"][:]


WAYS = [external, soft_to_external, soft, through_a_group, each_column, spikes_alone, virtual, raw]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("storage", [{}, {"chunks": (16,), "compression": "gzip"}])
def test_spikes_behind_links_are_the_spikes_of_the_other_file(
    tmp_path: Path, way: Callable[[h5py.File], None], storage: dict[str, Any]
) -> None:
    """The spikes are those of the file that holds them, whatever links lead there."""
    write_units(tmp_path / "other.nwb", TRAINS, **storage)
    path = tmp_path / "session.nwb"
    with h5py.File(path, "w") as file:
        file["before"] = np.zeros(4096)  # at the offset of the other file's spikes
        way(file)
    source = NwbSource(str(path))
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_a_user_block_moves_the_spikes(tmp_path: Path) -> None:
    """Bytes before the HDF5 part of a file count in the offset of its data."""
    plain = write_units(tmp_path / "plain.nwb", TRAINS)
    path = tmp_path / "block.nwb"
    with h5py.File(path, "w", userblock_size=1024) as file, h5py.File(plain) as other:
        for name in ("units", "identifier"):
            other.copy(name, file)
    source = NwbSource(str(path))
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_links_are_followed_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative link counts from the file that holds it, and a relative path from here."""
    write_units(tmp_path / "other.nwb", TRAINS)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        external(file)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_units(tmp_path / "here" / "wrong.nwb", random_trains(2))
    source = NwbSource("../session.nwb")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_areas_come_from_the_file_that_holds_the_units(tmp_path: Path) -> None:
    """References and ids of linked units are resolved in their own file."""
    electrodes = {"id": [5], "location": ["VISp"], "group_name": ["probeA"]}
    write_units(
        tmp_path / "other.nwb",
        TRAINS,
        columns={"peak_channel_id": [5] * 6, "electrodes": [0] * 6},
        electrodes=electrodes,
    )
    with h5py.File(tmp_path / "other.nwb", "a") as other:
        table = other["general/extracellular_ephys/electrodes"]
        other["units/electrodes"].attrs["table"] = table.ref
        group = other.create_group("general/extracellular_ephys/probeA")
        other["units"].create_dataset("electrode_group", data=[group.ref] * 6, dtype=h5py.ref_dtype)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        external(file)
        wrong = file.create_group("general/extracellular_ephys/electrodes")
        wrong["id"], wrong["location"] = [5], ["CA1"]
        file.create_group("general/extracellular_ephys/wrong")
    units = NwbSource(str(tmp_path / "session.nwb")).population.units
    assert {(unit.area, unit.probe) for unit in units} == {("VISp", "probeA")}


GONE = [
    (
        "units",
        h5py.ExternalLink("gone.nwb", "/units"),
        r"to /units in gone\.nwb, which is not there. Copy that file",
    ),
    (
        "units",
        h5py.ExternalLink("other.nwb", "/none"),
        r"to /none in other\.nwb, which has nothing of",
    ),
    (
        "units",
        h5py.ExternalLink("other.nwb", "/units/id/x"),
        r"to /units/id/x in other\.nwb, which",
    ),
    ("units", h5py.SoftLink("/elsewhere"), "to /elsewhere, which is not in the file"),
    ("units", h5py.SoftLink("/units"), "to /units, which is not in the file"),
    ("units/spike_times", h5py.SoftLink("times"), "to times, which is not in the file"),
]


@pytest.mark.parametrize(("name", "link", "text"), GONE)
def test_a_link_to_nothing_is_named(tmp_path: Path, name: str, link: object, text: str) -> None:
    """The message names the link and its target, and does not call the file damaged."""
    write_units(tmp_path / "other.nwb", TRAINS)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        if name != "units":
            each_column(file)
            del file[name]
        file[name] = link
    with pytest.raises(RecordingError, match=f"{name} is a link {text}") as caught:
        NwbSource(str(tmp_path / "session.nwb"))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("way", [external, each_column, through_a_group, virtual, raw])
def test_other_files_are_not_followed_over_http(
    tmp_path: Path, way: Callable[[h5py.File], None]
) -> None:
    """HDF5 would look for the other file within the one that it has."""
    write_units(tmp_path / "other.nwb", TRAINS)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        way(file)
    with (
        range_server(tmp_path) as server,
        pytest.raises(RecordingError, match=r"another file.* cannot be (followed|read) over http"),
    ):
        NwbSource(server.url("session.nwb"), cache_dir=tmp_path / "cache")


def test_a_link_within_the_file_is_followed_over_http(tmp_path: Path) -> None:
    """Soft links and virtual data sets of the same file need no other."""
    path = write_units(tmp_path / "session.nwb", TRAINS)
    with h5py.File(path, "a") as file:
        file.move("units", UNITS)
        units = file[UNITS]
        units.move("spike_times", "flat")
        n_spikes = len(units["flat"])
        layout = h5py.VirtualLayout(shape=(n_spikes,), dtype="f8")
        layout[:] = h5py.VirtualSource(".", f"/{UNITS}/flat", shape=(n_spikes,))
        units.create_virtual_dataset("spike_times", layout)
        file["units"] = h5py.SoftLink(UNITS)
    with range_server(tmp_path) as server:
        source = NwbSource(server.url("session.nwb"), cache_dir=tmp_path / "cache")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_a_map_that_shows_other_values_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped values are compared with what HDF5 reads, in case the offset is wrong."""
    real = spikes_module._map_times
    monkeypatch.setattr(
        spikes_module, "_map_times", lambda file, offset, n: real(file, offset - 8, n)
    )
    source = NwbSource(str(write_units(tmp_path / "session.nwb", TRAINS)))
    assert source.trains.pages is None
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_a_linked_file_that_a_writer_holds_open_is_reported(tmp_path: Path) -> None:
    """The message names the other file and why it cannot be opened."""
    write_units(tmp_path / "other.nwb", TRAINS)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        external(file)
    with (
        writer(tmp_path / "other.nwb", "earliest"),
        pytest.raises(RecordingError, match=r"in other\.nwb, which cannot be opened: another prog"),
    ):
        NwbSource(str(tmp_path / "session.nwb"))


def test_a_cycle_of_links_is_refused(tmp_path: Path) -> None:
    """Two links that lead to each other are no endless loop."""
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        file["units"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/units")
    with pytest.raises(RecordingError, match="which is not in the file"):
        NwbSource(str(tmp_path / "session.nwb"))


def test_a_raw_file_of_the_same_name_in_the_working_folder_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 looks there first; with two files of one name the user must choose."""
    write_units(tmp_path / "other.nwb", TRAINS)
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "session.nwb", "w") as file:
        raw(file)
        times = file["units/spike_times"][:]
        del file["units/spike_times"]
        file["units"].create_dataset(
            "spike_times",
            shape=times.shape,
            dtype="f8",
            external=[("spikes.raw", 24, times.nbytes)],
        )
    assert NwbSource("session.nwb").n_spikes == len(times)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(
        RecordingError, match=r"it is beside the recording\. Set HDF5_EXTFILE_PREFIX"
    ):
        NwbSource("../session.nwb")
    Path("spikes.raw").write_bytes(os.urandom(1 << 16))
    with pytest.raises(RecordingError, match="is both in the working folder and beside"):
        NwbSource("../session.nwb")
