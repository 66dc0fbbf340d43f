"""Any NWB 2 recording with a units table, local or behind http(s), as a source of spikes.

HDF5 is read as it lies; of a Zarr, what is needed is copied to HDF5 first (`nwb_zarr`).

Opening checks everything and reads the small tables; the spikes stay where they are. Session time
zero is the zero of the file's times.
"""

from __future__ import annotations

import stat
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, UserError, listed
from contracts.population import Population, Unit
from contracts.spikes import utc_text
from contracts.wire_header import MAX_TEXT
from stream_sources.recordings.dandi import DandiAsset, is_dandi
from stream_sources.recordings.labels import table_text
from stream_sources.recordings.nwb_columns import read_text
from stream_sources.recordings.nwb_intervals import read_invalid_times, read_presentations
from stream_sources.recordings.nwb_links import (
    UnreadableError,
    explained,
    follow,
    library_text,
)
from stream_sources.recordings.nwb_spikes import (
    SpikeColumns,
    load_trains,
    read_index,
    train_problems,
)
from stream_sources.recordings.nwb_tables import KnownUnits, read_unit_ids, read_units
from stream_sources.recordings.recording import (
    Play,
    Recording,
    RecordingSource,
    RecordingSummary,
    check_request,
)
from stream_sources.recordings.remote_file import (
    HDF5_SIGNATURE,
    PlainAddress,
    RemoteAddress,
    RemoteFile,
    default_cache_dir,
    is_url,
)
from stream_sources.recordings.unit_filter import choose_units
from stream_sources.recordings.zarr_cache import copy_of
from stream_sources.recordings.zarr_remote import RemoteZarr, is_zarr_url
from stream_sources.recordings.zarr_store import LocalZarr, ZarrStore, is_nwb_zarr

CHUNK_CACHE_BYTES = 32 << 20
"""Several chunks as pynwb writes them (4 MiB), so that none is unpacked twice."""

MAX_LABEL = 64
"""The file's name is used in place of a longer identifier, which would fill the screen."""


class NwbSource(RecordingSource):
    """Replays the units of an NWB 2 file as one stream.

    Parameters
    ----------
    path_or_url : str
        File, or folder of a Zarr; ``http(s)://`` address of a file on a server that answers byte
        ranges, or of a Zarr, which ends with ``.zarr`` or a slash; or ``dandi:...`` as in
        `DandiAsset`.
    units : str
        Which units: ``all``, ``good``, ``allen``, ``area:VISp|VISl``, ... as in `parse_units`.
    only : sequence of (probe, unit_id), optional
        Exactly these units in this order, such as those of a bundle.
    start_s : float, optional
        Session time to start at, seconds; by default the batch of the first spike.
    duration_s : float, optional
        Seconds to play, counted from `start_s`; without one from the first spike, rounded down to
        a whole batch. By default to the last spike.
    cache_dir : Path or str, optional
        Where remote files are kept; by default ``$XDG_CACHE_HOME/neurrate``.
    tables : sequence of str
        Tables of ``intervals`` that hold presentations and are not called
        ``NAME_presentations``, as far as they are there.

    Raises
    ------
    RecordingError
        With every problem found.
    """

    def __init__(
        self,
        path_or_url: str,
        *,
        stream: str = "nwb",
        units: str = "all",
        only: Sequence[tuple[str, str]] | None = None,
        start_s: float | None = None,
        duration_s: float | None = None,
        batch_ms: float = 10.0,
        cache_dir: Path | str | None = None,
        tables: Sequence[str] = (),
    ) -> None:
        play = Play(stream, start_s, duration_s, batch_ms)
        check_request(path_or_url, play, units)
        with open_nwb(path_or_url, cache_dir) as file:
            recording = _read(file, path_or_url, units, only, tables)
        super().__init__(recording, play)


def describe_nwb(
    path: str,
    *,
    units: str = "all",
    only: Sequence[tuple[str, str]] | None = None,
    cache_dir: Path | str | None = None,
) -> RecordingSummary:
    """Summarise a file by its tables alone; the parameters are those of `NwbSource`.

    Spike times are most of a file and are neither read nor checked. A session of 1.4 GB over
    http(s) takes seconds so.

    Raises
    ------
    RecordingError
        With every problem found in the tables.
    """
    with open_nwb(path, cache_dir, with_spikes=False) as file:
        notes: list[str] = []
        chosen = _choose(file, path, units, only, notes)
        identifier = read_text(file, "identifier")
        return RecordingSummary.of(
            label=_label(identifier, path),
            identifier=identifier,
            units=chosen.units,
            presentations=read_presentations(file, (), notes),
            n_spikes=int(np.diff(chosen.spikes.bounds)[chosen.rows].sum()),
            span_s=None,
            areas_from=chosen.known.areas_from,
            probes_from=chosen.known.probes_from,
            notes=(*notes, "spike times were not read, so they are not checked; --spikes does"),
        )


