"""Progress where standard error is no terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from contracts import progress
from contracts.progress import ProgressBar, elapsed_progress
from tests.support.wait_until import wait_until


def test_a_line_says_how_far_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole lines, without the characters that draw a bar; what was done before counts."""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    with ProgressBar(desc="patches", unit="frame", total=8, initial=2) as bar:
        bar.update(2)
        bar.update(4)
    first, *lines = capsys.readouterr().err.split("\n")
    assert first == "patches: 2 of 8 frames, 25 %, ? left"
    assert lines == [
        "patches: 4 of 8 frames, 50 %, 00:00 left",
        "patches: 8 of 8 frames, 100 %, 00:00 left",
        "",
    ]


def test_a_change_of_its_text_writes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar shows at once what it is at; a log has its line a minute."""
    with ProgressBar(desc="evaluating", unit="window", total=8) as bar:
        bar.set_postfix_str("VISp")
        bar.refresh()
    assert capsys.readouterr().err == ""


def test_silent_work_shows_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines come while nothing is reported."""
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    text = ""

    def is_shown() -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return "sorting: 00:0" in text

    with elapsed_progress("sorting", "minute"):
        wait_until(is_shown, what="a line")


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What is over within a minute fills no log."""
    assert list(ProgressBar(range(1000), desc="counts", unit="bin")) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar() -> None:
    """Drawn in place, from the start."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    code = "from contracts.progress import ProgressBar as P; list(P(range(3), desc='d', unit='u'))"
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 4096)
    os.close(ours)
    assert b"\r" in drawn
    assert b"3/3" in drawn
