"""Tables of presentations that cannot be used: none is dropped silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stream_sources.recordings.nwb import NwbSource
from tests.support.nwb_files import random_trains, write_presentations, write_units

GOOD = "good_presentations"
BAD = "bad_presentations"
ROWS = np.arange(4.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a recording with two tables, one of which the tests change."""
    path = write_units(tmp_path / "file.nwb", random_trains())
    for name in (GOOD, BAD):
        columns = {"start_time": ROWS, "stop_time": ROWS + 1, "frame": ROWS, "id": range(4)}
        write_presentations(path, name, **columns)
    return path


def column(name: str, values: Any) -> Callable[[h5py.Group], None]:
    """Return a change of one column; None removes it."""

    def change(intervals: h5py.Group) -> None:
        del intervals[f"{BAD}/{name}"]
        if values is not None:
            intervals[f"{BAD}/{name}"] = values

    return change


def table(value: Any) -> Callable[[h5py.Group], None]:
    """Return a change of the whole table."""

    def change(intervals: h5py.Group) -> None:
        del intervals[BAD]
        intervals[BAD] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (table(np.arange(40.0)), "it must be a group of columns; it is a data set"),
        (table(h5py.SoftLink("/nowhere")), "is a link to /nowhere, which is not in the file"),
        (table(h5py.ExternalLink("gone.nwb", "/x")), "is a link to /x in gone.nwb"),
        (column("start_time", None), "it has no start_time"),
        (column("stop_time", None), "it has no stop_time"),
        (column("stop_time", ROWS[:3]), "stop_time has 3 values, the table has 4 rows"),
        (column("start_time", ROWS[:3]), "stop_time has 4 values, the table has 3 rows"),
        (column("start_time", ["a", "b", "c", "d"]), "start_time must hold numbers"),
        (column("stop_time", np.zeros((4, 2))), r"stop_time must have one value for each row"),
        (column("stop_time", h5py.SoftLink("/gone")), "stop_time is a link to /gone"),
    ],
)
def test_a_table_that_cannot_be_used_is_left_out(
    path: Path, change: Callable[[h5py.Group], None], text: str
) -> None:
    """The others are read; the note has the table and the reason."""
    with h5py.File(path, "a") as file:
        change(file["intervals"])
    source = NwbSource(str(path))
    assert source.presentations.names == ("good",)
    (note,) = source.notes
    assert note.startswith(f"the table intervals/{BAD} is left out: ")
    assert text in note


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("id", range(3), "id has 3 values, the table has 4 rows"),
        ("id", [0.0, np.nan, 2.0, 3.0], "id, in which some values are no ids"),
        ("frame", ROWS[:2], "frame has 2 values, the table has 4 rows"),
        ("frame", ["a", "b", "c", "d"], "frame must hold numbers"),
    ],
)
def test_a_column_of_a_table_that_does_not_fit_is_left_out(
    path: Path, name: str, values: Any, text: str
) -> None:
    """Presentations keep their times; row numbers replace ids, and frames are unknown."""
    with h5py.File(path, "a") as file:
        column(name, values)(file["intervals"])
    source = NwbSource(str(path))
    (note,) = source.notes
    assert note.startswith(f"left out: intervals/{BAD}/{text}")
    marks = [mark for mark in source.marks() if mark.stimulus == "bad"]
    assert [mark.presentation_id for mark in marks] == [0, 1, 2, 3]
    assert [mark.frame for mark in marks] == ([None] * 4 if name == "frame" else [0, 1, 2, 3])


def test_a_dangling_link_in_place_of_intervals_leaves_the_spikes(path: Path) -> None:
    """All presentations are left out, with a note."""
    with h5py.File(path, "a") as file:
        del file["intervals"]
        file["intervals"] = h5py.ExternalLink("gone.nwb", "/intervals")
    source = NwbSource(str(path))
    assert len(source.presentations.start_ns) == 0
    assert "all presentations are left out: intervals is a link" in source.notes[0]


def test_invalid_times_that_do_not_fit_are_noted(path: Path) -> None:
    """Stop times that are missing are not made up."""
    write_presentations(path, "invalid_times", start_time=[1.0, 2.0], stop_time=[1.5])
    source = NwbSource(str(path))
    assert len(source.invalid_ns) == 0
    assert "invalid_times is left out: intervals/invalid_times/stop_time has 1" in source.notes[0]


def test_a_table_whose_name_is_not_utf8_is_left_out(path: Path) -> None:
    """h5py gives such a name as bytes; it cannot be sent."""
    with h5py.File(path, "a") as file:
        file["intervals"].move(BAD, b"na\xefve_presentations")
    source = NwbSource(str(path))
    assert source.presentations.names == ("good",)
    assert source.notes == (
        r"the table intervals/b'na\xefve_presentations' is left out: its name is not UTF-8",
    )


def test_unwritten_rows_are_not_presentations(path: Path) -> None:
    """The rest of a column that was written in part is zero, which is no presentation."""
    with h5py.File(path, "a") as file:
        for name in ("start_time", "stop_time"):
            values = file[f"intervals/{BAD}/{name}"][:]
            del file[f"intervals/{BAD}/{name}"]
            column = file[f"intervals/{BAD}"].create_dataset(name, (9,), "f8")
            column[:4] = values
    marks = [mark for mark in NwbSource(str(path)).marks() if mark.stimulus == "bad"]
    assert len(marks) == 4