class _Chosen(NamedTuple):
    """The units of a file that were asked for: rows of its table."""

    spikes: SpikeColumns
    known: KnownUnits
    rows: NDArray[np.int64]
    units: list[Unit]


def _choose(
    file: h5py.File,
    path: str,
    units: str,
    only: Sequence[tuple[str, str]] | None,
    notes: list[str],
) -> _Chosen:
    group = _units_group(file, path)
    spikes = read_index(group, path)
    unit_ids = read_unit_ids(group, len(spikes.bounds) - 1)
    problems = _id_problems(unit_ids)
    if problems:
        raise RecordingError(path, *problems)
    known = read_units(file, group, unit_ids, notes)
    rows = choose_units(known.table, units, only, path=path)
    if spikes.times.kind != "f":
        notes.append(
            f"units/spike_times holds whole numbers ({spikes.times.data.dtype}), which are taken "
            "as seconds; are they samples?"
        )
    return _Chosen(spikes, known, rows, [known.table.units[row] for row in rows.tolist()])


def _read(
    file: h5py.File,
    path: str,
    units: str,
    only: Sequence[tuple[str, str]] | None,
    tables: Sequence[str],
) -> Recording:
    notes: list[str] = []
    spikes, known, rows, chosen = _choose(file, path, units, only, notes)
    trains = load_trains(spikes, rows)
    fill = float(spikes.times.data.fillvalue)
    problems = train_problems(trains, [unit.unit_id for unit in chosen], fill)
    if problems:
        raise RecordingError(path, *problems)
    identifier = read_text(file, "identifier")
    return Recording(
        path=path,
        label=_label(identifier, path),
        identifier=identifier,
        population=Population(chosen),
        trains=trains,
        presentations=read_presentations(file, tables, notes),
        invalid_ns=read_invalid_times(file, notes),
        areas_from=known.areas_from,
        probes_from=known.probes_from,
        session_start_utc=_session_start(file),
        table=table_text(
            "units table of the NWB file",
            {"area": known.areas_from, "probe": known.probes_from, **known.positions_from},
        ),
        notes=tuple(notes),
    )


def _label(identifier: str, path: str) -> str:
    return f"nwb:{identifier if 0 < len(identifier) <= MAX_LABEL else _stem(path)}"


def _session_start(file: h5py.File) -> str:
    """Return when the file's time is zero; empty where it states no time zone."""
    # NWB counts times from the first, which is the second unless somebody has set it.
    names = ("timestamps_reference_time", "session_start_time")
    return utc_text(next(filter(None, (read_text(file, name) for name in names)), ""))


