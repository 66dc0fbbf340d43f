"""Where channels are, from a file: for acquisition systems that do not send positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from contracts.errors import RecordingError
from stream_sources.rigs.voltages import ProbeLayout

NAMES = "channel_name"
"""Annotation of the contacts that has the names of the channels: those of the recording of which
templates are made, ``probe.annotate_contacts(channel_name=recording.channel_ids)``."""


def read_probe_file(path: Path, name_of: Callable[[int], str]) -> tuple[ProbeLayout, list[int]]:
    """Read the channels of a probe, and the number that the acquisition system gives to each.

    Parameters
    ----------
    name_of : callable
        The name of a channel by its number, where the file has no names (`NAMES`).

    Raises
    ------
    RecordingError
        If the file has no probe, or more than one, does not say which channel a contact is, or
        gives two channels one name.
    """
    import probeinterface

    try:
        group = probeinterface.read_probeinterface(path)
    except FileNotFoundError as error:
        raise RecordingError(str(path), "there is no such file") from error
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            str(path), f"it is no probe file of probeinterface: {error}"
        ) from error
    if len(group.probes) != 1:
        raise RecordingError(str(path), f"it has {len(group.probes)} probes, and one is needed")
    probe = group.probes[0]
    indices = probe.device_channel_indices
    if indices is None or (np.asarray(indices) < 0).any():
        raise RecordingError(
            str(path),
            "device_channel_indices must give the channel of each contact, counted from 0: "
            "probe.set_device_channel_indices(...)",
        )
    order = np.argsort(indices)
    channels: list[int] = np.asarray(indices)[order].tolist()
    if len(set(channels)) < len(channels):
        raise RecordingError(str(path), "two contacts have the same device_channel_indices")
    positions_um = np.asarray(probe.contact_positions, dtype=np.float64)[order]
    names = [name_of(channel) for channel in channels]
    if NAMES in probe.contact_annotations:
        names = [str(name) for name in np.asarray(probe.contact_annotations[NAMES])[order]]
        if len(set(names)) < len(names):
            raise RecordingError(str(path), f"two contacts have the same {NAMES}")
    return ProbeLayout(tuple(names), positions_um), channels
