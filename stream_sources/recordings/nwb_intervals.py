"""The tables below ``intervals`` of an NWB 2 file: presentations and invalid times.

A table that cannot be used is left out, with a note; the others are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S, seconds_to_ns
from contracts.wire_header import MAX_TEXT
from stream_sources.recordings.nwb_columns import MAX_WHOLE, Table, open_column
from stream_sources.recordings.nwb_links import UnreadableError, follow
from stream_sources.recordings.presentations import Presentations

logger = logging.getLogger(__name__)

PRESENTATIONS = "_presentations"
INVALID_TIMES = "invalid_times"
"""NWB's own name for intervals that are not to be analysed."""


def read_presentations(file: h5py.File, also: Sequence[str], notes: list[str]) -> Presentations:
    """Read every table ``intervals/*_presentations`` and merge them, in order of start.

    Rows without a start or a stop are left out and counted in the log. `also` names more tables of
    ``intervals``; one that does not exist is ignored.
    """
    try:
        intervals = follow(file, "intervals")
    except UnreadableError as error:
        notes.append(f"all presentations are left out: {error}")
        return Presentations.none()
    if not isinstance(intervals, h5py.Group):
        if intervals is not None:
            notes.append("all presentations are left out: intervals must be a group of tables")
        return Presentations.none()
    group_of = {}
    for group in sorted(intervals, key=os.fsencode):
        if isinstance(group, bytes):  # h5py's answer for a name that is not UTF-8
            notes.append(f"the table intervals/{group!r} is left out: its name is not UTF-8")
        elif group.endswith(PRESENTATIONS) or group in also:
            group_of[group.removesuffix(PRESENTATIONS)] = group
    tables = []
    for name, group in group_of.items():
        try:
            tables.append(_presentation_table(name, interval_table(intervals, group, notes)))
        except UnreadableError as error:
            notes.append(f"the table intervals/{group} is left out: {error}")
    return Presentations.merge([table for table in tables if len(table.start_ns)])


def read_invalid_times(file: h5py.File, notes: list[str]) -> NDArray[np.int64]:
    """Read ``intervals/invalid_times``.

    Returns
    -------
    invalid_ns : array, shape (n_invalid, 2), int64, session nanoseconds
        Start and stop of each interval, in order of start. One without a stop never ends.
    """
    nothing = np.empty((0, 2), dtype=np.int64)
    try:
        intervals = follow(file, "intervals")
        if not isinstance(intervals, h5py.Group) or INVALID_TIMES not in intervals:
            return nothing
        table = interval_table(intervals, INVALID_TIMES, notes)
        start_s, stop_s = required_times(table, "start_time"), table.required("stop_time")
    except UnreadableError as error:
        notes.append(f"the table intervals/{INVALID_TIMES} is left out: {error}")
        return nothing
    far_s = MAX_SESSION_NS / NS_PER_S
    stop_s = np.full(len(start_s), far_s) if stop_s is None else stop_s
    start_s = np.clip(np.nan_to_num(start_s, nan=-far_s), -far_s, far_s)
    stop_s = np.clip(np.nan_to_num(stop_s, nan=far_s), -far_s, far_s)
    order = np.argsort(start_s, kind="stable")
    return seconds_to_ns(np.stack([start_s, stop_s], axis=1)[order])


def interval_table(intervals: h5py.Group, name: str, notes: list[str]) -> Table:
    """Return a table as long as its column of starts.

    Raises
    ------
    UnreadableError
        If it cannot be used as a table.
    """
    group = follow(intervals, name)
    if not isinstance(group, h5py.Group):
        raise UnreadableError("it must be a group of columns; it is a data set")
    starts = open_column(group, "start_time")
    if starts is None:
        raise UnreadableError("it has no start_time")
    return Table(group, len(starts), notes)


def required_times(table: Table, name: str) -> NDArray[np.float64]:
    """Return a column that the table must have.

    Raises
    ------
    UnreadableError
        If it is missing or cannot be used.
    """
    values = table.required(name)
    if values is None:
        raise UnreadableError(f"it has no {name}")
    return values


def is_interval(start_s: NDArray[np.float64], stop_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which intervals end after they start, at times that the session clock can hold.

    False for NaN.
    """
    far_s = MAX_SESSION_NS / NS_PER_S
    return (np.abs(start_s) < far_s) & (np.abs(stop_s) < far_s) & (stop_s >= start_s)


def _presentation_table(name: str, table: Table) -> Presentations:
    start_s, stop_s = required_times(table, "start_time"), required_times(table, "stop_time")
    frame, block = table.numbers("frame"), table.numbers("stimulus_block")
    caption = table.labels("caption")
    row_id = table.numbers("id")
    if row_id is not None and not (np.abs(row_id) < MAX_WHOLE).all():
        table.note(f"left out: intervals/{table.name}/id, in which some values are no ids")
        row_id = None
    if row_id is None:
        row_id = np.arange(table.n_rows, dtype=np.float64)
    written = (start_s != 0) | (stop_s != 0)  # HDF5's fill value in unwritten rows
    shown = is_interval(start_s, stop_s) & written
    if not shown.all():
        n_lost = int((~shown).sum())
        logger.warning(
            "presentations left out",
            extra={"stimulus": name, "reason": "no_times", "n": n_lost},
        )
    rows = np.flatnonzero(shown)
    return Presentations(
        start_ns=seconds_to_ns(start_s[rows]),
        stop_ns=seconds_to_ns(stop_s[rows]),
        row_id=row_id[rows].astype(np.int64),
        frame=np.full(len(rows), np.nan) if frame is None else _whole(frame[rows]),
        stimulus=np.zeros(len(rows), dtype=np.int64),
        block=np.full(len(rows), np.nan) if block is None else block[rows],
        caption=[(caption[row] or "")[:MAX_TEXT] for row in rows.tolist()] if caption else (),
        names=(name[:MAX_TEXT],),
    )


def _whole(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round frames to whole numbers; values outside int32 become NaN."""
    return np.where(np.abs(frame) < 2**31, np.rint(frame), np.nan)
