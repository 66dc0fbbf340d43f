"""What counts as a label of a unit, in every kind of recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.wire_header import MAX_CHANNEL, MAX_TEXT, MAX_UM

NULL_LABELS = frozenset({"", "none", "nan", "nat", "null", "n/a", "<na>"})
"""Texts that mean no label, in lower case. AllenSDK takes '' and 'None' for a channel outside the
brain; pandas writes 'nan'. 'grey' is a label: in the brain, but in no finer structure."""

UNKNOWN = "unknown"
"""NWB's word for a location that was not filled in: another column may have a label."""


def label_text(value: object) -> str:
    """Return a label that can be sent: empty if there is none, whole numbers without a point.

    >>> [label_text(value) for value in ("good ", None, float("nan"), "None", 2.0)]
    ['good', '', '', '', '2']
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and math.isfinite(value) and value.is_integer():
        value = int(value)
    text = str(value).encode("utf-8", "replace").decode().strip(" \t\r\n\0")
    return "" if text.casefold() in NULL_LABELS else text[:MAX_TEXT]


def known_numbers(name: str, values: Sequence[float] | NDArray[np.float64]) -> list[Any]:
    """Return a column of `wire_header.NUMBER_COLUMNS`: None for what is no such number.

    >>> known_numbers("channel", [3.0, 1.5, -1.0, float("nan")])
    [3, None, None, None]
    """
    if name == "channel":
        return [
            int(value) if 0 <= value <= MAX_CHANNEL and float(value).is_integer() else None
            for value in np.asarray(values).tolist()
        ]
    return [float(value) if abs(value) <= MAX_UM else None for value in np.asarray(values).tolist()]


def table_text(made: str, sources: Mapping[str, str]) -> str:
    """Say how a unit table was made: from what, and where each column is from, if anywhere.

    >>> table_text("units table", {"area": "units/location", "depth_um": ""})
    'units table; area: units/location'
    """
    columns = [f"{name}: {source}" for name, source in sources.items() if source]
    return "; ".join([made, *columns])[:MAX_TEXT]
