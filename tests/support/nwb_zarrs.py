"""A session in Zarr as hdmf-zarr wrote it, and its HDF5 twin; see ``record_nwb_zarr``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import zarr

from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.open_source import open_source
from tests.support import spike_lists

DATA = Path(__file__).parents[1] / "data" / "nwb_zarr"

TWIN = DATA / "session.nwb"

NEW, OLD = "0.13.0", "0.3.0"
"""Versions of hdmf-zarr. The old one pickles texts and writes no consolidated metadata."""


def unpack(folder: Path, version: str = NEW) -> Path:
    """Write the session below a folder, and return its own."""
    path = folder / "session.nwb.zarr"
    with ZipFile(DATA / f"hdmf-zarr-{version}.zip") as archive:
        archive.extractall(path)
    return path


def edit(folder: Path, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document of a Zarr, and the consolidated metadata with it."""
    document = json.loads((folder / key).read_text())
    change(document)
    (folder / key).write_text(json.dumps(document))
    zarr.consolidate_metadata(str(folder))


def repack(folder: Path, path: str, **settings: Any) -> None:
    """Write an array anew with other settings of Zarr."""
    group = zarr.open_group(str(folder), "a")
    old = group[path]
    values, attributes = old[:], dict(old.attrs)
    del group[path]
    new = group.create_dataset(path, data=values, **settings)
    new.attrs.update(attributes)
    zarr.consolidate_metadata(str(folder))


def assert_twins(path: Path | str, twin: Path = TWIN) -> None:
    """Check that two recordings are the same in everything that is sent or shown."""
    one, other = open_source(str(path)), NwbSource(str(twin))
    assert one.population.units == other.population.units
    assert spike_lists.of_batches(one.batches()) == spike_lists.of_batches(other.batches())
    for name in ("label", "identifier", "table", "notes", "areas_from", "session_start_utc"):
        assert getattr(one, name) == getattr(other, name)
    assert one.session_start_utc
    np.testing.assert_array_equal(one.invalid_ns, other.invalid_ns)
    for name in ("start_ns", "stop_ns", "row_id", "frame", "stimulus", "block", "caption", "names"):
        np.testing.assert_array_equal(
            getattr(one.presentations, name), getattr(other.presentations, name)
        )
    assert len(one.presentations.start_ns) == 9
