"""What every fault is tried on: a small recording, and an encoder of random weights for it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.embedding import PatchGrid
from contracts.population import Population

SECONDS = 600.0
"""Longer than any fault takes at speed 1: no source ends before it is asked to."""

N_UNITS = 12  # Three in each of four areas, on two probes
GRID = PatchGrid(8, 8, 96)
"""Of the shipped tiny LLaVA, which the vLLM back-end needs a part of."""

CAPTIONS = ("A car drives by.", "A dog sits under a tree.", "The street is dark.")


@dataclass(frozen=True, slots=True)
class FaultInputs:
    """A recording, and the bundle that fits it."""

    recording: Path
    bundle: Path
    population: Population


def prepare_fault_inputs(folder: Path) -> FaultInputs:
    """Make both; ten seconds, most of them in the exporter."""
    from encoder_export.bundle import ReferenceFrame
    from encoder_export.random_bundle import PAPER_WINDOW, make_random_bundle
    from simulation.recording import write_recording
    from stream_sources.recordings.nwb import NwbSource

    recording, bundle = folder / "session.nwb", folder / "bundle"
    write_recording(recording, seconds=SECONDS, n_units=N_UNITS)
    with closing(NwbSource(str(recording))) as source:
        population, rate_hz = source.population, source.n_spikes / SECONDS / N_UNITS
    mean = np.full(N_UNITS, rate_hz / PAPER_WINDOW.rate.bins_per_s)
    rng = np.random.default_rng(0)
    make_random_bundle(
        bundle,
        population=population,
        unit_mean=mean,
        unit_std=np.sqrt(mean),
        window=PAPER_WINDOW,
        grid=GRID,
        language_model_id="tiny-llava",
        recording_label="faults",
        command="scripts/faults.py",
        references=[
            ReferenceFrame(str(frame), caption, rng.normal(size=GRID.dim).astype(np.float32))
            for frame, caption in enumerate(CAPTIONS)
        ],
    )
    return FaultInputs(recording, bundle, population)
