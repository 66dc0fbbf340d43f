"""Voltages by the text that somebody types: a saved recording, or, with a prefix, a rig."""

from __future__ import annotations

import re
from pathlib import Path

from contracts.clock import Clock
from contracts.errors import UserError, listed, shown
from stream_sources.online_sorter.recording_voltages import RecordingVoltages, load_recording
from stream_sources.rigs.open_ephys.voltages import OpenEphysVoltages
from stream_sources.rigs.spikeglx.remote_api import SpikeGlxRemote
from stream_sources.rigs.spikeglx.source import SpikeGlxSource
from stream_sources.rigs.voltages import VoltageSource

RIGS = ("spikeglx", "open-ephys", "spikeglx-remote")
"""Prefixes of rigs, ``spikeglx:run/folder``: each is opened by a branch of `open_voltages`."""

REMOTE = re.compile(r"(?P<host>[^:/]+):(?P<port>\d{1,5})/imec(?P<probe>\d{1,2})")


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
        What SpikeInterface has saved: a folder, a Zarr folder, or a JSON file; or a rig, which is
        followed: ``spikeglx:RUN.ap.bin``, ``open-ephys:ADDRESS,PROBE.json[,STREAM]`` or
        ``spikeglx-remote:SDK_FOLDER,PROBE.json,HOST:PORT/imecN``.
    speed, duration_s
        Of a recording, as in `RecordingVoltages`; a file of SpikeGLX that is over has a speed too.
    end_silence_s
        Of a rig, as in `stream_sources.rigs.spikeglx.source.SpikeGlxSource`.

    Raises
    ------
    UserError
        If there is nothing of this name, it cannot be a source, or a rig is given a speed.
    """
    kind, separator, rest = text.partition(":")
    path = Path(text)
    if kind in RIGS and separator:
        if duration_s is not None:
            raise UserError("--seconds is for recordings; a rig's source ends with --end-silence.")
        source = _open_rig(kind, rest, speed, end_silence_s, clock)
        if speed != 1.0 and source.n_samples is None:
            # Without a pace the publisher would wait for subscribers, and the rig waits for nobody.
            source.close()
            raise UserError(
                f"--speed is for recordings, and {source.label} comes at its own pace. Leave "
                "--speed out."
            )
        return source
    if separator and not path.exists() and kind.replace("-", "").isalpha():
        raise UserError(
            f"there is no source of voltages {shown(kind)!r}: name a folder that SpikeInterface "
            f"has saved{', or ' + listed([f'{rig}:...' for rig in RIGS]) if RIGS else ''}."
        )
    label = f"recording:{shown(path.resolve().name).replace(' ', '_')}"
    return RecordingVoltages(
        load_recording(path), label=label, speed=speed, duration_s=duration_s, clock=clock
    )


def _open_rig(
    kind: str,
    place: str,
    speed: float | None,
    end_silence_s: float | None,
    clock: Clock | None,
) -> VoltageSource:
    """Open what follows a prefix.

    Raises
    ------
    UserError
        If it does not have the parts that it needs.
    """
    if kind == "spikeglx":
        return SpikeGlxSource(Path(place), speed=speed, end_silence_s=end_silence_s, clock=clock)
    if kind == "open-ephys":
        address, _, rest = place.partition(",")
        probe_file, _, gui_stream = rest.partition(",")  # whose name may have a comma
        if not probe_file:
            raise UserError(
                "open-ephys: needs the plugin's data port and a probe file, and may have the name "
                "of the GUI's stream, open-ephys:tcp://127.0.0.1:5556,probe.json,ProbeA-AP, got "
                f"{shown(place)!r}."
            )
        return OpenEphysVoltages(
            address,
            Path(probe_file),
            gui_stream=gui_stream,
            end_silence_s=end_silence_s,
            clock=clock,
        )
    parts = place.split(",")
    where = REMOTE.fullmatch(parts[2]) if len(parts) == 3 else None
    if where is None:
        raise UserError(
            "spikeglx-remote: needs the folder of sglx.py, a probe file, an address and a probe, "
            f"spikeglx-remote:sglx_pkg,probe.json,localhost:4142/imec0, got {shown(place)!r}."
        )
    return SpikeGlxRemote(
        Path(parts[0]),
        Path(parts[1]),
        host=where["host"],
        port=int(where["port"]),
        probe=int(where["probe"]),
        end_silence_s=end_silence_s,
        clock=clock,
    )
