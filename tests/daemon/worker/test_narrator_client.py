"""Narrating in the caller's thread: every window in order, and no failure ends the loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.narration import Status
from daemon.narrators.protocol import EndedRow
from daemon.worker.narrator_client import InlineClient
from tests.support.daemon_components import EchoNarrator, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import tiny_windows


class BrokenNarrator(EchoNarrator):
    """Raises at every other window, and forgets a population at the last."""

    n_calls = 0

    def step(self) -> Sequence[EndedRow]:
        """Say something, or nothing."""
        self.n_calls += 1
        if self.n_calls == 2:
            raise MemoryError("no room")
        said = super().step()
        return said[:-1] if self.n_calls == 4 else said


def test_every_window_is_narrated_in_order():
    """Nothing gives way, and what was narrated waits to be collected."""
    port = InlineClient(EchoNarrator(ManualClock()))
    for window in tiny_windows(3):
        port.offer(embeddings_of(window, ("all", "PV")))
    assert port.n_unfinished == 1
    said = [narrated.utterance.text for narrated in port.collect()]
    assert said == ["all 0", "PV 0", "all 1", "PV 1", "all 2", "PV 2"]
    assert (port.n_unfinished, sum(port.dropped.values())) == (0, 0)


@pytest.mark.parametrize("populations", [("all",), ("all", "PV")])
def test_narrator_that_fails_does_not_end_the_loop(populations):
    """What it raises and what it leaves out become failed narrations with the reason."""
    clock = ManualClock()
    port = InlineClient(BrokenNarrator(clock), clock)
    for window in tiny_windows(4):
        port.offer(embeddings_of(window, populations))
    n = len(populations)
    said = [narrated.utterance for narrated in port.collect()]
    assert [each.reason for each in said] == [
        reason
        for reason in (
            "",
            "MemoryError: no room",
            "",
            f"MisuseError: {n - 1} utterances for {n} populations",
        )
        for _ in populations
    ]
    assert {each.status for each in said if each.reason} == {Status.FAILED}
    assert said[n].start_host_ns <= clock.ns
    assert (port.dropped, port.n_restarts) == ({"narration_failed": 2}, 0)


class HopelessNarrator(EchoNarrator):
    """Fails, and cannot be mended."""

    is_closed = False

    def step(self) -> Sequence[EndedRow]:
        """Fail."""
        raise MemoryError("no room")

    def cancel(self, batch_id: int) -> None:
        """Fail."""
        raise MemoryError("no room for this either")

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


def test_narrator_that_always_fails_is_a_problem():
    """After so many windows in a row the daemon is not ready, and goes on; closing closes it."""
    narrator = HopelessNarrator(ManualClock())
    port = InlineClient(narrator, ManualClock(), failures_before_problem=2)
    for window in tiny_windows(2):
        assert port.problem == ""
        port.offer(embeddings_of(window))
    assert port.problem == "the last 2 windows could not be narrated"
    port.close(deadline_s=0)
    assert narrator.is_closed
