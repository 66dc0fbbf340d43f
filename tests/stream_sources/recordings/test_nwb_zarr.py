"""NWB in Zarr of this machine: read as its HDF5 twin is, or refused with a reason."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from contracts.errors import RecordingError
from stream_sources.recordings import nwb_columns, nwb_links, zarr_array, zarr_cache
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.nwb_zarr import (
    ELECTRODE_COLUMNS,
    INTERVAL_COLUMNS,
    UNIT_COLUMNS,
    plan_copy,
)
from stream_sources.recordings.open_source import kind_of, open_source, summarise
from stream_sources.recordings.zarr_store import LocalZarr
from tests.support import spike_lists
from tests.support.nwb_files import write_units
from tests.support.nwb_zarrs import NEW, OLD, TWIN, assert_twins, edit, repack, unpack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep copies below the folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "neurrate" / "zarr"


@pytest.mark.parametrize("version", [NEW, OLD])
def test_a_folder_is_its_hdf5_twin(tmp_path: Path, version: str) -> None:
    """Units, spikes, presentations, invalid times; of two versions of hdmf-zarr."""
    folder = unpack(tmp_path, version)
    assert kind_of(str(folder)) == "nwb"
    assert_twins(folder)
    summary = summarise(str(folder))
    assert summary.areas == {"VISp": 2, "CA1": 2, "LGd": 2}
    assert summary.probes == {"probeA": 3, "probeB": 3}
    assert summary.cell_types == {"PV": 3, "SST": 3}


def test_another_name_will_do(tmp_path: Path) -> None:
    """What is in the folder counts where its name does not say it."""
    assert_twins(unpack(tmp_path).rename(tmp_path / "session"))


def test_the_second_time_the_copy_is_used(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And made anew once the Zarr has changed, in place of the old one."""
    caplog.set_level(logging.INFO)
    folder = unpack(tmp_path)
    assert_twins(folder)
    assert [r.message for r in caplog.records].count(
        "what is read of the Zarr was copied to HDF5"
    ) == 1
    first = list(cache.glob("*.h5"))
    with monkeypatch.context() as patch:
        patch.setattr(zarr_cache, "write_copy", None)
        assert_twins(folder)
    edit(folder, "units/.zattrs", dict.popitem)
    repack(folder, "units/spike_times", chunks=30)
    assert_twins(folder)
    assert len(list(cache.glob("*.h5"))) == len(first) == 1
    assert list(cache.glob("*.h5")) != first


def test_a_chunk_that_was_written_again_is_copied_again(tmp_path: Path) -> None:
    """Though no file was added."""
    folder = unpack(tmp_path)
    first = spike_lists.of_batches(open_source(str(folder)).batches())
    spikes = zarr.open_group(str(folder), "a")["units/spike_times"]
    spikes[:] = spikes[:] + 1.0
    later = spike_lists.of_batches(open_source(str(folder)).batches())
    assert [(time - 10**9, row) for time, row in later] == first


def test_a_copy_that_was_interrupted_is_made_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the process could clean up after itself or not."""
    folder = unpack(tmp_path)

    def interrupted(self: object, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr_array.ZarrArray, "unpacked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_source(str(folder))
    assert list(cache.glob("*.h5")) == list(cache.glob(".*")) == []
    assert_twins(folder)
    [copy] = cache.glob("*.h5")
    whole = copy.read_bytes()
    copy.unlink()
    copy.with_name(f".{copy.name}.partial").write_bytes(whole[:5000])  # as after kill -9
    assert_twins(folder)


def test_a_missing_chunk_is_no_train_of_zeros(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Units with spikes in it are refused, others are not; once it is back, all is well."""
    folder = unpack(tmp_path)
    chunk = folder / "units" / "spike_times" / "5"  # the last 10 of 330 spikes, of the last unit
    content = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(RecordingError, match=r"1 of its 6 chunks: 10 spikes of 1 units"):
        open_source(str(folder))
    [warning] = [vars(record) for record in caplog.records if "missing" in record.message]
    assert warning["keys"] == "units/spike_times/5"
    assert len(open_source(str(folder), units="ids:20|21").population) == 2
    assert list(cache.glob("*.incomplete.h5"))
    chunk.write_bytes(content)
    assert_twins(folder)
    assert not list(cache.glob("*.incomplete.h5"))


