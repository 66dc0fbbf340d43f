"""Long work shows how far it is where there is no terminal."""

from __future__ import annotations

import re

import pytest

from evaluation.progress import progress


def test_each_tenth_is_reported_once(capsys):
    """Tenths come in order, the newest of several alone, and none after the last; with the rest."""
    with progress("bar", 40.0, label="work") as advance_to:
        for done in (-1, 0, 3.9, 4, 5, 15, 39, 40, 55):
            advance_to(done)
    lines = capsys.readouterr().err.splitlines()
    expected = [r"work: 10 %", r"work: 30 %", r"work: 90 %"]
    for line, tenth in zip(lines, expected, strict=False):
        assert re.fullmatch(rf"{tenth}, \d\d:\d\d left", line)
    assert lines[len(expected) :] == ["work: 100 %"]


@pytest.mark.parametrize("total", [None, 0])
def test_work_of_unknown_length_has_no_tenths(capsys, total):
    """Without a total nothing is reported."""
    with progress("work", total) as advance_to:
        advance_to(10)
    assert capsys.readouterr().err == ""


def test_a_run_reports_its_beginning_and_every_minute(capsys):
    """One line for a run, and one for each minute of it."""
    with progress("bar", 200, label="bench: 5 windows/s (1 of 2)", is_timed=True) as on_second:
        for second in (1, 59.9, 60.1, 61, 119, 190, 200):
            on_second(second)
    assert capsys.readouterr().err.splitlines() == [
        "bench: 5 windows/s (1 of 2), 200 s",
        "bench: 5 windows/s (1 of 2), 60 of 200 s",
        "bench: 5 windows/s (1 of 2), 180 of 200 s",
    ]


def test_a_terminal_gets_no_lines(capsys, monkeypatch):
    """There a bar shows it, and is wiped at the end."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("bar", 1, label="work") as advance_to:
        advance_to(1)
    shown = capsys.readouterr().err
    assert "bar: " in shown
    assert "work" not in shown
