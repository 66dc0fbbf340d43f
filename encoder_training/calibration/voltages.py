"""A recording of voltages on the disk, opened by SpikeInterface and checked for what we need."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import RecordingError, UserError, listed
from stream_sources.online_sorter.recording_voltages import load_recording
from stream_sources.rigs.spikeglx.finished import open_finished

LEAST_RATE_HZ = 10_000.0
"""Below it a spike is no more than a few samples: action potentials are sampled at 20 to 40 kHz."""

AP_SUFFIXES = (".bin", ".meta")
"""Of SpikeGLX's files."""


def open_recording(path: str, *, stream: str = "", geometry: Path | None = None) -> Any:
    """Open a recording of voltages of one probe.

    Parameters
    ----------
    path : str
        A SpikeGLX run (its folder, or a file of it), a folder of the Open Ephys GUI in its binary
        format, a folder that SpikeInterface saved, or an NWB file with an ElectricalSeries.
    stream : str
        Its name, where there are several.
    geometry : Path, optional
        A file of probeinterface, where the recording does not say where its channels are.

    Returns
    -------
    recording : spikeinterface.BaseRecording

    Raises
    ------
    RecordingError
        If it cannot be read, or lacks something, with every problem found.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the readers, about what is checked here
        recording = _open(path, stream)
        if geometry is not None:
            recording = _with_geometry(recording, geometry)
    problems = _problems(recording)
    if problems:
        raise RecordingError(path, *problems)
    return recording


def first_minutes(recording: Any, minutes: float, *, path: str) -> Any:
    """Return the beginning of a recording, itself a recording.

    Raises
    ------
    RecordingError
        If it is shorter.
    """
    rate_hz = float(recording.get_sampling_frequency())
    n_samples = round(60 * minutes * rate_hz)
    if recording.get_num_samples() < n_samples:
        there = recording.get_num_samples() / rate_hz / 60
        raise RecordingError(
            path,
            f"it lasts {there:.3g} minutes, and --minutes asks for the first {minutes:g}. Give "
            f"--minutes {math.floor(100 * there) / 100:g}, or record longer",
        )
    return recording.frame_slice(start_frame=0, end_frame=n_samples)


def _problems(recording: Any) -> list[str]:
    """Return what the recording lacks."""
    problems = []
    if recording.get_num_segments() != 1:
        problems.append(
            f"it has {recording.get_num_segments()} segments, and session time has one zero. Save "
            "the one to calibrate on as a recording of its own"
        )
    if recording.get_sampling_frequency() < LEAST_RATE_HZ:
        problems.append(
            f"its sampling rate is {recording.get_sampling_frequency():g} Hz, and spikes need "
            f"{LEAST_RATE_HZ:g} or more. Name the action potential band with --recording-stream "
            "(not LFP)"
        )
    if recording.is_filtered():
        problems.append(
            "it was saved after a filter, and live voltages are filtered in another way. Name the "
            "raw recording"
        )
    if not recording.has_scaleable_traces():
        problems.append("it states no gain to microvolts for its channels")
    if not recording.has_probe():
        problems.append(
            "it does not say where its channels are on the probe. Give --geometry, a file of "
            "probeinterface"
        )
    return problems


def _open(path: str, stream: str) -> Any:
    """Open a path with the reader for it.

    Raises
    ------
    RecordingError
        If there is nothing, or it cannot be read.
    UserError
        The same, of what SpikeInterface has saved.
    """
    place = Path(path)
    if not place.exists():
        raise RecordingError(path, "there is no such file or folder")
    try:
        return _read(place, stream)
    except UserError:
        raise
    except Exception as error:  # the readers raise whatever their format's library does
        text = str(error).strip() or type(error).__name__
        raise RecordingError(path, f"SpikeInterface cannot read it: {text}") from error


def _read(place: Path, stream: str) -> Any:
    from spikeinterface.extractors import read_nwb_recording, read_openephys

    if place.suffix == ".nwb":
        return read_nwb_recording(place, electrical_series_path=stream or None)
    if place.suffix in AP_SUFFIXES:
        return open_finished(place.parent, stream or _stream_of(place))
    if next(place.rglob("*.ap.meta"), None) is not None:
        return open_finished(place, stream or _only_stream(place, "spikeglx"))
    if next(place.rglob("structure.oebin"), None) is not None:
        return read_openephys(place, stream_name=stream or _only_stream(place, "openephys"))
    return load_recording(place)


def _stream_of(file: Path) -> str:
    """Return SpikeGLX's name of a file's stream: ``imec0.ap`` of ``run_g0_t0.imec0.ap.bin``."""
    return ".".join(file.name.split(".")[-3:-1])


def _only_stream(folder: Path, kind: str) -> str:
    """Return the one stream of action potentials.

    Raises
    ------
    RecordingError
        If there are several, with their names.
    """
    from spikeinterface.extractors import get_neo_streams

    names, ids = get_neo_streams(kind, folder)
    streams = [str(name) for name in (ids if kind == "spikeglx" else names)]
    spikes = [
        name for name in streams if not name.lower().endswith((".lf", "-lfp", "nidq", "sync"))
    ]
    if len(spikes) != 1:
        raise RecordingError(
            str(folder),
            f"it has {len(spikes)} streams that may hold action potentials: {listed(spikes)}. Name "
            "one with --recording-stream.",
        )
    return spikes[0]


def _with_geometry(recording: Any, geometry: Path) -> Any:
    """Return the recording with the channels where a file of probeinterface has them.

    Raises
    ------
    RecordingError
        If the file cannot be read, or is of another probe.
    """
    from probeinterface import read_probeinterface

    try:
        probes = read_probeinterface(geometry)
    except Exception as error:  # whatever its JSON lacks
        raise RecordingError(
            str(geometry), f"probeinterface cannot read it: {str(error) or type(error).__name__}"
        ) from error
    n_contacts = sum(probe.get_contact_count() for probe in probes.probes)
    if n_contacts != recording.get_num_channels() or len(probes.probes) != 1:
        raise RecordingError(
            str(geometry),
            f"it has {len(probes.probes)} probes with {n_contacts} contacts, and the recording "
            f"{recording.get_num_channels()} channels of one probe",
        )
    probe = probes.probes[0]
    if probe.device_channel_indices is None:
        probe.set_device_channel_indices(np.arange(n_contacts))
    recording.set_probe(probe)
    return recording
