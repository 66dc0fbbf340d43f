"""A spike sorter's output as a source: a Kilosort folder, or any SpikeInterface sorting.

Sample numbers become nanoseconds with one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S
from contracts.errors import RecordingError, listed
from contracts.population import MAX_UNITS, Population, Unit
from contracts.selection_text import shown
from contracts.wire_header import MAX_TEXT
from stream_sources.recordings.cluster_labels import UNSORTED
from stream_sources.recordings.kilosort import SorterOutput, is_kilosort_folder, read_kilosort
from stream_sources.recordings.labels import UNKNOWN, known_numbers, label_text, table_text
from stream_sources.recordings.pickles import refuse_pickles
from stream_sources.recordings.recording import Play, Recording, RecordingSource, check_request
from stream_sources.recordings.trains import SpikeTrains
from stream_sources.recordings.unit_filter import UnitTable, choose_units

IN_MEMORY = "sorting in memory"
"""Stands for the path of a sorting that is in no folder."""

BLOCK_SAMPLES = 1 << 20
"""Samples counted from one exact point: within it float64 is good to 1e-9 ns."""

SAVED_MARKS = (
    "si_folder.json", "spikeinterface_info.json", "spikeinterface_log.json", "waveforms",
    "cached.json", "cached.pkl", "cached.pickle", ".zgroup", "zarr.json",
)  # fmt: skip
"""What SpikeInterface leaves in the folders that it saves (its ``core/loading.py``)."""

QUALITY_PROPERTIES = ("quality", "KSLabel")
AREA_PROPERTIES = ("brain_area", "area", "location")
POSITIONS = {
    "channel": ("ch", "channel"),
    "depth_um": ("depth_um", "depth"),
    "x_um": (),
    "y_um": (),
}
"""Properties with the numbers of a unit: ``ch`` and ``depth``, in micrometers, are phy's."""
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
        path = str(sorting) if isinstance(sorting, str | Path) else IN_MEMORY
        check_request(path, play, units)
        spikes = read_sorting(sorting, sampling_rate_hz)
        super().__init__(_recording(path, spikes, units, only), play)


def units_of_sorting(sorting: Any) -> tuple[Unit, ...]:
    """Return the units of a SpikeInterface sorting, with the labels that it has.

    Raises
    ------
    RecordingError
        If it is no sorting, or has several segments.
    """
    return _from_sorting(sorting, IN_MEMORY).units


def read_sorting(sorting: Any, sampling_rate_hz: float | None = None) -> SorterOutput:
    """Return every spike of a sorting, in samples.

    `sorting` and `sampling_rate_hz` are as for `SortingSource`.

    Raises
    ------
    RecordingError
        With every problem found.
    """
    if not isinstance(sorting, str | Path):
        return _from_sorting(sorting, IN_MEMORY)
    if is_kilosort_folder(Path(sorting)):
        return read_kilosort(Path(sorting), sampling_rate_hz)
    return _from_sorting(_load(Path(sorting)), str(sorting))


def samples_to_ns(sample: NDArray[np.int64], rate_hz: float) -> NDArray[np.int64]:
    """Return sample numbers as nanoseconds, each rounded once from its exact time.

    The rate is taken as the fraction that the float is. A block of samples begins at a time
    that is computed exactly; what a sample adds to it is small.

    `sample` counts from session time zero.
    """
    period_ns = NS_PER_S / Fraction(rate_hz)
    block, rest = np.divmod(sample, BLOCK_SAMPLES)
    changes = np.flatnonzero(np.diff(block, prepend=block[:1] - 1))
    present = np.unique(block[changes])
    begins = [number * BLOCK_SAMPLES * period_ns for number in present.tolist()]
    whole_ns = np.array([math.floor(begin) for begin in begins], dtype=np.int64)
    part_ns = np.array([float(begin % 1) for begin in begins])
    which = np.searchsorted(present, block)
    beyond = part_ns[which] + rest * float(period_ns % 1)
    session_ns: NDArray[np.int64] = (
        whole_ns[which] + rest * math.floor(period_ns) + np.rint(beyond).astype(np.int64)
    )
    return session_ns


