"""Numbers as a table and as JSON."""

import json
from pathlib import Path

import pytest

from contracts.atomic_files import check_writable
from contracts.errors import UserError
from neurrate.tables import cell, print_table, write_json


def test_a_table_has_every_cell(capsys):
    """Columns come from the first row; brackets are no markup."""
    print_table("Stages", [{"stage": "cut", "p50": 1.23456}, {"stage": "[red]x", "p50": None}])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("Stages", "stage", "cut", "1.235", "[red]x", "-"))


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[link=https://x]y", "a\x1b[2Jb\x9b"])
def test_no_text_of_a_table_is_markup(capsys, text):
    """Title, columns and cells are drawn as they are, and control characters as escapes."""
    literal = text.replace("\x1b", "\\u001b").replace("\x9b", "\\u009b")
    print_table(text, [{text: text}])
    assert capsys.readouterr().out.count(literal) == 3
    print_table(text, [])
    assert capsys.readouterr().out == f"{literal}: nothing\n"


def test_no_rows_are_a_line(capsys):
    """An empty table says so."""
    print_table("Heard", [])
    assert capsys.readouterr().out == "Heard: nothing\n"


def test_json_is_written_and_read_back(tmp_path):
    """Text stays text in any language; no path writes nothing."""
    path = tmp_path / "x.json"
    write_json(path, {"words": "Äpfel"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"words": "Äpfel"}
    write_json(None, object())


@pytest.mark.parametrize("name", ["", "none/x.json"])
def test_an_unwritable_path_is_refused_beforehand(tmp_path, name):
    """A folder, and a file in a folder that is not there, are refused with the reason."""
    check_writable(None)
    check_writable(tmp_path / "x.json")
    with pytest.raises(UserError, match="Cannot write"):
        check_writable(tmp_path / name)
    with pytest.raises(UserError, match="Cannot write"):
        write_json(tmp_path / name, {})


def test_cells_are_short():
    """None is a dash and a float has four digits."""
    assert [cell(value) for value in (None, 0.123456, 12, "x")] == ["-", "0.1235", "12", "x"]


def test_device_is_refused():
    """A device is no place for a file, and stays what it is."""
    with pytest.raises(UserError, match="device"):
        check_writable(Path("/dev/null"))


def test_link_stays_a_link(tmp_path: Path):
    """What a link points to is written; the link is not replaced."""
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    check_writable(tmp_path / "link.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there.json").read_text()) == {"a": 1}


def test_place_where_no_file_can_be_made_is_refused_at_once():
    """Not all of a file system can be written, whatever the permissions say."""
    with pytest.raises(UserError, match=r"Cannot write /proc/x\.json"):
        check_writable(Path("/proc/x.json"))
