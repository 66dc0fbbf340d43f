"""The unit table: read back as written, and every problem said."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import UserError
from contracts.population import Unit
from stream_sources.rigs.open_ephys.unit_table import read_unit_table, write_unit_table

UNITS = [
    (("Electrode 1", 1), Unit("950901", "probeA", "VISp")),
    (("Electrode 1", 2), Unit("950902", "probeA", "VISp", "PV", "good")),
    (("Stereotrode, 2", 1), Unit("950903", "probeA")),
]
HEAD = "electrode,sorted_id,unit_id\n"


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    """Order, names with commas, and optional columns are kept."""
    write_unit_table(tmp_path / "units.csv", UNITS)
    table = read_unit_table(tmp_path / "units.csv")
    assert table.population.units == tuple(unit for _, unit in UNITS)
    assert table.row_of == {key: row for row, (key, _) in enumerate(UNITS)}


def test_electrodes_are_chosen(tmp_path: Path):
    """Only the units of the named electrodes are left, and a wrong name is said."""
    write_unit_table(tmp_path / "units.csv", UNITS)
    table = read_unit_table(tmp_path / "units.csv", electrodes=["Stereotrode, 2"])
    assert table.row_of == {("Stereotrode, 2", 1): 0}
    with pytest.raises(UserError, match="no units of the electrodes Electrode 9"):
        read_unit_table(tmp_path / "units.csv", electrodes=["Electrode 9"])


def test_units_that_the_bundle_does_not_have_are_refused(tmp_path: Path):
    """The message names them."""
    write_unit_table(tmp_path / "units.csv", UNITS)
    with pytest.raises(UserError, match="1 units are not in the bundle: unit_id probeA/950903"):
        read_unit_table(
            tmp_path / "units.csv", expected=[("probeA", "950901"), ("probeA", "950902")]
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "columns electrode, sorted_id, unit_id are missing"),
        ("electrode,unit_id\nE1,5\n", "columns sorted_id are missing"),
        (HEAD, "it has no units"),
        (HEAD + "E1,0,5\nE1,x,6\n", "sorted_id must be from 1 to 65535, got 0, x"),
        (HEAD + "E1,1,5\nE1,1,6\n", "E1/1 are there twice"),
        (HEAD + "E1,1,5\nE1,2,5\n", "unit_id must be unique"),
        (HEAD + "E1,1\n", "needs an electrode and a unit_id"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, text: str, problem: str):
    """Each with the file's name."""
    path = tmp_path / "units.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_unit_table(path)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there_says_how_to_make_one(tmp_path: Path):
    """The way is --learn."""
    with pytest.raises(UserError, match="--learn 60"):
        read_unit_table(tmp_path / "none.csv")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    """A spreadsheet's own format, say."""
    (tmp_path / "units.csv").write_bytes(b"PK\xff\xfe\x00")
    with pytest.raises(UserError, match="no CSV file in UTF-8"):
        read_unit_table(tmp_path / "units.csv")
