"""The whole recording sorted offline, as a laboratory does afterwards, and written as NWB."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoder_training.calibration.areas import read_areas
from encoder_training.calibration.curate import curate, signal_to_noise
from encoder_training.calibration.curation import OfflineSpikes
from encoder_training.calibration.nwb import CalibratedUnits, write_calibration_nwb
from encoder_training.calibration.offline import run_sorter
from encoder_training.calibration.presentations_file import read_shown
from stream_sources.online_sorter.template_estimation import layout_of
from stream_sources.recordings.sorting import samples_to_ns

if TYPE_CHECKING:
    from encoder_training.calibration.options import CalibrationOptions
    from evaluation.rehearsal.world import RehearsalWorld


def planted_spikes(world: RehearsalWorld, n_samples: int) -> OfflineSpikes:
    """Return the planted spikes within the first samples, as a sorting."""
    trains = [train[train < n_samples] for train in world.trains]
    sample = np.concatenate(trains)
    unit = np.repeat(np.arange(len(trains)), [len(train) for train in trains])
    order = np.lexsort((unit, sample))
    return OfflineSpikes(tuple(map(str, range(len(trains)))), sample[order], unit[order])


def sort_session(
    world: RehearsalWorld, folder: Path, options: CalibrationOptions
) -> tuple[Path, list[NDArray[np.int64]]]:
    """Sort everything with the sorter and the rules of the calibration.

    Returns the NWB file with the kept units and the presentations before the cut, and the units'
    samples.
    """
    recording, out = world.voltages, folder / "offline"
    out.mkdir()
    rate_hz = float(recording.get_sampling_frequency())
    duration_s = recording.get_num_samples() / rate_hz
    layout = layout_of(recording)
    areas = read_areas(world.areas, layout.channel_ids, layout.positions_um[:, 1])
    spikes = run_sorter(recording, options.sorter, out, seed=options.seed)
    curated = curate(recording, spikes, areas, replace(options, recording="the whole recording"))
    every = spikes.trains()
    trains = [every[row] for row in curated.rows.tolist()]
    path = out / "offline.nwb"
    write_calibration_nwb(
        path,
        CalibratedUnits(
            population=curated.templates.population,
            trains_ns=[samples_to_ns(train, rate_hz) for train in trains],
            snr=signal_to_noise(curated.templates),
            agreement=None,
            duration_s=duration_s,
        ),
        layout,
        areas,
        read_shown(world.presentations, recorded_s=duration_s, calibrated_s=duration_s),
        description=f"units of {options.sorter}; a simulated recording",
        identifier="rehearsal-offline",
    )
    return path, trains
