"""A spike sorter's output as a source: a Kilosort folder, or any SpikeInterface sorting.

Kilosort's own files are read with numpy alone, so that every spike is sent: loaders made for
curation leave clusters out. Sample numbers become nanoseconds with one rounding.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S
from contracts.errors import RecordingError, listed
from contracts.population import MAX_UNITS, Population, Unit
from stream_sources.recordings.recording import Play, Recording, RecordingSource, check_play
from stream_sources.recordings.trains import SpikeTrains
from stream_sources.recordings.unit_filter import UnitTable, choose_units, parse_units

logger = logging.getLogger(__name__)

NEUROPIXELS_HZ = 30_000.0
"""Nominal sampling rate of the action potential band (Neuropixels 1.0 manual)."""

STRETCH_SAMPLES = 1 << 20
"""Samples counted from one exact point: within it float64 is good to 1e-9 ns."""

CLUSTER_FILES = ("spike_clusters.npy", "spike_templates.npy")
"""Phy's curated clusters, and in their absence Kilosort's own."""

QUALITY_FILES = ("cluster_group.tsv", "cluster_KSLabel.tsv", "cluster_groups.csv")
"""A person's word before the sorter's."""

SAVED_MARKS = (
    "si_folder.json", "spikeinterface_info.json", "spikeinterface_log.json", "waveforms",
    "cached.json", "cached.pkl", "cached.pickle", ".zgroup", "zarr.json",
)  # fmt: skip
"""What SpikeInterface leaves in the folders that it saves (its ``core/loading.py``)."""

SAMPLE_RATE = re.compile(r"^\s*sample_rate\s*=\s*([0-9.eE+]+)", re.MULTILINE)
"""The line of phy's ``params.py`` that is needed; the file is read, never run."""

QUALITY_PROPERTIES = ("quality", "KSLabel")
AREA_PROPERTIES = ("brain_area", "area", "location")
PROBE_PROPERTIES = ("probe", "probe_name", "group")


class SortingSource(RecordingSource):
    """Replays a sorting as one stream. Session time zero is sample zero.

    Parameters
    ----------
    sorting : Path, str or spikeinterface.BaseSorting
        A phy or Kilosort folder, a folder that SpikeInterface wrote, or a sorting in memory.
    sampling_rate_hz : float, optional
        For Kilosort folders without ``params.py``; by default 30 kHz, with a warning in the log.

    Raises
    ------
    RecordingError
        With every problem found.
    """

    def __init__(
        self,
        sorting: Any,
        *,
        stream: str = "sorting",
        units: str = "all",
        only: Sequence[tuple[str, str]] | None = None,
        start_s: float | None = None,
        duration_s: float | None = None,
        batch_ms: float = 10.0,
        sampling_rate_hz: float | None = None,
    ) -> None:
        play = Play(stream, start_s, duration_s, batch_ms)
        path = str(sorting) if isinstance(sorting, str | Path) else "sorting in memory"
        problems = check_play(play)
        if problems:
            raise RecordingError(path, problems)
        parse_units(units)
        if not isinstance(sorting, str | Path):
            spikes, table = _from_sorting(sorting, path)
        elif is_kilosort_folder(Path(sorting)):
            spikes, table = _from_kilosort(Path(sorting), sampling_rate_hz)
        else:
            spikes, table = _from_sorting(_load(Path(sorting)), path)
        super().__init__(_recording(path, spikes, table, units, only), play)


def is_kilosort_folder(folder: Path) -> bool:
    """Return whether a folder holds what Kilosort and phy write."""
    return (folder / "spike_times.npy").is_file()


