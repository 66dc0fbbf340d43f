"""Recordings of voltages on the disk, opened by SpikeInterface and checked for what we need."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import RecordingError, UserError, listed
from stream_sources.online_sorter.recording_voltages import load_recording
from stream_sources.online_sorter.template_estimation import check_recording
from stream_sources.recordings.sorting import SAVED_MARKS
from stream_sources.rigs.spikeglx.finished import open_finished
from stream_sources.rigs.spikeglx.meta_file import stream_of

AP_SUFFIXES = (".bin", ".meta")
"""Of SpikeGLX's files."""


def open_recording(path: str | Path, *, stream: str = "", geometry: Path | None = None) -> Any:
    """Open a recording of voltages of one probe.

    Parameters
    ----------
    path : str or Path
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
        recording = _open(Path(path), stream)
        if geometry is not None:
            recording = _with_geometry(recording, geometry)
    check_recording(recording, str(path))
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
        recorded = recording.get_num_samples() / rate_hz / 60
        raise RecordingError(
            path,
            f"it lasts {recorded:.3g} minutes, and --minutes asks for the first {minutes:g}. Give "
            f"--minutes {math.floor(100 * recorded) / 100:g}, or record longer",
        )
    return recording.frame_slice(start_frame=0, end_frame=n_samples)


def _open(place: Path, stream: str) -> Any:
    """Open a path with the reader for it.

    Raises
    ------
    RecordingError
        If there is nothing, or it cannot be read.
    UserError
        The same, of what SpikeInterface has saved.
    """
    if not place.exists():
        raise RecordingError(str(place), "there is no such file or folder")
    try:
        return _read(place, stream)
    except UserError:
        raise
    except Exception as error:  # the readers raise whatever their format's library does
        text = str(error).strip() or type(error).__name__
        raise RecordingError(str(place), f"SpikeInterface cannot read it: {text}") from error


def _read(place: Path, stream: str) -> Any:
    from spikeinterface.extractors import read_nwb_recording, read_openephys

    if place.suffix == ".nwb":
        return read_nwb_recording(place, electrical_series_path=stream or None)
    if place.suffix in AP_SUFFIXES:
        return open_finished(place.parent, stream or stream_of(place))
    if next(place.rglob("*.ap.meta"), None) is not None:
        return open_finished(place, stream or _only_stream(place, "spikeglx"))
    if next(place.rglob("structure.oebin"), None) is not None:
        return read_openephys(place, stream_name=stream or _only_stream(place, "openephys"))
    if place.is_dir() and not any((place / name).exists() for name in SAVED_MARKS):
        raise RecordingError(str(place), _what_is_missing(place))
    return load_recording(place)


def _what_is_missing(folder: Path) -> str:
    """Return what a folder lacks to be a recording."""
    voltages = next(folder.rglob("*.ap.bin"), None)
    if voltages is not None:
        return (
            f"{voltages.name} has no .meta beside it. SpikeGLX writes both; without the .meta "
            "nobody knows the sampling rate, the gains and the channels"
        )
    return (
        "it holds no recording that is read here. Name the folder of a SpikeGLX run (.ap.bin and "
        ".meta), of an Open Ephys recording in the binary format (structure.oebin), or one that "
        "SpikeInterface has saved with recording.save(folder=...)"
    )


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
            "the .ap.bin of one, or its stream (--recording-stream of neurrate calibrate)",
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
