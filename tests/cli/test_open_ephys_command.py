"""``stream open-ephys`` and ``emulate open-ephys``: the table learned, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurrate.cli import main
from stream_sources.recordings.nwb import NwbSource
from stream_sources.rigs.open_ephys.unit_table import read_unit_table
from tests.support.emulated_gui import emulated_gui
from tests.support.nwb_files import random_trains, write_units

STREAM = ("stream", "open-ephys")


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return write_units(tmp_path / "session.nwb", random_trains(n_units=6))


def test_a_table_is_learned_from_what_comes(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The sorted ids that came, named after their electrode; nothing is overwritten."""
    table = tmp_path / "units.csv"
    with emulated_gui(NwbSource(str(session)), speed=5.0) as gui:
        words = [*STREAM, str(table), "--connect", gui.address, "--learn", "1"]
        assert main(words) == 0
    learned = read_unit_table(table)
    assert {unit.probe for unit in learned.population.units} == {"ProbeA-AP"}
    assert learned.row_of[("Electrode 1", 1)] == 0
    assert "Electrode 2:1" in capsys.readouterr().out
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err


def test_nothing_sorted_leaves_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], session: Path
):
    """The message says what the signal chain needs."""
    table = tmp_path / "units.csv"
    with emulated_gui(NwbSource(str(session)), speed=5.0) as gui:
        words = [*STREAM, str(table), "--connect", gui.address, "--learn", "1"]
        assert main([*words, "--gui-stream", "LFP"]) == 2
    assert "Spike Sorter with units" in capsys.readouterr().err
    assert not table.exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "there is no such file. Make a table with --learn 60"),
        (["--learn", "5", "--connect", "tcp://127.0.0.1:9", "--start-timeout", "0.2"], 3,
         "No ZMQ Interface answers at tcp://127.0.0.1:9"),
        (["--learn", "5", "--connect", "127.0.0.1"], 2, "--connect"),
        (["--learn", "5", "--stream", "a b"], 2, "--stream must be"),
    ],
)  # fmt: skip
def test_bad_input_of_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
):
    """One sentence, and the exit code that says who can correct it."""
    assert main([*STREAM, str(tmp_path / "units.csv"), *words]) == code
    assert text in capsys.readouterr().err


def test_a_source_without_a_gui_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Also once it publishes: the sockets are closed and the code is that of a missing program."""
    table = tmp_path / "units.csv"
    table.write_text("electrode,sorted_id,unit_id\nE1,1,950901\n")
    words = [*STREAM, str(table), "--connect", "tcp://127.0.0.1:9", "--start-timeout", "0.2"]
    assert main([*words, "--bind", "tcp://127.0.0.1:*"]) == 3
    assert "No ZMQ Interface answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--fault", "flood@3"], "--fault must be"),
        (["--bind", "ipc:///tmp/gui"], "--bind must be"),
        (["--bind", "tcp://0.0.0.0:5556"], "can be reached from other machines"),
    ],
)
def test_bad_input_of_the_emulator(
    session: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
):
    """Before anything is sent."""
    assert main(["emulate", "open-ephys", str(session), *words]) == 2
    assert text in capsys.readouterr().err
