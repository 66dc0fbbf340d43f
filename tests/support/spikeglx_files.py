"""Recordings on the electrodes of real probes, and what the emulator makes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from probeinterface.neuropixels_tools import build_neuropixels_probe
from spikeinterface import BaseRecording, NumpyRecording

from contracts.clock import HostClock
from stream_sources.rigs.spikeglx.emulator import SpikeGlxWriter, WriterOptions, WriterReport

RATE_HZ = 30_000.0


def make_recording(
    *,
    part_number: str = "NP1010",
    n_channels: int = 8,
    seconds: float = 2.0,
    first: int = 0,
    noise_uv: float = 50.0,
) -> BaseRecording:
    """Return noise on the electrodes from `first`, in uV."""
    rng = np.random.default_rng(n_channels)
    traces = rng.normal(0, noise_uv, (round(seconds * RATE_HZ), n_channels)).astype(np.float32)
    recording = NumpyRecording([traces], RATE_HZ)
    probe = build_neuropixels_probe(part_number).get_slice(np.arange(first, first + n_channels))
    probe.set_device_channel_indices(np.arange(n_channels))
    recording.set_probe(probe)
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    return recording


def write_spikeglx(
    folder: Path, recording: BaseRecording | None = None, **options: Any
) -> tuple[Path, WriterReport]:
    """Write a recording, as fast as possible; return its first file and what was written."""
    options = {"speed": None} | options
    writer = SpikeGlxWriter(
        recording or make_recording(), folder, WriterOptions(**options), HostClock()
    )
    first = writer.path
    return first, writer.play()


def begin_again(path: Path) -> bytes:
    """Make a recording look as when it began: an empty file; return what it had."""
    content = path.read_bytes()
    path.write_bytes(b"")
    change_meta(path, fileSizeBytes=None, fileTimeSecs=None, fileSHA1=None, firstSample=None)
    return content


def change_meta(bin_path: Path, **fields: str | None) -> None:
    """Change fields of the ``.meta``; None removes one. ``~`` is left out of the names."""
    path = bin_path.with_suffix(".meta")
    text = path.read_text(encoding="utf-8")
    for key, value in fields.items():
        line = "" if value is None else rf"{key}={value}\n"
        text = re.sub(rf"(?m)^(~?){key}=.*\n", rf"\g<1>{line}" if line else "", text)
    path.write_text(text, encoding="utf-8")
