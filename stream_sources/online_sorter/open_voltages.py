"""Voltages by the text that somebody types: a saved recording, or, with a prefix, a rig."""

from __future__ import annotations

from pathlib import Path

from contracts.clock import Clock
from contracts.errors import UserError, listed, shown
from stream_sources.online_sorter.recording_voltages import RecordingVoltages, load_recording
from stream_sources.rigs.spikeglx.source import SpikeGlxSource
from stream_sources.rigs.voltages import VoltageSource

RIGS = ("spikeglx",)
"""Prefixes of rigs, ``spikeglx:run/folder``: each is opened by a branch of `open_voltages`."""


def open_voltages(
    text: str,
    *,
    speed: float | None = 1.0,
    duration_s: float | None = None,
    end_silence_s: float | None = None,
    clock: Clock | None = None,
) -> VoltageSource:
    """Open a source of voltages.

    Parameters
    ----------
    text : str
        What SpikeInterface has saved: a folder, a Zarr folder, or a JSON file; or
        ``spikeglx:RUN.ap.bin``, which is followed.
    speed, duration_s
        Of a recording, as in `RecordingVoltages`.
    end_silence_s
        Of a rig, as in `stream_sources.rigs.spikeglx.source.SpikeGlxSource`.

    Raises
    ------
    UserError
        If there is nothing of this name, or it cannot be a source.
    """
    kind, separator, rest = text.partition(":")
    path = Path(text)
    if kind in RIGS and separator and duration_s is not None:
        raise UserError("--seconds is for recordings; a rig's source ends with --end-silence.")
    if kind == "spikeglx" and separator:
        return SpikeGlxSource(Path(rest), end_silence_s=end_silence_s, clock=clock)
    if separator and not path.exists() and kind.replace("-", "").isalpha():
        raise UserError(
            f"there is no source of voltages {shown(kind)!r}: name a folder that SpikeInterface "
            f"has saved{', or ' + listed([f'{rig}:...' for rig in RIGS]) if RIGS else ''}."
        )
    label = f"recording:{shown(path.resolve().name).replace(' ', '_')}"
    return RecordingVoltages(
        load_recording(path), label=label, speed=speed, duration_s=duration_s, clock=clock
    )
