"""The hand-over: the newest wins, or all are kept; every loss is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.handover import Handover
from tests.support.daemon_components import embeddings_of, encoded
from tests.support.tiny_bundle import tiny_windows


def test_newest_wins():
    """What waits gives way to what comes, and is counted; what was taken is not there twice."""
    old, new = (encoded(embeddings_of(window)) for window in tiny_windows(2))
    handover = Handover()
    handover.offer(old)
    handover.offer(new)
    assert len(handover) == 1
    assert not handover.is_full
    assert handover.take() is new
    assert handover.take() is None
    assert len(handover) == 0
    assert handover.n_replaced == 1


def test_all_keeps_everything():
    """Nothing gives way, not even past the capacity, which only sets is_full."""
    batches = [encoded(embeddings_of(window)) for window in tiny_windows(4)]
    handover = Handover("all", capacity=2)
    full = []
    for batch in batches:
        handover.offer(batch)
        full.append(handover.is_full)
    assert full == [False, True, True, True]
    assert [handover.take() for _ in batches] == batches
    assert (handover.n_replaced, handover.is_full) == (0, False)


@pytest.mark.parametrize("policy", ["newest", "all"])
@given(is_offer=st.lists(st.booleans(), max_size=60))
def test_offered_is_taken_replaced_or_waiting(policy, is_offer: list[bool]):
    """However offers and takes come, nothing is lost uncounted and order is kept."""
    handover, taken = Handover(policy, 3), []
    windows = tiny_windows(len(is_offer))
    for offers, window in zip(is_offer, windows, strict=True):
        if offers:
            handover.offer(encoded(embeddings_of(window)))
        elif encode := handover.take():
            taken.append(encode()[0].window.seq)
    assert sum(is_offer) == len(taken) + handover.n_replaced + len(handover)
    assert taken == sorted(taken)