def samples_to_ns(sample: NDArray[np.int64], rate_hz: float) -> NDArray[np.int64]:
    """Return sample numbers as nanoseconds, each rounded once from its exact time.

    The rate is taken as the fraction that the float is. A stretch of samples begins at a time
    that is computed exactly; what a sample adds to it is small.

    `sample` counts from session time zero.
    """
    period_ns = NS_PER_S / Fraction(rate_hz)
    stretch, rest = np.divmod(sample, STRETCH_SAMPLES)
    changes = np.flatnonzero(np.diff(stretch, prepend=stretch[:1] - 1))
    present = np.unique(stretch[changes])
    begins = [number * STRETCH_SAMPLES * period_ns for number in present.tolist()]
    whole_ns = np.array([math.floor(begin) for begin in begins], dtype=np.int64)
    part_ns = np.array([float(begin % 1) for begin in begins])
    which = np.searchsorted(present, stretch)
    beyond = part_ns[which] + rest * float(period_ns % 1)
    session_ns: NDArray[np.int64] = (
        whole_ns[which] + rest * math.floor(period_ns) + np.rint(beyond).astype(np.int64)
    )
    return session_ns


class _Spikes:
    """Every spike of a sorting: when, and whose."""

    def __init__(self, time_ns: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        self.time_ns = time_ns
        self.row = row


def _recording(
    path: str,
    spikes: _Spikes,
    table: UnitTable,
    units: str,
    only: Sequence[tuple[str, str]] | None,
) -> Recording:
    rows = choose_units(table, units, only, path=path)
    order = np.lexsort((spikes.time_ns, spikes.row))  # unit by unit, each in order of time
    stop = np.cumsum(np.bincount(spikes.row, minlength=len(table.units)))
    start = stop - np.diff(stop, prepend=0)
    return Recording(
        path=path,
        label=f"sorting:{Path(path).resolve().name if path != 'sorting in memory' else 'memory'}",
        identifier="",
        population=Population([table.units[row] for row in rows.tolist()]),
        trains=SpikeTrains(
            spikes.time_ns[order],
            start[rows].astype(np.int64),
            stop[rows].astype(np.int64),
        ),
    )


def _from_kilosort(folder: Path, sampling_rate_hz: float | None) -> tuple[_Spikes, UnitTable]:
    samples, clusters = _kilosort_arrays(folder)
    rate_hz = _kilosort_rate(folder, sampling_rate_hz)
    ids, row = np.unique(clusters, return_inverse=True)
    quality = _kilosort_quality(folder)
    units = tuple(
        Unit(str(unit_id), quality=quality.get(str(unit_id), "")) for unit_id in ids.tolist()
    )
    _check_units(units, str(folder))
    time_ns = samples_to_ns(_within_clock(samples, rate_hz, str(folder)), rate_hz)
    return _Spikes(time_ns, row.astype(np.int64)), UnitTable(units, {})


def _kilosort_arrays(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
        raise RecordingError(str(folder), problems)
    problems += _order_problems(samples)
    clusters = _whole_numbers(folder / cluster_file, problems)
    if not problems and len(samples) != len(clusters):
        problems.append(
            f"spike_times.npy and {cluster_file} must have one entry for each spike, got "
            f"{len(samples):,} and {len(clusters):,}"
        )
    if problems:
        raise RecordingError(str(folder), problems)
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


def _kilosort_rate(folder: Path, sampling_rate_hz: float | None) -> float:
    """Return the sampling rate: from params.py, the caller, or Neuropixels.

    Raises
    ------
    RecordingError
        If it is no rate, or the two disagree.
    """
    params = folder / "params.py"
    found = SAMPLE_RATE.search(params.read_text("utf-8", "replace")) if params.is_file() else None
    in_file = _to_float(found[1]) if found else None
    if in_file is None and sampling_rate_hz is None:
        logger.warning(
            "sampling rate unknown",
            extra={
                "folder": str(folder),
                "assumed_hz": NEUROPIXELS_HZ,
                "reason": "no_params_py",
            },
        )
        return NEUROPIXELS_HZ
    if in_file is not None and sampling_rate_hz not in {None, in_file}:
        raise RecordingError(
            str(folder),
            [
                f"params.py says {in_file} samples per second and sampling_rate_hz says "
                f"{sampling_rate_hz}; leave the latter out, or correct params.py"
            ],
        )
    return _check_rate(sampling_rate_hz if in_file is None else in_file, str(folder))


def _kilosort_quality(folder: Path) -> dict[str, str]:
    """Return the quality of each cluster; a later file fills what an earlier one leaves open."""
    quality: dict[str, str] = {}
    for name in QUALITY_FILES:
        path = folder / name
        if path.is_file():
            rows = csv.reader(path.read_text("utf-8", "replace").splitlines(), delimiter="\t")
            labels = {row[0]: row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
            quality = {**labels, **quality}
    return quality


def _load(folder: Path) -> Any:
    """Load a folder that SpikeInterface wrote.

    Raises
    ------
    RecordingError
        If it is none, or holds no sorting.
    """
    import spikeinterface

    if not folder.exists():
        raise RecordingError(str(folder), ["there is no such folder"])
    try:
        loaded = spikeinterface.load(folder)
    except Exception as error:  # its loaders raise whatever the format's reader does
        problem = (
            f"SpikeInterface saved it and cannot load it: {error}"
            if any((folder / mark).exists() for mark in SAVED_MARKS)
            else "it is no Kilosort or phy folder (no spike_times.npy) and not one that "
            "SpikeInterface has saved"
        )
        raise RecordingError(str(folder), [problem]) from error
    return getattr(loaded, "sorting", loaded)  # an analyzer holds a sorting


def _from_sorting(sorting: Any, path: str) -> tuple[_Spikes, UnitTable]:
    import spikeinterface

    if not isinstance(sorting, spikeinterface.BaseSorting):
        raise RecordingError(
            path, [f"a sorting is wanted, got {type(sorting).__name__}; sort the recording first"]
        )
    if sorting.get_num_segments() != 1:
        raise RecordingError(
            path,
            [
                f"it has {sorting.get_num_segments()} segments and a stream has one clock; "
                "choose one with select_segments"
            ],
        )
    rate_hz = _check_rate(float(sorting.get_sampling_frequency()), path)
    units = _sorting_units(sorting)
    _check_units(units, path)
    vector = sorting.to_spike_vector()
    samples = _within_clock(vector["sample_index"].astype(np.int64), rate_hz, path)
    spikes = _Spikes(samples_to_ns(samples, rate_hz), vector["unit_index"].astype(np.int64))
    return spikes, UnitTable(units, {})


def _sorting_units(sorting: Any) -> tuple[Unit, ...]:
    n_units = sorting.get_num_units()

    def labels(names: Sequence[str]) -> list[str]:
        for name in names:
            if name in sorting.get_property_keys():
                return [str(value) for value in sorting.get_property(name)]
        return [""] * n_units

    columns = (
        [str(unit_id) for unit_id in sorting.unit_ids],
        labels(PROBE_PROPERTIES),
        labels(AREA_PROPERTIES),
        labels(("cell_type",)),
        labels(QUALITY_PROPERTIES),
    )
    return tuple(Unit(*values) for values in zip(*columns, strict=True))


def _check_units(units: Sequence[Unit], path: str) -> None:
    if not 1 <= len(units) <= MAX_UNITS:
        raise RecordingError(path, [f"1 to {MAX_UNITS:,} units can be sent, got {len(units):,}"])
    if len({unit.key for unit in units}) != len(units):
        raise RecordingError(path, ["each unit id must be unique within its probe"])


def _check_rate(rate_hz: float | None, path: str) -> float:
    if rate_hz is None or not 1.0 <= rate_hz <= 1e6:
        raise RecordingError(
            path, [f"the sampling rate must be from 1 to 1e6 samples per second, got {rate_hz}"]
        )
    return rate_hz


def _within_clock(samples: NDArray[np.int64], rate_hz: float, path: str) -> NDArray[np.int64]:
    limit = int(MAX_SESSION_NS // NS_PER_S * rate_hz)
    if samples.size and (int(samples.min()) <= -limit or int(samples.max()) >= limit):
        raise RecordingError(
            path, [f"sample numbers must be below {limit:,}, got up to {int(samples.max()):,}"]
        )
    return samples


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
