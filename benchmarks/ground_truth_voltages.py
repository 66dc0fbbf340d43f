"""A generated Neuropixels recording whose spikes are known, on the disk as a rig would write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ = 30_000.0

GAIN_UV = 2.34375
"""Of one bit: Neuropixels 1.0 at a gain of 500 (10 bits of 1.2 V)."""

NOISE_UV = 6.0


@dataclass(frozen=True, slots=True)
class GroundTruthSize:
    """How large a recording is; calibration and test follow one another."""

    n_channels: int
    n_units: int
    calibration_s: float
    test_s: float


FULL = GroundTruthSize(384, 120, 20.0, 15.0)
QUICK = GroundTruthSize(24, 8, 8.0, 1.5)


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruthParts:
    """The two parts: (recording, sorting) of SpikeInterface each."""

    calibration: tuple[Any, Any]
    test: tuple[Any, Any]


def make_ground_truth(folder: Path, size: GroundTruthSize, seed: int) -> GroundTruthParts:
    """Generate a recording, and write it into a folder as 16-bit numbers."""
    from spikeinterface.core import generate_ground_truth_recording
    from spikeinterface.preprocessing import scale

    drawn, sorting = generate_ground_truth_recording(
        durations=[size.calibration_s + size.test_s],
        sampling_frequency=RATE_HZ,
        num_channels=size.n_channels,
        num_units=size.n_units,
        generate_sorting_kwargs={"firing_rates": (2.0, 15.0), "refractory_period_ms": 4.0},
        noise_kwargs={"noise_levels": NOISE_UV, "strategy": "tile_pregenerated"},
        seed=seed,
    )
    saved = scale(drawn, gain=1.0 / GAIN_UV, dtype=np.dtype(np.int16)).save(
        folder=folder / "recording", n_jobs=1, chunk_duration="1s", progress_bar=False
    )
    saved.set_channel_gains(GAIN_UV)
    saved.set_channel_offsets(0.0)
    saved.annotate(is_filtered=False)  # the generator says so of what it draws
    middle = round(size.calibration_s * RATE_HZ)
    stop = saved.get_num_samples()
    parts = [
        (saved.frame_slice(first, last), sorting.frame_slice(first, last))
        for first, last in ((0, middle), (middle, stop))
    ]
    return GroundTruthParts(*parts)
