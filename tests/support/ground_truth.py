"""A small probe with known units, in memory; slow to make, so share it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.templates import SorterTemplates

N_CHANNELS = 16
SECONDS = 6.0


class GroundTruth(NamedTuple):
    """Raw voltages with gains and a probe, the true spikes, and templates made of both."""

    recording: Any
    sorting: Any
    templates: SorterTemplates


@cache
def ground_truth() -> GroundTruth:
    """Return six seconds of 16 channels and 8 units at 30 kHz, as 16-bit numbers with an offset."""
    from spikeinterface.core import NumpyRecording, generate_ground_truth_recording

    drawn, sorting = generate_ground_truth_recording(
        durations=[SECONDS],
        sampling_frequency=30_000.0,
        num_channels=N_CHANNELS,
        num_units=8,
        generate_sorting_kwargs={"firing_rates": (15.0, 25.0), "refractory_period_ms": 4.0},
        noise_kwargs={"noise_levels": 6.0, "strategy": "tile_pregenerated"},
        generate_templates_kwargs={"unit_params": {"alpha": (150.0, 400.0)}},
        seed=7,
    )
    gain_uv, offset_uv = 0.5, 40.0
    numbers = np.rint(drawn.get_traces() / gain_uv).astype(np.int16)
    recording = NumpyRecording([numbers], 30_000.0, channel_ids=drawn.channel_ids)
    recording.set_probe(drawn.get_probe())
    recording.set_channel_gains(gain_uv)
    recording.set_channel_offsets(offset_uv)
    return GroundTruth(
        recording, sorting, estimate_templates(recording, sorting, origin="ground truth")
    )


def save(extractor: Any, folder: Path) -> Any:
    """Save a recording or a sorting, and return what was saved."""
    options = {"n_jobs": 1, "progress_bar": False, "verbose": False}
    with quiet_spikeinterface():
        return extractor.save(
            folder=folder, **(options if hasattr(extractor, "get_traces") else {})
        )


@contextmanager
def quiet_spikeinterface() -> Iterator[None]:
    """Pass over the warnings of SpikeInterface's writers: no provenance, files left open."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The extractor is not serializable")
        warnings.filterwarnings("ignore", category=ResourceWarning)
        yield
        gc.collect()