def ns_to_samples(time_ns: NDArray[np.int64], rate_hz: float) -> NDArray[np.int64]:
    """Return the sample nearest to each time: the inverse of `samples_to_ns`."""
    samples: NDArray[np.int64] = np.rint(time_ns * (rate_hz / NS_PER_S)).astype(np.int64)
    return samples


def _recording(
    path: str, spikes: SorterOutput, units: str, only: Sequence[tuple[str, str]] | None
) -> Recording:
    rate_hz = _checked_rate(spikes.rate_hz, path, spikes.rate_from)
    _check_units(spikes.units, path)
    time_ns = samples_to_ns(_within_clock(spikes.sample, rate_hz, path), rate_hz)
    rows = choose_units(UnitTable(spikes.units, {}), units, only, path=path)
    order = _unit_by_unit(spikes.row, time_ns, len(spikes.units))
    stop = np.cumsum(np.bincount(spikes.row, minlength=len(spikes.units)))
    start = stop - np.diff(stop, prepend=0)
    return Recording(
        path=path,
        label=f"sorting:{shown(Path(path).resolve().name) if path != IN_MEMORY else 'memory'}",
        identifier="",
        population=Population([spikes.units[row] for row in rows.tolist()]),
        trains=SpikeTrains(
            time_ns[order], start[rows].astype(np.int64), stop[rows].astype(np.int64)
        ),
        areas_from=spikes.areas_from,
        probes_from=spikes.probes_from,
        table=table_text(
            spikes.made,
            {"area": spikes.areas_from, "probe": spikes.probes_from, **spikes.positions_from},
        ),
        sampling_rate=f"{rate_hz:,.6g} Hz ({spikes.rate_from})",
        notes=spikes.notes,
    )


def _unit_by_unit(
    row: NDArray[np.int64], time_ns: NDArray[np.int64], n_units: int
) -> NDArray[np.intp]:
    """Return the order of the spikes unit by unit, each in order of time."""
    if n_units > 1 << 16 or (np.diff(time_ns) < 0).any():
        return np.lexsort((time_ns, row))
    # NumPy's stable sort of 16-bit numbers takes linear time.
    return np.argsort(row.astype(np.uint16), kind="stable")


def _load(folder: Path) -> Any:
    """Load a folder that SpikeInterface wrote.

    Raises
    ------
    RecordingError
        If it is none, holds no sorting, or is or holds a pickle.
    """
    import spikeinterface

    if not folder.exists():
        raise RecordingError(str(folder), "there is no such folder")
    # What the extensions of an analyzer have computed is not needed, and may be pickles.
    refuse_pickles(folder, besides=("extensions",))
    try:
        loaded = spikeinterface.load(folder, **_load_options(folder))
    except Exception as error:  # its loaders raise whatever the format's reader does
        problem = (
            f"SpikeInterface saved it and cannot load it: {error}"
            if any((folder / mark).exists() for mark in SAVED_MARKS)
            else "it is no Kilosort or phy folder (no spike_times.npy) and not one that "
            "SpikeInterface has saved"
        )
        raise RecordingError(str(folder), problem) from error
    return getattr(loaded, "sorting", loaded)  # an analyzer holds a sorting


def _load_options(folder: Path) -> dict[str, bool]:
    """Return what `spikeinterface.load` may be given.

    Its reader of recordings and sortings in Zarr refuses the option that spares an analyzer its
    extensions, where others pass over it.
    """
    attributes = folder / ".zattrs"
    is_analyzer = attributes.is_file() and b'"spikeinterface_info"' in attributes.read_bytes()
    return {} if folder.suffix == ".zarr" and not is_analyzer else {"load_extensions": False}


