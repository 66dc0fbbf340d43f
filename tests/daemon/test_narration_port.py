"""Narrating in the caller's thread: every window in order, and no failure ends the loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.embedding import PatchEmbedding
from contracts.narration import Status, Utterance
from daemon.narration_port import InlinePort
from tests.support.daemon_rooms import PROVENANCE, EchoNarrator, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import tiny_windows


class BrokenNarrator:
    """Raises at every other window, and forgets a population at the last."""

    provenance = PROVENANCE

    def __init__(self) -> None:
        self.n_calls = 0

    def narrate(self, embeddings: Sequence[PatchEmbedding]) -> list[Utterance]:
        """Say something, or nothing."""
        self.n_calls += 1
        if self.n_calls == 2:
            raise MemoryError("no room")
        return [Utterance("a", Status.OK)] * (len(embeddings) - (self.n_calls == 4))


def test_every_window_is_narrated_in_order():
    """Nothing gives way, and what was narrated waits to be collected."""
    port = InlinePort(EchoNarrator(ManualClock()))
    for window in tiny_windows(3):
        port.offer(embeddings_of(window, ("all", "PV")))
    assert port.n_unfinished == 3
    said = [[word.text for word in narrated.utterances] for narrated in port.collect()]
    assert said == [["all 0", "PV 0"], ["all 1", "PV 1"], ["all 2", "PV 2"]]
    assert (port.n_unfinished, port.n_replaced, port.n_failed) == (0, 0, 0)


@pytest.mark.parametrize("populations", [("all",), ("all", "PV")])
def test_narrator_that_fails_does_not_end_the_loop(populations):
    """What it raises and what it leaves out become failed narrations with the reason."""
    clock = ManualClock()
    port = InlinePort(BrokenNarrator(), clock)
    for window in tiny_windows(4):
        port.offer(embeddings_of(window, populations))
    n = len(populations)
    narrated = list(port.collect())
    assert [len(each.utterances) for each in narrated] == [n] * 4
    assert [each.utterances[0].reason for each in narrated] == [
        "",
        "MemoryError: no room",
        "",
        f"{n - 1} utterances for {n} populations",
    ]
    assert [each.utterances[-1].status for each in narrated] == [
        Status.OK, Status.FAILED, Status.OK, Status.FAILED,
    ]  # fmt: skip
    assert narrated[1].utterances[0].start_host_ns == clock.ns
    assert (port.n_failed, port.n_died, port.n_restarts) == (2, 0, 0)
