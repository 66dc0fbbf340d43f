"""Kilosort's own files, read with numpy alone, so that every spike is sent.

Loaders made for curation leave clusters out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os.path import lexists
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed
from contracts.population import Unit
from stream_sources.recordings.cluster_labels import read_cluster_labels
from stream_sources.recordings.cluster_places import (
    INFO_FILE,
    NO_PLACE,
    PLACE_COLUMNS,
    read_cluster_places,
)
from stream_sources.recordings.params_file import ParamsError, read_rate

logger = logging.getLogger(__name__)

NEUROPIXELS_HZ = 30_000.0
"""Nominal sampling rate of the action potential band (Neuropixels 1.0 manual)."""

CLUSTER_FILES = ("spike_clusters.npy", "spike_templates.npy")
"""Phy's curated clusters, and in their absence Kilosort's own."""

MAX_COUNTED_ID = 1 << 24
"""Ids below it are counted; sorters number their clusters from 0."""


class SorterOutput(NamedTuple):
    """Every spike of a sorting, as the sorter counts, and its units."""

    sample: NDArray[np.int64]
    """Shape (n_spikes,), from session time zero."""
    row: NDArray[np.int64]
    """Shape (n_spikes,), row of each spike's unit in `units`."""
    units: tuple[Unit, ...]
    rate_hz: float
    rate_from: str
    """Where the rate is stated."""
    areas_from: str = ""
    probes_from: str = ""
    made: str = ""
    """What the unit table was made from."""
    positions_from: Mapping[str, str] = MappingProxyType({})
    """Source of the units' channel and depth, as far as they are known."""
    notes: tuple[str, ...] = ()
    """One sentence for each kind of data that could not be read."""


def is_kilosort_folder(folder: Path) -> bool:
    """Return whether a folder holds what Kilosort and phy write."""
    return (folder / "spike_times.npy").is_file()


def read_kilosort(folder: Path, sampling_rate_hz: float | None) -> SorterOutput:
    """Read a folder; `sampling_rate_hz` is used where ``params.py`` states no rate.

    Raises
    ------
    RecordingError
        With every fault of the arrays, or if two rates disagree.
    """
    samples, clusters = _arrays(folder)
    rate_hz, rate_from = _sampling_rate(folder, sampling_rate_hz)
    ids, row = _ids_and_rows(clusters)
    labels = read_cluster_labels(folder)
    places = read_cluster_places(folder)
    units = tuple(
        Unit(
            str(unit_id),
            quality=labels.label_of.get(unit_id, ""),
            **places.get(unit_id, NO_PLACE)._asdict(),
        )
        for unit_id in ids.tolist()
    )
    return SorterOutput(
        samples,
        row,
        units,
        rate_hz,
        rate_from,
        made="Kilosort or phy folder",
        positions_from={
            name: f"{INFO_FILE}, column {column}"
            for name, column in PLACE_COLUMNS.items()
            if any(getattr(unit, name) is not None for unit in units)
        },
        notes=labels.notes(),
    )


def _ids_and_rows(clusters: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids that occur, in order, and the position of each spike's id among them."""
    if not clusters.size or clusters.min() < 0 or clusters.max() >= MAX_COUNTED_ID:
        ids, row = np.unique(clusters, return_inverse=True)
        return ids, row.astype(np.int64)
    # Sorting 10^8 spikes takes a minute, counting them a second.
    ids = np.flatnonzero(np.bincount(clusters))
    row_of = np.zeros(ids[-1] + 1, dtype=np.int64)
    row_of[ids] = np.arange(len(ids))
    return ids, row_of[clusters]


def _arrays(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the sample and the cluster of each spike.

    Raises
    ------
    RecordingError
        With every fault of the two files.
    """
    # A dangling link counts as present: another file must not replace its target.
    cluster_file = next((name for name in CLUSTER_FILES if lexists(folder / name)), None)
    problems: list[str] = []
    samples = _whole_numbers(folder / "spike_times.npy", problems)
    if cluster_file is None:
        problems.append(f"it needs one of {' or '.join(CLUSTER_FILES)} beside spike_times.npy")
        raise RecordingError(str(folder), *problems)
    problems += _order_problems(samples)
    clusters = _whole_numbers(folder / cluster_file, problems)
    if not problems and len(samples) != len(clusters):
        problems.append(
            f"spike_times.npy and {cluster_file} must have one entry for each spike, got "
            f"{len(samples):,} and {len(clusters):,}"
        )
    if problems:
        raise RecordingError(str(folder), *problems)
    return samples, clusters


def _whole_numbers(path: Path, problems: list[str]) -> NDArray[np.int64]:
    """Read one column of whole numbers; if that fails, add to `problems` and return nothing."""
    nothing = np.empty(0, dtype=np.int64)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return nothing
    if values.size != max(values.shape, default=0) or values.dtype.kind not in "iuf":
        problems.append(
            f"{path.name} must be one column of whole numbers, got shape {values.shape} of "
            f"{values.dtype}"
        )
        return nothing
    values = values.ravel()
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        problems.append(
            f"{path.name} must hold sample numbers, got fractions or NaN; are they seconds?"
        )
        return nothing
    whole: NDArray[np.int64] = values.astype(np.int64)
    return whole


def _order_problems(samples: NDArray[np.int64]) -> list[str]:
    """Return what no sorter writes: samples before the recording, or earlier than the last."""
    problems = []
    negative = np.flatnonzero(samples < 0)
    if len(negative):
        problems.append(
            f"spike_times.npy must hold sample numbers from 0 on; {len(negative):,} are negative, "
            f"in positions {listed(negative.tolist())}"
        )
    falling = np.flatnonzero(np.diff(samples) < 0) + 1
    if len(falling):
        problems.append(
            f"spike_times.npy must not decrease; it does {len(falling):,} times, at positions "
            f"{listed(falling.tolist())}. Sort it together with the clusters and write both again."
        )
    return problems


def _sampling_rate(folder: Path, sampling_rate_hz: float | None) -> tuple[float, str]:
    """Return the sampling rate, and where it is from: params.py, the caller, or Neuropixels.

    Raises
    ------
    RecordingError
        If the two disagree, or params.py states a rate that cannot be read.
    """
    params = folder / "params.py"
    try:
        stated = read_rate(params) if lexists(params) else None
    except (ParamsError, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise RecordingError(str(folder), f"params.py cannot be used: {problem}") from error
    if stated is None:
        if sampling_rate_hz is None:
            return _assumed(folder, params)
        return sampling_rate_hz, "--sampling-rate-hz"
    if sampling_rate_hz not in {None, stated.hz}:
        raise RecordingError(
            str(folder),
            f"params.py says {stated.hz} samples per second and sampling_rate_hz says "
            f"{sampling_rate_hz}; leave the latter out, or correct params.py",
        )
    return stated.hz, f"params.py, line {stated.line}"


def _assumed(folder: Path, params: Path) -> tuple[float, str]:
    if lexists(params):
        reason, where = "no_rate_in_params_py", "params.py states none"
    else:
        reason, where = "no_params_py", "there is no params.py"
    logger.warning(
        "sampling rate unknown",
        extra={"folder": str(folder), "assumed_hz": NEUROPIXELS_HZ, "reason": reason},
    )
    return NEUROPIXELS_HZ, f"assumed: {where}"
