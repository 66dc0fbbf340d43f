"""The brain area of each channel, from a file that a person or a histology program wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed
from encoder_training.calibration.csv_table import number, read_table

CHANNEL_COLUMNS = ("channel", "area")
DEPTH_COLUMNS = ("depth_from", "depth_to", "area")
NUMBER_AT_END = re.compile(r"(\d+)$")


def read_areas(
    path: Path, channel_ids: Sequence[str], depths_um: NDArray[np.float64]
) -> tuple[str, ...]:
    """Return the area of each channel; empty where the file names none.

    The file has either the columns channel and area, or depth_from, depth_to and area. A channel is
    named by its id in the recording, or by the number at the end of its id where these are unique.
    A depth is in micrometres along the shank from the tip; ``depth_from`` belongs to the range,
    ``depth_to`` does not.

    Parameters
    ----------
    depths_um : array, shape (n_channels,), float64, micrometres

    Raises
    ------
    RecordingError
        With every problem found: channels that the recording lacks, ranges that overlap.
    """
    rows = read_table(path, ())
    if set(CHANNEL_COLUMNS) <= rows[0].keys():
        return _by_channel(path, rows, channel_ids)
    if set(DEPTH_COLUMNS) <= rows[0].keys():
        return _by_depth(path, rows, depths_um)
    raise RecordingError(
        str(path),
        f"it needs the columns {', '.join(CHANNEL_COLUMNS)} or {', '.join(DEPTH_COLUMNS)}; there "
        f"are {listed(list(rows[0]))}",
    )


def _by_channel(
    path: Path, rows: Sequence[Mapping[str, str]], channel_ids: Sequence[str]
) -> tuple[str, ...]:
    place = _places(channel_ids)
    unknown = [row["channel"] for row in rows if row["channel"] not in place]
    if unknown:
        raise RecordingError(
            str(path),
            f"it names {len(unknown)} channels that the recording does not have: "
            f"{listed(unknown)}. The recording has {listed(channel_ids)}: name those, or choose "
            "the file of this probe.",
        )
    areas = [""] * len(channel_ids)
    named: dict[int, str] = {}
    twice = []
    for row in rows:
        at = place[row["channel"]]
        if named.setdefault(at, row["area"]) != row["area"]:
            twice.append(row["channel"])
        areas[at] = row["area"]
    if twice:
        raise RecordingError(
            str(path), f"it gives two areas to {len(twice)} channels: {listed(twice)}"
        )
    return tuple(areas)


def _places(channel_ids: Sequence[str]) -> dict[str, int]:
    """Return the column of each channel by its id, and by the number at its end if unique."""
    by_id = {name: at for at, name in enumerate(channel_ids)}
    matches = [NUMBER_AT_END.search(name) for name in channel_ids]
    numbers = [str(int(match[1])) for match in matches if match is not None]
    if len(set(numbers)) == len(channel_ids):
        return {**{name: at for at, name in enumerate(numbers)}, **by_id}
    return by_id


def _by_depth(
    path: Path, rows: Sequence[Mapping[str, str]], depths_um: NDArray[np.float64]
) -> tuple[str, ...]:
    ranges = sorted(
        (number(row, "depth_from"), number(row, "depth_to"), row["area"]) for row in rows
    )
    problems = [
        f"depth_from {row['depth_from']!r} must be a number below depth_to {row['depth_to']!r}"
        for row in rows
        if not number(row, "depth_from") < number(row, "depth_to")
    ]
    if not problems:
        problems = [
            f"{before[2]} to {before[1]:g} um and {after[2]} from {after[0]:g} um overlap"
            for before, after in pairwise(ranges)
            if after[0] < before[1]
        ]
    if problems:
        raise RecordingError(str(path), *problems)
    areas = [
        next((area for low, high, area in ranges if low <= depth < high), "")
        for depth in depths_um.tolist()
    ]
    if not any(areas):
        raise RecordingError(
            str(path),
            f"no channel lies in its ranges, which span {ranges[0][0]:g} to {ranges[-1][1]:g} um; "
            f"the channels span {depths_um.min():g} to {depths_um.max():g} um from the tip",
        )
    return tuple(areas)
