"""Voltages of a probe among simulated neurons: their spikes, with waveforms, in noise.

Everything is SpikeInterface's own generator but the spikes, which are given. No drift, no cells
beyond the probe, white noise: a sorter finds it easier than a brain.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.nwb_file import SAMPLING_HZ

PART_NUMBER = "NP1010"
"""Neuropixels 1.0: four columns, two channels every 20 um."""

NOISE_UV = 7.0
"""Of a Neuropixels 1.0 channel in the band of action potentials, about (Jun et al. 2017)."""

AMPLITUDE_UV = (60.0, 350.0)
"""At the neuron; at the nearest channel less, by its distance."""

DISTANCE_UM = (5.0, 30.0)
"""From the plane of the probe."""

MS_BEFORE, MS_AFTER = 1.0, 3.0
UPSAMPLED = 4
"""Positions of a spike between two samples."""

AMPLITUDE_SD = 0.05
"""Relative, from spike to spike of a neuron."""

UV_PER_BIT = 600_000.0 / 512 / 500
"""Of Neuropixels 1.0 at a gain of 500."""

MARGIN_UM = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class PlantedUnits:
    """Where neurons are beside a probe.

    `positions_um`, float64 of shape (n_units, 2), are across the shank and along it from the tip,
    in the order of the spikes' units.
    """

    probe: Any  # probeinterface.Probe
    positions_um: NDArray[np.float64]
    locations: NDArray[np.float64]  # (n_units, 3), with the distance from the probe's plane

    @property
    def channel_positions_um(self) -> NDArray[np.float64]:
        """Of the channels, shape (n_channels, 2)."""
        positions: NDArray[np.float64] = self.probe.contact_positions
        return positions


def plant_units(n_units: int, n_channels: int, *, seed: int) -> PlantedUnits:
    """Put neurons at random places beside the lowest channels of a probe, the deepest first."""
    from probeinterface.neuropixels_tools import build_neuropixels_probe
    from spikeinterface.core.generate import generate_unit_locations

    probe = build_neuropixels_probe(PART_NUMBER).get_slice(np.arange(n_channels))
    probe.set_device_channel_indices(np.arange(n_channels))
    locations = generate_unit_locations(
        n_units,
        probe.contact_positions,
        margin_um=MARGIN_UM,
        minimum_z=DISTANCE_UM[0],
        maximum_z=DISTANCE_UM[1],
        minimum_distance=None,
        seed=seed,
    )
    locations = locations[np.argsort(locations[:, 1], kind="stable")]
    return PlantedUnits(probe, locations[:, :2], locations)


def voltage_recording(
    planted: PlantedUnits, trains: Sequence[NDArray[np.int64]], n_samples: int, *, seed: int
) -> Any:
    """Return the voltages as a lazy recording of SpikeInterface, float32, microvolts.

    `trains` are samples of each unit at 30 kHz, in the order of `planted`.
    """
    from spikeinterface.core import NumpySorting
    from spikeinterface.core.generate import InjectTemplatesRecording, generate_templates
    from spikeinterface.generation import NoiseGeneratorRecording

    rng = np.random.default_rng([seed, 31])
    templates = generate_templates(
        planted.channel_positions_um,
        planted.locations,
        SAMPLING_HZ,
        MS_BEFORE,
        MS_AFTER,
        seed=seed,
        upsample_factor=UPSAMPLED,
        unit_params={"alpha": AMPLITUDE_UV},
    )
    sorting = NumpySorting.from_samples_and_labels(
        [np.concatenate(trains)],
        [np.repeat(np.arange(len(trains)), [len(train) for train in trains])],
        SAMPLING_HZ,
        unit_ids=np.arange(len(trains)),
    )
    n_spikes = sum(map(len, trains))
    noise = NoiseGeneratorRecording(
        planted.probe.get_contact_count(),
        SAMPLING_HZ,
        [n_samples / SAMPLING_HZ],
        noise_levels=NOISE_UV,
        seed=seed,
        strategy="on_the_fly",
    )
    recording = InjectTemplatesRecording(
        sorting,
        templates,
        nbefore=round(MS_BEFORE * SAMPLING_HZ / 1e3),
        amplitude_factor=rng.normal(1.0, AMPLITUDE_SD, n_spikes).astype(np.float32),
        parent_recording=noise,
        upsample_vector=rng.integers(0, UPSAMPLED, n_spikes),
    )
    recording.set_probe(planted.probe)
    return recording


def save_voltages(recording: Any, folder: Path, *, n_jobs: int = 1) -> Any:
    """Write voltages as 16-bit steps of the probe's converter, and return the saved recording."""
    from spikeinterface.preprocessing import scale

    steps = scale(recording, gain=1 / UV_PER_BIT, dtype="float32")
    rounded = steps.astype("int16", round=True)
    rounded.set_channel_gains(UV_PER_BIT)
    rounded.set_channel_offsets(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how it was made is kept in the seed, not in the folder
        return rounded.save(
            folder=folder,
            format="binary",
            n_jobs=n_jobs,
            pool_engine="thread",
            chunk_duration="1s",
            progress_bar=False,
            verbose=False,
        )
