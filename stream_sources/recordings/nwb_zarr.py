"""NWB in Zarr, as hdmf-zarr writes it: what the reader needs of it, as an HDF5 file.

`nwb` reads HDF5 and nothing else. Here the tables that it reads are copied from the Zarr, chunk by
chunk, into a file of the same layout; voltages and other data are not. A chunk that is missing
stays unwritten in the copy, so that the reader treats it as it treats the holes of any file
(`nwb_storage`), and never as zeros.

Layout: https://hdmf-zarr.readthedocs.io/en/stable/storage.html. Links and references are JSON of
``source`` and ``path``; those that lead out of the store are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed, shown
from contracts.progress import ProgressBar
from stream_sources.recordings.nwb_electrodes import (
    AREA_COLUMNS,
    ELECTRODES,
    MAX_WAVEFORM_BYTES,
    PEAK_COLUMNS,
    PEAK_ID_COLUMNS,
    PROBE_COLUMNS,
)
from stream_sources.recordings.nwb_links import MAX_LINKS
from stream_sources.recordings.nwb_tables import (
    CELL_TYPE_COLUMNS,
    CHANNEL_COLUMNS,
    DEPTH_COLUMNS,
    METRIC_COLUMNS,
    QUALITY_COLUMNS,
    X_COLUMNS,
    Y_COLUMNS,
)
from stream_sources.recordings.zarr_array import ZarrArray, parse_array
from stream_sources.recordings.zarr_store import ARRAY, GROUP, UnsafeZarrError, ZarrStore, joined

ROOT_TEXTS = ("identifier", "session_start_time", "timestamps_reference_time")
SPIKE_TIMES = "units/spike_times"
WAVEFORMS = "units/waveform_mean"
UNIT_COLUMNS = (
    "id", "spike_times", "spike_times_index", "electrodes", "electrodes_index", "electrode_group",
    "waveform_mean", "waveform_mean_index", *AREA_COLUMNS, *PROBE_COLUMNS, *PEAK_ID_COLUMNS,
    *PEAK_COLUMNS, *CELL_TYPE_COLUMNS, *QUALITY_COLUMNS, *DEPTH_COLUMNS, *METRIC_COLUMNS,
)  # fmt: skip
ELECTRODE_COLUMNS = (
    "id", "valid_data", *AREA_COLUMNS, *PROBE_COLUMNS, *CHANNEL_COLUMNS, *X_COLUMNS, *Y_COLUMNS,
)  # fmt: skip
INTERVAL_COLUMNS = ("id", "start_time", "stop_time", "frame", "stimulus_block", "caption")
"""What the reader looks for in each table."""

NEEDED = frozenset({"units", SPIKE_TIMES, "units/spike_times_index", "units/id"})
"""What the spikes cannot be read without."""

TEXT_ATTRIBUTES = ("neurodata_type", "nwb_version", "unit", "description")
REFERENCE_ATTRIBUTES = ("table", "elements")
MAX_ATTRIBUTE = 30_000
"""Letters of a text in an attribute; HDF5 holds 64 KiB of them."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is copied of a store: groups and arrays by their paths in the copy.

    `groups` has the path in the store of each, which differs behind a link. `faults` has the reason
    for each array or table that cannot be read and that the spikes do not need.
    """

    store: ZarrStore
    groups: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, ZarrArray] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def leave_out(self, target: str, error: RecordingError) -> None:
        """Note why something is not copied.

        Raises
        ------
        RecordingError
            The error, if the spikes need it or the Zarr is unsafe.
        """
        if target in NEEDED or isinstance(error, UnsafeZarrError):
            raise error
        self.faults[target] = error.problems[0]


def plan_copy(store: ZarrStore) -> CopyPlan:
    """Choose what the reader needs.

    Raises
    ------
    RecordingError
        If it is no NWB, or a link leads out of the store, or what the spikes need is not read.
    """
    root = store.attributes("")
    if "nwb_version" not in root:
        names = listed(list(root)) or "none"
        raise RecordingError(
            store.name, f"it is a Zarr without nwb_version, so no NWB; its attributes: {names}"
        )
    plan = CopyPlan(store, {"": ""})
    for name in store.names(""):
        if store.document(joined(name, GROUP)) is not None:
            plan.groups[name] = name
    for name in ROOT_TEXTS:
        _add_array(plan, "", name)
    _add_table(plan, "units", UNIT_COLUMNS)
    _add_table(plan, ELECTRODES, ELECTRODE_COLUMNS)
    if region := plan.arrays.get("units/electrodes"):
        if named := _reference(store, region.path, "table"):
            _add_table(plan, named, ELECTRODE_COLUMNS)
    _add_table(plan, "intervals", ())
    intervals = plan.groups.get("intervals")
    for name in [] if intervals is None else _children(store, intervals):
        _add_table(plan, joined("intervals", name), INTERVAL_COLUMNS)
    waveforms = plan.arrays.get(WAVEFORMS)
    if waveforms is not None and waveforms.n_bytes > MAX_WAVEFORM_BYTES:
        del plan.arrays[WAVEFORMS]
    return plan


def write_copy(plan: CopyPlan, path: Path, *, with_spikes: bool) -> list[str]:
    """Write the HDF5 file, and return the keys of the chunks that are not in it.

    Without spikes `units/spike_times` has its length and no values. An array or a table with a
    fault becomes a data set that holds nothing, which the reader notes.

    Raises
    ------
    RecordingError
        If a chunk cannot be read, or not be unpacked and the spikes need it.
    """
    with h5py.File(path, "w") as file:
        for target, source in plan.groups.items():
            group = file.require_group(target or "/")
            _copy_texts(plan.store.attributes(source), group)
        for target, array in plan.arrays.items():
            if array.dtype.kind not in "OU":
                _create(file, target, array, array.dtype)
        missing = _copy_chunks(plan, file, with_spikes=with_spikes)
        for target, array in plan.arrays.items():
            if target not in file:  # texts of which no chunk is there
                _create(file, target, array, h5py.string_dtype())
            _copy_texts(plan.store.attributes(array.path), file[target])
        for target in plan.faults:
            if target not in file:
                file[target] = h5py.Empty("f8")
        _copy_references(plan, file)
    return missing


def _copy_chunks(plan: CopyPlan, file: h5py.File, *, with_spikes: bool) -> list[str]:
    """Copy all chunks, and return the keys of those that are missing or damaged."""
    missing = []
    wanted = [
        (target, array)
        for target, array in plan.arrays.items()
        if with_spikes or target != SPIKE_TIMES
    ]
    for target, array, index, data in _chunks(plan.store, wanted):
        try:
            if data is not None:
                _write(file, plan.store, target, array, index, array.unpacked(data, index))
                continue
        except RecordingError as error:
            plan.leave_out(target, error)
        missing.append(array.key(index))
    return missing


def _chunks(
    store: ZarrStore, arrays: Sequence[tuple[str, ZarrArray]]
) -> Iterator[tuple[str, ZarrArray, tuple[int, ...], bytes | None]]:
    """Yield the packed chunks of these arrays, in order."""

    def places() -> Iterator[tuple[str, ZarrArray, tuple[int, ...]]]:
        for target, array in arrays:
            for index in array.indices():
                yield target, array, index

    keys = (array.key(index) for _, array, index in places())
    total = sum(array.n_chunks for _, array in arrays)
    bar = ProgressBar(total=total, desc="copying from the Zarr", unit="chunk", delay_s=2)
    with bar, closing(store.read(keys)) as contents:
        for place, data in zip(places(), contents, strict=True):
            yield *place, data
            bar.update()


def _write(
    file: h5py.File,
    store: ZarrStore,
    target: str,
    array: ZarrArray,
    index: tuple[int, ...],
    values: NDArray[Any],
) -> None:
    """Write a chunk; the first one of texts or references decides of which the array is.

    Raises
    ------
    RecordingError
        If it holds other objects.
    """
    if values.dtype.kind in "OU":
        kinds = {type(value) for value in values.flat}
        is_text = all(issubclass(kind, (str, bytes)) for kind in kinds)
        if not is_text and not all(issubclass(kind, dict) for kind in kinds):
            names = [kind.__name__ for kind in kinds]
            raise RecordingError(
                store.name, f"{array.path} must hold texts or references, not {listed(names)}"
            )
        if target not in file:
            _create(file, target, array, h5py.string_dtype() if is_text else h5py.ref_dtype)
        values = values.astype(object)
        if not is_text:
            for place, value in np.ndenumerate(values):
                values[place] = _written_reference(file, store, value)
    file[target][array.region(index)] = values


def _create(file: h5py.File, target: str, array: ZarrArray, dtype: Any) -> None:
    is_chunked = array.shape and all(array.shape)
    chunks = tuple(map(min, array.chunks, array.shape)) if is_chunked else None
    file.create_dataset(target, array.shape, dtype, chunks=chunks)


def _written_reference(
    file: h5py.File, store: ZarrStore, value: Mapping[str, Any]
) -> h5py.Reference:
    """Return a reference to what has the same path in the copy; the reader needs its name only."""
    path = _path_in(store, value)
    is_there = path in file
    group = file[path] if is_there else file.create_group(path)
    reference = group.ref
    if not is_there and _found(store, path) is None:
        del file[path]  # it leads to nothing in the store either
    return reference


def _copy_texts(attributes: Mapping[str, Any], to: h5py.Group | h5py.Dataset) -> None:
    for name in TEXT_ATTRIBUTES:
        value = attributes.get(name)
        if isinstance(value, str) and "\0" not in value:
            to.attrs[name] = value[:MAX_ATTRIBUTE]


def _copy_references(plan: CopyPlan, file: h5py.File) -> None:
    for target, array in plan.arrays.items():
        for name in REFERENCE_ATTRIBUTES:
            named = _reference(plan.store, array.path, name)
            if named is not None and named in file:
                file[target].attrs[name] = file[named].ref


def _add_table(plan: CopyPlan, target: str, columns: Sequence[str]) -> None:
    try:
        source = _found(plan.store, target)
    except RecordingError as error:
        plan.leave_out(target, error)
        return
    if source is None:
        return
    plan.groups[target] = source
    for name in dict.fromkeys(columns):
        if _add_array(plan, target, name):
            _add_array(plan, target, f"{name}_elements")


def _add_array(plan: CopyPlan, group: str, name: str) -> bool:
    """Add an array if there is one that can be read, and return whether it was added."""
    target = joined(group, name)
    try:
        source = _found(plan.store, target)
        document = None if source is None else plan.store.document(joined(source, ARRAY))
        if source is None or document is None:
            return False
        plan.arrays[target] = parse_array(plan.store.name, source, document)
    except RecordingError as error:
        plan.leave_out(target, error)
        return False
    return True


def _found(store: ZarrStore, path: str, n_links: int = 0) -> str | None:
    """Return where something is in the store, behind links; None if nothing has that name.

    Raises
    ------
    RecordingError
        If a link leads out of the store or to nothing.
    """
    place = ""
    for name in path.split("/"):
        below = joined(place, name)
        if store.has(below):
            place = below
            continue
        link = _links(store, place).get(name)
        if link is None:
            return None
        named = _path_in(store, link)
        found = _found(store, named, n_links + 1) if n_links < MAX_LINKS else None
        if found is None:
            raise RecordingError(
                store.name, f"{below} is a link to {shown(named)}, which is not in the Zarr"
            )
        place = found
    return place


def _children(store: ZarrStore, path: str) -> list[str]:
    return sorted({*store.names(path), *_links(store, path)})


def _links(store: ZarrStore, group: str) -> dict[str, Mapping[str, Any]]:
    links = store.attributes(group).get("zarr_link")
    named = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return {str(link.get("name")): link for link in named}


def _reference(store: ZarrStore, place: str, name: str) -> str | None:
    """Return the path that a reference in an attribute leads to; None if there is none."""
    attribute = store.attributes(place).get(name)
    value = attribute.get("value") if isinstance(attribute, dict) else None
    return _path_in(store, value) if isinstance(value, dict) else None


def _path_in(store: ZarrStore, reference: Mapping[str, Any]) -> str:
    """Return the path that a link or a reference leads to.

    Raises
    ------
    UnsafeZarrError
        If that is in another store, or no path.
    """
    source, path = reference.get("source"), str(reference.get("path")).strip("/")
    root_id = store.attributes("").get("object_id")
    is_own = source == "." or (root_id and reference.get("source_object_id") == root_id)
    if not is_own:
        raise UnsafeZarrError(
            store.name,
            f"it refers to {shown(path)} in another Zarr, {shown(str(source))}, which is not read. "
            "Export the session into one Zarr (NWBZarrIO.export), or as HDF5.",
        )
    if {"", ".", ".."} & set(path.split("/")) or not path.isprintable():
        raise UnsafeZarrError(store.name, f"{shown(path)} is no path in a Zarr")
    return path
