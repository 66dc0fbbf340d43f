"""The offline sorting of the calibrated minutes: made by a sorter, or read from a folder."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ChildError, DependencyError, RecordingError, UserError, listed, shown
from contracts.progress import elapsed_progress
from encoder_training.calibration.curation import OfflineSpikes
from encoder_training.calibration.sorter_process import SorterError, run_in_process
from stream_sources.online_sorter.templates import RATE_TOLERANCE
from stream_sources.recordings.sorting import read_sorting

OFFLINE = "offline"
"""Folder of the offline sorting."""

WORK = "sorter"
"""Folder of the sorter's own files, removed when its spikes are kept."""

ERROR_LINE = re.compile(r"[A-Za-z_.]*(Error|Exception)\b")
"""Of a Python trace."""


def check_sorter(name: str) -> None:
    """Refuse a sorter that SpikeInterface does not know, or that is not installed.

    Raises
    ------
    UserError
        If there is none of that name.
    DependencyError
        If it is not installed.
    """
    from spikeinterface.sorters import available_sorters, installed_sorters
    from spikeinterface.sorters.sorterlist import sorter_dict

    if name not in available_sorters():
        raise UserError(
            f"--sorter must be one that SpikeInterface runs, got {name!r}. Installed are "
            f"{listed(installed_sorters())}."
        )
    if not sorter_dict[name].is_installed():
        raise DependencyError(
            f"the sorter {name} is not installed; installed are {listed(installed_sorters())}. "
            f"Install it (python -m pip install {name}), name one of those with --sorter, or give "
            "a finished sorting with --sorting."
        )


def run_sorter(recording: Any, sorter: str, folder: Path, *, seed: int) -> OfflineSpikes:
    """Sort a recording; what the sorter writes lies in `folder` until the end.

    Raises
    ------
    ChildError
        If the sorter ends with an error.
    RecordingError
        If it finds no unit.
    """
    from spikeinterface.sorters import get_default_sorter_params

    work = folder / WORK
    shutil.rmtree(work, ignore_errors=True)  # of a command that was interrupted
    work.mkdir()
    known = get_default_sorter_params(sorter)
    parameters: dict[str, Any] = {"seed": seed} if "seed" in known else {}
    if "job_kwargs" in known:
        n_cores = len(os.sched_getaffinity(0))
        parameters["job_kwargs"] = {"n_jobs": n_cores, "chunk_duration": "1s"}
    try:
        with elapsed_progress(f"sorting with {sorter}", "minute"):
            spikes = _of_vector(run_in_process(recording, sorter, work, parameters))
    except SorterError as error:
        raise ChildError(
            f"the sorter {sorter} ended with an error: {_reason(str(error))}. Its log is in "
            f"{work}. Try another --sorter, or give a finished sorting with --sorting."
        ) from error
    if not len(spikes.unit_ids):
        raise RecordingError(str(folder), f"the sorter {sorter} found no unit in these minutes")
    shutil.rmtree(work, ignore_errors=True)
    return spikes


def read_offline(folder: Path, recording: Any, *, n_recorded: int) -> OfflineSpikes:
    """Read the spikes of a finished sorting that lie within the first minutes of a recording.

    Parameters
    ----------
    recording : spikeinterface.BaseRecording
        The minutes.
    n_recorded : int
        Samples of the whole recording.

    Raises
    ------
    RecordingError
        If it cannot be read, has another sampling rate, goes on after the recording, or has no
        spike in it.
    """
    found = read_sorting(folder)
    rate_hz, n_samples = recording.get_sampling_frequency(), recording.get_num_samples()
    if abs(found.rate_hz / rate_hz - 1) > RATE_TOLERANCE:
        raise RecordingError(
            str(folder),
            f"its sampling rate is {found.rate_hz:g} Hz ({found.rate_from}), and that of the "
            f"recording {rate_hz:g} Hz: name the sorting of this recording",
        )
    if (n_after := int((found.sample >= n_recorded).sum())) > 0:
        raise RecordingError(
            str(folder),
            f"its last spike is at {int(found.sample.max()) / rate_hz:.3f} s, and the recording "
            f"lasts {n_recorded / rate_hz:.3f} s: {n_after:,} of its {len(found.sample):,} spikes "
            "come after it. Name the sorting of this recording",
        )
    is_inside = (found.sample >= 0) & (found.sample < n_samples)
    if not is_inside.any():
        raise RecordingError(
            str(folder),
            f"none of its {len(found.sample):,} spikes lies in the {n_samples / rate_hz:g} s that "
            "are calibrated on",
        )
    sample, unit = found.sample[is_inside], found.row[is_inside]
    order = np.lexsort((unit, sample))
    names = tuple(unit.unit_id for unit in found.units)
    return OfflineSpikes(names, sample[order], unit[order])


def save_offline(spikes: OfflineSpikes, rate_hz: float, folder: Path) -> None:
    """Write the spikes to the calibration's folder, as a sorting that SpikeInterface loads."""
    partial = folder / f".{OFFLINE}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a command that was interrupted
    shutil.rmtree(folder / OFFLINE, ignore_errors=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)  # of a sorter that failed before
    sorting = sorting_of(spikes, rate_hz).rename_units(list(spikes.unit_ids))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was made in memory
        sorting.save(folder=partial, format="numpy_folder")
    partial.rename(folder / OFFLINE)


def load_offline(folder: Path) -> OfflineSpikes:
    """Read what `save_offline` wrote."""
    found = read_sorting(folder / OFFLINE)
    return OfflineSpikes(tuple(unit.unit_id for unit in found.units), found.sample, found.row)


def sorting_of(spikes: OfflineSpikes, rate_hz: float) -> Any:
    """Return the spikes as a sorting of SpikeInterface, whose ids are 0, 1, 2, ..."""
    from spikeinterface.core import NumpySorting

    return NumpySorting.from_samples_and_labels(
        [spikes.sample], [spikes.unit], rate_hz, unit_ids=np.arange(len(spikes.unit_ids))
    )


def _reason(printed: str) -> str:
    """Return the last error in what a sorter has printed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    named = [line for line in lines if ERROR_LINE.match(line)]
    text = (named or lines or ["it printed nothing"])[-1]
    return shown(text.rstrip("."), limit=300)


def _of_vector(sorting: Any) -> OfflineSpikes:
    vector = sorting.to_spike_vector()
    return OfflineSpikes(
        tuple(str(name) for name in sorting.unit_ids),
        vector["sample_index"].astype(np.int64),
        vector["unit_index"].astype(np.int64),
    )
