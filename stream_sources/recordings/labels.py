"""What counts as a label of a unit, in every kind of recording."""

from __future__ import annotations

import math

import numpy as np

from contracts.wire_header import MAX_TEXT

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
