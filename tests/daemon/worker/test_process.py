"""A child process that is kept alive."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from daemon.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S
from daemon.worker.process import WorkerProcess
from tests.support.manual_clock import ManualClock

S = 1_000_000_000


class FakeChild:
    """A child process that is dead or alive as the test says."""

    def __init__(self, command: Sequence[str], stdin: int) -> None:
        self.pid, self.stdin, self.code = 1, None, None

    def poll(self) -> int | None:
        """Return the exit code, if it has one."""
        return self.code


def test_pauses_between_restarts_double(monkeypatch: pytest.MonkeyPatch):
    """From half a second to half a minute; from the first again after a minute of running."""
    monkeypatch.setattr(subprocess, "Popen", FakeChild)
    clock = ManualClock()
    process = WorkerProcess(["x"], clock)
    process.start()
    pauses = []
    for lived_s in (0, 0, 0, 0, 0, 0, 0, 0, 61, 0):
        clock.ns += lived_s * S
        assert process.check() is None
        process._child.code = 1  # type: ignore[union-attr, assignment, unused-ignore]
        died_ns = clock.ns
        assert process.check() == 1
        while process.pid is None:
            clock.ns += S // 20
            assert process.check() is None
        pauses.append((clock.ns - died_ns) / S)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[6:] == [LONGEST_PAUSE_S, LONGEST_PAUSE_S, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    assert process.n_restarts == len(pauses)


def test_start_that_the_system_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    """Out of descriptors or memory: a problem and another pause, no error in the fast loop."""
    monkeypatch.setattr(subprocess, "Popen", FakeChild)
    clock = ManualClock()
    process = WorkerProcess(["x"], clock)
    process.start()
    process._child.code = 1  # type: ignore[union-attr, assignment, unused-ignore]
    assert process.check() == 1

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for _ in range(3):
        clock.ns += round(LONGEST_PAUSE_S * S)
        assert process.check() is None
    assert (process.pid, process.n_restarts) == (None, 0)
    assert "Too many open files" in process.start_problem
    monkeypatch.setattr(subprocess, "Popen", FakeChild)
    clock.ns += round(LONGEST_PAUSE_S * S)
    assert process.check() is None
    assert (process.pid, process.n_restarts, process.start_problem) == (1, 1, "")