def test_a_missing_chunk_of_a_column_is_noted(tmp_path: Path) -> None:
    """As for a column of HDF5 that was never written; without ids nothing is read."""
    folder = unpack(tmp_path)
    (folder / "units/quality/0").unlink()
    (folder / "units/isi_violations/0").unlink()
    notes = open_source(str(folder)).notes
    assert any("units/quality was allocated and never written" in note for note in notes)
    assert any("units/isi_violations was allocated and never" in note for note in notes)
    (folder / "units/id/0").unlink()
    with pytest.raises(RecordingError, match="units/id was allocated and never written"):
        open_source(str(folder))


def _refer(source: str) -> Callable[[dict[str, Any]], object]:
    def change(attributes: dict[str, Any]) -> None:
        attributes["table"]["value"] |= {"source": source, "source_object_id": "another"}

    return change


def test_a_link_is_followed_within_the_zarr(tmp_path: Path) -> None:
    """And not out of it, whatever is there."""
    folder = unpack(tmp_path)
    (folder / "units").rename(folder / "analysis" / "sorted")
    link = {"name": "units", "path": "/analysis/sorted", "source": "."}
    edit(folder, ".zattrs", lambda root: root.update(zarr_link=[link]))
    assert_twins(folder)
    other = unpack(tmp_path / "other")
    link["source"] = os.path.relpath(other, folder)
    edit(folder, ".zattrs", lambda root: root.update(zarr_link=[link]))
    with pytest.raises(
        RecordingError, match=r"analysis/sorted in another Zarr, \.\./other/session"
    ):
        open_source(str(folder))
    link |= {"source": ".", "path": "/analysis/nothing"}
    edit(folder, ".zattrs", lambda root: root.update(zarr_link=[link]))
    with pytest.raises(RecordingError, match="units is a link to analysis/nothing, which is not"):
        open_source(str(folder))
    link["path"] = "/units"
    edit(folder, ".zattrs", lambda root: root.update(zarr_link=[link]))
    with pytest.raises(RecordingError, match="units is a link to units, which is not"):
        open_source(str(folder))
    link["path"] = "/analysis/../../other/session.nwb.zarr/units"
    edit(folder, ".zattrs", lambda root: root.update(zarr_link=[link]))
    with pytest.raises(RecordingError, match=r"is no path in a Zarr"):
        open_source(str(folder))