@contextmanager
def open_nwb(
    path: str, cache_dir: Path | str | None, *, with_spikes: bool = True
) -> Iterator[h5py.File]:
    """Open a file, local or remote, or the HDF5 copy of a Zarr.

    Without spikes the copy of a Zarr has `units/spike_times` without its values.

    Raises
    ------
    RecordingError
        If the file cannot be opened; also in place of h5py's errors within the block.
    TypeError
        If raised within the block, and not by h5py.
    ValueError
        The same.
    MemoryError
        The same.
    """
    address = _address_of(path)
    store = _zarr_of(path, address)
    copy = copy_of(store, _cache(cache_dir), with_spikes=with_spikes) if store else None
    try:
        if address and not copy:
            with _open_remote(address, _cache(cache_dir)) as file:
                yield file
        else:
            if not copy:
                _check_local(Path(path))
            with h5py.File(copy or path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
                yield file
    except UnreadableError as error:
        raise RecordingError(path, str(error)) from error
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises for damaged files
        raise RecordingError(path, _damage(error)) from error
    except (TypeError, ValueError, MemoryError) as error:  # impossible types and sizes
        if not _is_from_h5py(error):
            raise
        raise RecordingError(path, _damage(error)) from error


def _address_of(path: str) -> RemoteAddress | None:
    """Return where a file is behind http(s); None for one of this machine."""
    if is_dandi(path):
        return DandiAsset(path)
    return PlainAddress(path) if is_url(path) else None


def _cache(cache_dir: Path | str | None) -> Path:
    return default_cache_dir() if cache_dir is None else Path(cache_dir)


def _zarr_of(path: str, address: RemoteAddress | None) -> ZarrStore | None:
    """Return the Zarr that a path or an address names; None if it is not one."""
    if isinstance(address, DandiAsset):
        return RemoteZarr(address, address.zarr_checksum) if address.is_zarr else None
    if address is not None:
        return RemoteZarr(address) if is_zarr_url(path) else None
    folder = Path(path)
    return LocalZarr(folder) if is_nwb_zarr(folder) else None


@contextmanager
def _open_remote(address: RemoteAddress, cache: Path) -> Iterator[h5py.File]:
    """Open a file over http(s).

    Raises
    ------
    RecordingError
        If a read from the server or the cache failed, even where HDF5 went on without the data.
    """
    with RemoteFile(address, cache) as remote:
        try:
            with h5py.File(remote, "r", rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
                yield file
        except (OSError, KeyError, RuntimeError, UserError) as error:
            raise remote.failure or error from error
        if remote.failure is not None:
            raise remote.failure


def _check_local(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RecordingError(str(path), "it is a folder; an NWB file is wanted")
        if not stat.S_ISREG(mode):
            raise RecordingError(str(path), "it is a device or a pipe; an NWB file is wanted")
        with path.open("rb") as file:
            head = file.read(len(HDF5_SIGNATURE))
    except FileNotFoundError as error:
        raise RecordingError(str(path), "there is no such file") from error
    except PermissionError as error:
        raise RecordingError(
            str(path), "the file may not be read; check its permissions and its folder's"
        ) from error
    except (OSError, ValueError) as error:
        raise RecordingError(str(path), f"the file cannot be opened: {error}") from error
    if not head:
        raise RecordingError(str(path), "the file is empty")
    if head != HDF5_SIGNATURE and not h5py.is_hdf5(path):
        raise RecordingError(
            str(path), f"it is not an HDF5 file, so not NWB 2 either: it begins with {head!r}"
        )


def _damage(error: Exception) -> str:
    text = library_text(error)
    return (
        explained(text)
        or f"the file cannot be read: {text}. It may be damaged; copy or download it again."
    )


def _is_from_h5py(error: Exception) -> bool:
    *_, last = traceback.walk_tb(error.__traceback__)
    return "h5py" in last[0].f_code.co_filename


def _units_group(file: h5py.File, path: str) -> h5py.Group:
    old = _old_version(file)
    if old:
        raise RecordingError(
            path,
            f"it is an NWB 1.x file (nwb_version {old!r}); NWB 2 is wanted. Convert it, or "
            "fetch the NWB 2 release of the data set.",
        )
    group = follow(file, "units")
    if not isinstance(group, h5py.Group):
        found = ", ".join(sorted(map(str, file))) or "nothing"
        raise RecordingError(
            path,
            f"it has no units table, so no sorted spikes; it has {found}. In the Allen data "
            "the spikes are in the session file, not in the probe (LFP) files.",
        )
    return group


def _old_version(file: h5py.File) -> str:
    """Return the version of an NWB 1 file, which keeps it in a data set; empty for NWB 2."""
    in_dataset = read_text(file, "nwb_version")
    if in_dataset:
        return in_dataset
    version = file.attrs.get("nwb_version", "")
    text = version.decode("utf-8", "replace") if isinstance(version, bytes) else str(version)
    return text if text.removeprefix("NWB-").startswith(("0.", "1.")) else ""


def _id_problems(unit_ids: Sequence[str]) -> list[str]:
    problems = []
    twice = [unit_id for unit_id, n in Counter(unit_ids).items() if n > 1]
    if twice:
        problems.append(
            f"each unit needs an id of its own; {len(twice)} ids stand in units/id more than "
            f"once: {listed(twice)}"
        )
    too_long = [unit_id[:40] for unit_id in unit_ids if len(unit_id) > MAX_TEXT]
    if too_long:
        problems.append(
            f"a unit id may have {MAX_TEXT:,} letters; longer are {listed(too_long)} ..."
        )
    return problems


def _stem(path: str) -> str:
    name = PurePosixPath(urlsplit(path).path if is_url(path) else path).stem
    return name[:MAX_LABEL] or "recording"
