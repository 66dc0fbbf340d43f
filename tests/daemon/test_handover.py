"""The hand-over: one place, newest wins, every loss counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.handover import Handover
from tests.support.daemon_rooms import embeddings_of
from tests.support.tiny_bundle import tiny_windows


def test_newest_wins():
    """What waits gives way to what comes, and is counted; what was taken is not there twice."""
    old, new = (embeddings_of(window) for window in tiny_windows(2))
    handover = Handover()
    handover.offer(old)
    handover.offer(new)
    assert handover.is_waiting
    assert handover.take() is new
    assert handover.take() is None
    assert not handover.is_waiting
    assert handover.n_replaced == 1


@given(st.lists(st.booleans(), max_size=60))
def test_offered_is_taken_replaced_or_waiting(is_offer: list[bool]):
    """However offers and takes come, nothing is lost uncounted and order is kept."""
    handover, taken = Handover(), []
    windows = tiny_windows(len(is_offer))
    for offers, window in zip(is_offer, windows, strict=True):
        if offers:
            handover.offer(embeddings_of(window))
        elif batch := handover.take():
            taken.append(batch[0].window.seq)
    assert sum(is_offer) == len(taken) + handover.n_replaced + handover.is_waiting
    assert taken == sorted(taken)