def test_a_fault_in_what_the_spikes_do_not_need_is_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A column in a packing that is not read, a damaged one, a table behind a link to nothing."""
    folder = unpack(tmp_path)
    edit(folder, "units/quality/.zarray", lambda array: array["compressor"].update(id="lzma"))
    (folder / "units/isi_violations/0").write_bytes(b"damaged")
    link = {"name": "lost_presentations", "path": "/analysis/lost", "source": "."}
    (folder / "intervals/.zattrs").write_text(json.dumps({"zarr_link": [link]}))
    source = open_source(str(folder))
    assert {unit.quality for unit in source.population.units} == {""}
    assert len(source.presentations.start_ns) == 9
    for name in ("units/quality holds nothing", "units/isi_violations was", "lost_presentations"):
        assert any(name in note for note in source.notes)
    reasons = [vars(record).get("reason", "") for record in caplog.records]
    assert any("packed with lzma" in reason for reason in reasons)
    assert any("is a link to analysis/lost" in reason for reason in reasons)


@pytest.mark.parametrize("source", ["../other.zarr", "/etc", "https://example.org/x.zarr"])
def test_a_reference_out_of_the_zarr_is_refused(tmp_path: Path, source: str) -> None:
    """With what it names."""
    folder = unpack(tmp_path)
    edit(folder, "units/electrodes/.zattrs", _refer(source))
    with pytest.raises(RecordingError, match=f"in another Zarr, {source}, which is not read"):
        open_source(str(folder))


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    """Neither through a link of the file system to a chunk, nor to a folder, nor in a circle."""
    folder = unpack(tmp_path)
    chunk = folder / "units/spike_times/0"
    outside = chunk.rename(tmp_path / "0")
    chunk.symlink_to(outside)
    with pytest.raises(RecordingError, match="units/spike_times/0 leads out of the folder"):
        open_source(str(folder))
    chunk.unlink()
    chunk.symlink_to(chunk)
    with pytest.raises(RecordingError, match=r"units/spike_times.* cannot be read"):
        open_source(str(folder))
    outside.rename(chunk)
    table = (folder / "intervals").rename(tmp_path / "intervals")
    (folder / "intervals").symlink_to(table)
    with pytest.raises(RecordingError, match=r"intervals.* leads out of the folder"):
        open_source(str(folder))


def test_a_dangling_reference_is_noted(tmp_path: Path) -> None:
    """A unit whose probe is gone, as in HDF5."""
    folder = unpack(tmp_path)
    shutil.rmtree(folder / "general/extracellular_ephys/probeB")
    source = open_source(str(folder))
    assert [unit.probe for unit in source.population.units] == ["probeA"] * 3 + [""] * 3
    assert any("refers to groups that are not in the file in 3 rows" in n for n in source.notes)


def test_other_zarrs_are_refused(tmp_path: Path) -> None:
    """One of version 3, and one that is no NWB."""
    folder = tmp_path / "images.nwb.zarr"
    zarr.open_group(str(folder), "w").attrs["multiscales"] = []
    with pytest.raises(RecordingError, match=r"without nwb_version, so no NWB.* multiscales"):
        open_source(str(folder))
    (folder / "zarr.json").write_text("{}")
    with pytest.raises(RecordingError, match="a Zarr of version 3"):
        open_source(str(folder))


def test_without_units_what_is_there_is_named(tmp_path: Path) -> None:
    """As for a file of HDF5."""
    folder = unpack(tmp_path)
    shutil.rmtree(folder / "units")
    with pytest.raises(
        RecordingError, match=r"it has no units table.* it has acquisition, analysis"
    ):
        open_source(str(folder))


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, cache: Path) -> None:
    """With what to do."""
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    with pytest.raises(RecordingError, match=r"cannot be kept in .*zarr: .* --cache-dir"):
        open_source(str(unpack(tmp_path)))


def test_voltages_are_not_copied(tmp_path: Path, cache: Path) -> None:
    """Of what is beside the tables nothing is read, so nothing need be readable."""
    folder = unpack(tmp_path)
    group = zarr.open_group(str(folder), "a")
    group.create_dataset("acquisition/raw/data", shape=10**12, dtype="i2", chunks=10**6)
    group.create_dataset("units/spike_amplitudes", shape=10**12, dtype="i2", chunks=10**6)
    assert_twins(folder)
    [copy] = cache.glob("*.h5")
    with h5py.File(copy) as file:
        assert list(file["acquisition"]) == []
        assert "spike_amplitudes" not in file["units"]


def test_every_column_that_the_reader_asks_for_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a Zarr would be read as another session than its twin."""
    asked: set[tuple[str, str]] = set()
    follow = nwb_links.follow

    def recorded(start: h5py.Group, path: str) -> Any:
        asked.add((start.name, path))
        return follow(start, path)

    monkeypatch.setattr(nwb_columns, "follow", recorded)
    NwbSource(str(TWIN))
    bare = write_units(tmp_path / "bare.nwb", [np.arange(3.0)], electrodes={"id": [0]})
    NwbSource(str(bare))
    copied = {
        "/units": {*UNIT_COLUMNS},
        "/general/extracellular_ephys/electrodes": {*ELECTRODE_COLUMNS},
        "/intervals/movie_presentations": {*INTERVAL_COLUMNS},
        "/intervals/invalid_times": {*INTERVAL_COLUMNS},
    }
    for group, names in copied.items():
        wanted = {name.removesuffix("_elements") for at, name in asked if at == group}
        assert len(wanted) > 1
        assert wanted <= names
    assert {*plan_copy(LocalZarr(unpack(tmp_path))).arrays} >= {
        "units/cell_type_elements",
        "session_start_time",
    }
