"""Long work says how far it is where there is no terminal."""

from __future__ import annotations

import pytest

from evaluation.plain_progress import Tenths
from neurrate.bench_options import bar


def test_each_tenth_is_said_once(capsys):
    """Tenths come in order, the newest of several alone, and none after the last."""
    tenths = Tenths("work", 40.0)
    for done in (-1, 0, 3.9, 4, 5, 15, 39, 40, 55):
        tenths.reach(done)
    assert capsys.readouterr().err.splitlines() == [
        "work: 10 %", "work: 30 %", "work: 90 %", "work: 100 %",
    ]  # fmt: skip


@pytest.mark.parametrize("total", [None, 0])
def test_work_of_unknown_length_says_nothing(capsys, total):
    """Without a total there are no tenths."""
    Tenths("work", total).reach(10)
    assert capsys.readouterr().err == ""


def test_a_run_says_that_it_begins_and_every_minute(capsys):
    """One line for a run, and one for each minute of it."""
    with bar("5 windows/s (1 of 2)", 200) as on_second:
        for second in (1, 59.9, 60.1, 61, 119, 190, 200):
            on_second(second)
    assert capsys.readouterr().err.splitlines() == [
        "bench: 5 windows/s (1 of 2), 200 s",
        "bench: 5 windows/s (1 of 2), 60 of 200 s",
        "bench: 5 windows/s (1 of 2), 180 of 200 s",
    ]


def test_a_terminal_gets_no_lines(capsys, monkeypatch):
    """There a bar shows it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Tenths("work", 1).reach(1)
    assert capsys.readouterr().err == ""