def _from_sorting(sorting: Any, path: str) -> SorterOutput:
    import spikeinterface

    if not isinstance(sorting, spikeinterface.BaseSorting):
        raise RecordingError(
            path, f"a sorting is wanted, got {type(sorting).__name__}; sort the recording first"
        )
    if sorting.get_num_segments() != 1:
        raise RecordingError(
            path,
            f"it has {sorting.get_num_segments()} segments and a stream has one clock; "
            "choose one with select_segments",
        )
    vector = sorting.to_spike_vector()
    areas, probes = _property(sorting, AREA_PROPERTIES), _property(sorting, PROBE_PROPERTIES)
    positions = {name: _position(sorting, name, names) for name, names in POSITIONS.items()}
    columns = (
        [str(unit_id).encode("utf-8", "replace").decode() for unit_id in sorting.unit_ids],
        probes.labels,
        areas.labels,
        _property(sorting, ("cell_type",)).labels,
        _quality(sorting),
        *(values for values, _ in positions.values()),
    )
    return SorterOutput(
        vector["sample_index"].astype(np.int64),
        vector["unit_index"].astype(np.int64),
        tuple(Unit(*values) for values in zip(*columns, strict=True)),
        float(sorting.get_sampling_frequency()),
        "of the sorting",
        areas.name,
        probes.name,
        "SpikeInterface sorting",
        {name: source for name, (_, source) in positions.items() if source},
    )


def _position(sorting: Any, name: str, names: Sequence[str]) -> tuple[list[Any], str]:
    """Return a number of each unit, None where unknown, and the property that it is from."""
    for source in names:
        column = sorting.get_property(source)
        if column is None or column.ndim != 1 or column.dtype.kind not in "iuf":
            continue
        values = known_numbers(name, column)
        if any(value is not None for value in values):
            return values, source
    return [None] * sorting.get_num_units(), ""


class _Property(NamedTuple):
    """A property of the units, as labels; all are empty if there is no such property."""

    name: str
    labels: list[str]


def _properties(sorting: Any, names: Sequence[str]) -> list[_Property]:
    """Return those of the named properties that the sorting has; None and NaN are no label."""
    values = {name: sorting.get_property(name) for name in names}
    return [
        _Property(name, [label_text(value) for value in column])
        for name, column in values.items()
        if column is not None and column.ndim == 1  # a "location" may also be coordinates
    ]


def _property(sorting: Any, names: Sequence[str]) -> _Property:
    """Return the first property with a known label, or else the first that the sorting has."""
    present = _properties(sorting, names)
    known = (one for one in present if any(map(_is_known, one.labels)))
    return next(known, next(iter(present), _Property("", [""] * sorting.get_num_units())))


def _quality(sorting: Any) -> list[str]:
    """Combine labels of quality unit by unit, as phy does: a person's before the sorter's."""
    columns = [one.labels for one in _properties(sorting, QUALITY_PROPERTIES)]
    return [
        next((label for label in labels if _is_known(label)), next(filter(None, labels), ""))
        for labels in zip(*columns, [""] * sorting.get_num_units(), strict=True)
    ]


def _is_known(label: str) -> bool:
    return label.casefold() not in {"", UNKNOWN, UNSORTED}


def _check_units(units: Sequence[Unit], path: str) -> None:
    if not 1 <= len(units) <= MAX_UNITS:
        raise RecordingError(path, f"1 to {MAX_UNITS:,} units can be sent, got {len(units):,}")
    too_long = [unit.unit_id[:40] for unit in units if len(unit.unit_id) > MAX_TEXT]
    if too_long:
        raise RecordingError(
            path, f"a unit id may have {MAX_TEXT:,} letters; longer are {listed(too_long)} ..."
        )
    if len({unit.key for unit in units}) != len(units):
        raise RecordingError(path, "each unit id must be unique within its probe")


def _checked_rate(rate_hz: float, path: str, source: str) -> float:
    if not 1.0 <= rate_hz <= 1e6:
        raise RecordingError(
            path,
            f"the sampling rate must be from 1 to 1e6 samples per second, got {rate_hz} ({source})",
        )
    return rate_hz


def _within_clock(samples: NDArray[np.int64], rate_hz: float, path: str) -> NDArray[np.int64]:
    limit = int(MAX_SESSION_NS // NS_PER_S * rate_hz)
    if samples.size and (int(samples.min()) <= -limit or int(samples.max()) >= limit):
        raise RecordingError(
            path, f"sample numbers must be below {limit:,}, got up to {int(samples.max()):,}"
        )
    return samples
