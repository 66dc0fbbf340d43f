"""Choose the source that reads what a path names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from contracts.errors import RecordingError
from contracts.manifest import load_manifest
from stream_sources.recordings.dandi import is_dandi
from stream_sources.recordings.nwb import NwbSource, describe_nwb
from stream_sources.recordings.recording import RecordingSource, RecordingSummary, describe
from stream_sources.recordings.remote_file import is_url
from stream_sources.recordings.sorting import SortingSource
from stream_sources.recordings.zarr_store import is_nwb_zarr


def open_source(
    path: str,
    *,
    stream: str | None = None,
    units: str = "all",
    only: Sequence[tuple[str, str]] | None = None,
    start_s: float | None = None,
    duration_s: float | None = None,
    batch_ms: float = 10.0,
    cache_dir: Path | str | None = None,
    sampling_rate_hz: float | None = None,
    tables: Sequence[str] = (),
) -> RecordingSource:
    """Open a recording: a file, an address or a Zarr as NWB, another folder as a sorting.

    Parameters
    ----------
    path : str
        NWB 2 file or NWB in Zarr, ``http(s)://`` address of one or ``dandi:DANDISET/PATH``, or
        folder of a sorter.
    stream : str, optional
        Name of the stream; by default ``nwb`` or ``sorting``.
    units : str
        Which units, as in `parse_units`.
    only : sequence of (probe, unit_id), optional
        Exactly these units in this order.
    sampling_rate_hz : float, optional
        For Kilosort folders without ``params.py``.
    tables : sequence of str
        More tables of presentations, as in `NwbSource`; a sorting has none.

    Raises
    ------
    RecordingError
        If the path names nothing that can be replayed.
    """
    kind = kind_of(path)
    if "://" in path and not is_url(path):
        raise RecordingError(
            path,
            "an address must begin with http:// or https:// (for S3, give the https one), or be "
            "dandi:DANDISET/PATH",
        )
    if kind == "sorting":
        return SortingSource(
            path,
            stream=stream or kind,
            units=units,
            only=only,
            start_s=start_s,
            duration_s=duration_s,
            batch_ms=batch_ms,
            sampling_rate_hz=sampling_rate_hz,
        )
    return NwbSource(
        path,
        stream=stream or kind,
        units=units,
        only=only,
        start_s=start_s,
        duration_s=duration_s,
        batch_ms=batch_ms,
        cache_dir=cache_dir,
        tables=tables,
    )


def summarise(
    path: str,
    *,
    units: str = "all",
    only: Sequence[tuple[str, str]] | None = None,
    reads_spikes: bool | None = None,
) -> RecordingSummary:
    """Say what a recording holds; parameters as in `open_source`.

    Spike times are read and checked if `reads_spikes`, by default unless they are behind http(s).

    Raises
    ------
    RecordingError
        If it cannot be read.
    """
    if reads_spikes is None:
        reads_spikes = not is_remote(path)
    if not reads_spikes and kind_of(path) == "nwb":
        return describe_nwb(path, units=units, only=only)
    source = open_source(path, units=units, only=only)
    try:
        return describe(source)
    finally:
        source.close()


def kind_of(path: str) -> Literal["nwb", "sorting"]:
    """Say what a path names: a folder is a sorting unless it is NWB in Zarr; all else is NWB."""
    is_folder = not is_remote(path) and Path(path).is_dir()
    return "sorting" if is_folder and not is_nwb_zarr(Path(path)) else "nwb"


def is_remote(path: str) -> bool:
    """Return whether a recording is behind http(s)."""
    return is_url(path) or is_dandi(path)


def units_of(bundle: Path | None) -> list[tuple[str, str]] | None:
    """Return (probe, unit_id) of a bundle's units, in its order; None for no bundle."""
    if bundle is None:
        return None
    manifest = load_manifest(bundle, check_hashes=False)
    return [unit.key for unit in manifest.population.units]
