"""Templates of a few units on a small probe, made of nothing but numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.population import Population, Unit
from stream_sources.online_sorter.templates import (
    Preprocessing,
    SorterTemplates,
    background_samples,
)
from stream_sources.rigs.voltages import ProbeLayout

RATE_HZ = 30_000.0
N_CHANNELS = 6
N_BEFORE = 30


def small_templates(**changes: Any) -> SorterTemplates:
    """Return three units whose troughs are on channels 0, 2 and 4, or with other attributes."""
    rng = np.random.default_rng(3)
    is_active = np.zeros((3, N_CHANNELS), dtype=np.bool_)
    waveforms = np.zeros((3, 90, N_CHANNELS), dtype=np.float32)
    shape = -np.exp(-0.5 * ((np.arange(90) - N_BEFORE) / 4.0) ** 2)
    for row, channel in enumerate((0, 2, 4)):
        is_active[row, channel : channel + 2] = True
        waveforms[row, :, channel] = 120 * shape
        waveforms[row, :, channel + 1] = 60 * shape
    positions = np.column_stack([np.zeros(N_CHANNELS), 20.0 * np.arange(N_CHANNELS)])
    noise = rng.normal(size=(background_samples(RATE_HZ), N_CHANNELS)) * 8
    values: dict[str, Any] = {
        "population": Population(
            [
                Unit(
                    f"u{row}", probe="probeA", area="VISp", channel=channel, depth_um=20.0 * channel
                )
                for row, channel in enumerate((0, 2, 4))
            ]
        ),
        "rates_hz": np.array([5.0, 10.0, 2.5]),
        "waveforms_uv": waveforms,
        "is_active": is_active,
        "n_before": N_BEFORE,
        "layout": ProbeLayout(tuple(f"AP{row}" for row in range(N_CHANNELS)), positions),
        "rate_hz": RATE_HZ,
        "preprocessing": Preprocessing(),
        "noise_uv": np.full(N_CHANNELS, 8.0),
        # What a file can hold, so that templates come back as they were.
        "background_uv": noise.astype(np.float16).astype(np.float32),
        "origin": "a test",
    }
    return SorterTemplates(**{**values, **changes})
