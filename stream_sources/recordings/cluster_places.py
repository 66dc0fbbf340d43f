"""The channel and the depth of each cluster, from the table that phy writes for people."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

from stream_sources.recordings.labels import known_numbers

INFO_FILE = "cluster_info.tsv"

PLACE_COLUMNS = {"channel": "ch", "depth_um": "depth"}
"""Phy's names: the peak channel, and its place along the probe in micrometers."""

ID_COLUMNS = ("cluster_id", "id")
"""``id`` in phy before 2.0."""


class Place(NamedTuple):
    """Where a cluster is, None where that is not known."""

    channel: int | None
    depth_um: float | None


NO_PLACE = Place(None, None)


def read_cluster_places(folder: Path) -> dict[int, Place]:
    """Return the places by cluster; nothing of rows, or a table, that cannot be read."""
    try:
        text = (folder / INFO_FILE).read_bytes().decode("utf-8-sig", "replace")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
    except (OSError, csv.Error):
        return {}
    places = {}
    for row in rows:
        cluster = next((row[name] for name in ID_COLUMNS if row.get(name)), "").strip()
        if cluster.isdecimal():
            channel, depth = (row.get(column) for column in PLACE_COLUMNS.values())
            places[int(cluster)] = Place(_number("channel", channel), _number("depth_um", depth))
    return places


def _number(name: str, text: str | None) -> Any:
    try:
        return known_numbers(name, [float(text or "nan")])[0]
    except ValueError:
        return None
