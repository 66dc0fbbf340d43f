"""Kilosort's own files, read with numpy alone, so that every spike is sent.

Loaders made for curation leave clusters out.
"""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed
from contracts.population import Unit

logger = logging.getLogger(__name__)

NEUROPIXELS_HZ = 30_000.0
"""Nominal sampling rate of the action potential band (Neuropixels 1.0 manual)."""

CLUSTER_FILES = ("spike_clusters.npy", "spike_templates.npy")
"""Phy's curated clusters, and in their absence Kilosort's own."""

QUALITY_FILES = ("cluster_group.tsv", "cluster_KSLabel.tsv", "cluster_groups.csv")
"""A person's label before the sorter's."""

SAMPLE_RATE = re.compile(r"^\s*sample_rate\s*=\s*([0-9.eE+]+)", re.MULTILINE)
"""The line of phy's ``params.py`` that is needed; the file is read, never run."""


class SorterOutput(NamedTuple):
    """Every spike of a sorting, as the sorter counts, and its units."""

    sample: NDArray[np.int64]
    """Shape (n_spikes,), from session time zero."""
    row: NDArray[np.int64]
    """Shape (n_spikes,), row of each spike's unit in `units`."""
    units: tuple[Unit, ...]
    rate_hz: float | None


def is_kilosort_folder(folder: Path) -> bool:
    """Return whether a folder holds what Kilosort and phy write."""
    return (folder / "spike_times.npy").is_file()


def read_kilosort(folder: Path, sampling_rate_hz: float | None) -> SorterOutput:
    """Read a folder; the given rate counts where it has no ``params.py``.

    Raises
    ------
    RecordingError
        With all that is wrong with the files, or if two rates disagree.
    """
    samples, clusters = _arrays(folder)
    rate_hz = _sampling_rate(folder, sampling_rate_hz)
    ids, row = np.unique(clusters, return_inverse=True)
    quality = _quality(folder)
    units = tuple(
        Unit(str(unit_id), quality=quality.get(str(unit_id), "")) for unit_id in ids.tolist()
    )
    return SorterOutput(samples, row.astype(np.int64), units, rate_hz)


def _arrays(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the sample and the cluster of each spike.

    Raises
    ------
    RecordingError
        With all that is wrong with the two files.
    """
    cluster_file = next((name for name in CLUSTER_FILES if (folder / name).is_file()), None)
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
    """Read one column of whole numbers, or say what is wrong with it."""
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


def _sampling_rate(folder: Path, sampling_rate_hz: float | None) -> float | None:
    """Return the sampling rate: from params.py, the caller, or Neuropixels.

    Raises
    ------
    RecordingError
        If the two disagree.
    """
    params = folder / "params.py"
    found = SAMPLE_RATE.search(params.read_text("utf-8", "replace")) if params.is_file() else None
    in_file = _to_float(found[1]) if found else None
    if in_file is None and sampling_rate_hz is None:
        logger.warning(
            "sampling rate unknown",
            extra={"folder": str(folder), "assumed_hz": NEUROPIXELS_HZ, "reason": "no_params_py"},
        )
        return NEUROPIXELS_HZ
    if in_file is not None and sampling_rate_hz not in {None, in_file}:
        raise RecordingError(
            str(folder),
            f"params.py says {in_file} samples per second and sampling_rate_hz says "
            f"{sampling_rate_hz}; leave the latter out, or correct params.py",
        )
    return sampling_rate_hz if in_file is None else in_file


def _quality(folder: Path) -> dict[str, str]:
    """Return the quality of each cluster; a later file fills what an earlier one leaves open."""
    quality: dict[str, str] = {}
    for name in QUALITY_FILES:
        path = folder / name
        if path.is_file():
            rows = csv.reader(path.read_text("utf-8", "replace").splitlines(), delimiter="\t")
            labels = {row[0]: row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
            quality = {**labels, **quality}
    return quality


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
