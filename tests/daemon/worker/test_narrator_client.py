"""Narrating in the caller's thread: every window in order, and no failure ends the loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.narration import Status
from daemon.narrators.protocol import EndedRow
from daemon.worker.narrator_client import InlineClient
from tests.support.daemon_components import EchoNarrator, embeddings_of, encoded
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import tiny_windows


class BrokenNarrator(EchoNarrator):
    """Raises at every other window, and forgets a population at the last."""

    n_calls = 0

    def step(self) -> Sequence[EndedRow]:
        """Narrate, raise, or leave a row out."""
        self.n_calls += 1
        if self.n_calls == 2:
            raise MemoryError("no room")
        ended = super().step()
        return ended[:-1] if self.n_calls == 4 else ended


def test_every_window_is_narrated_in_order():
    """Nothing gives way, and what was narrated waits to be collected."""
    client = InlineClient(EchoNarrator(ManualClock()))
    for window in tiny_windows(3):
        client.offer(encoded(embeddings_of(window, ("all", "PV"))))
    assert client.n_unfinished == 1
    texts = [narrated.utterance.text for narrated in client.collect()]
    assert texts == ["all 0", "PV 0", "all 1", "PV 1", "all 2", "PV 2"]
    assert (client.n_unfinished, sum(client.dropped.values())) == (0, 0)


@pytest.mark.parametrize("populations", [("all",), ("all", "PV")])
def test_narrator_that_fails_does_not_end_the_loop(populations):
    """What it raises and what it leaves out become failed narrations with the reason."""
    clock = ManualClock()
    client = InlineClient(BrokenNarrator(clock), clock)
    for window in tiny_windows(4):
        client.offer(encoded(embeddings_of(window, populations)))
    n = len(populations)
    utterances = [narrated.utterance for narrated in client.collect()]
    assert [utterance.reason for utterance in utterances] == [
        reason
        for reason in (
            "",
            "MemoryError: no room",
            "",
            f"MisuseError: {n - 1} utterances for {n} populations",
        )
        for _ in populations
    ]
    assert {utterance.status for utterance in utterances if utterance.reason} == {Status.FAILED}
    assert utterances[n].start_host_ns <= clock.ns
    assert (client.dropped, client.n_restarts) == ({"narration_failed": 2}, 0)


class HopelessNarrator(EchoNarrator):
    """Fails whatever it is asked."""

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
    """After so many windows in a row the daemon is not ready, and continues; closing closes it."""
    narrator = HopelessNarrator(ManualClock())
    client = InlineClient(narrator, ManualClock(), failures_before_problem=2)
    for window in tiny_windows(2):
        assert client.problem == ""
        client.offer(encoded(embeddings_of(window)))
    assert client.problem == "the last 2 windows could not be narrated"
    client.close(deadline_s=0)
    assert narrator.is_closed
