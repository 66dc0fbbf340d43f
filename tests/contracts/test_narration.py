"""Narrations: the parts of the latency are the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.narration import STAGES, Stamps, latency_ms
from tests.support.narrations import narration

STAMPS = st.builds(
    lambda times: Stamps(*sorted(times)), st.lists(st.integers(0, 2**62), min_size=7, max_size=7)
)


@given(STAMPS)
def test_stages_sum_to_the_whole(stamps):
    """However long each stage, they lie end to end, without gap or overlap."""
    parts = latency_ms(stamps)
    assert set(parts) == {*STAGES, "total"}
    assert all(parts[stage] >= 0 for stage in STAGES)
    assert sum(parts[stage] for stage in STAGES) == pytest.approx(parts["total"], rel=1e-12)
    assert parts["total"] == (stamps.published - stamps.newest_spike_received) / 1e6


@pytest.mark.parametrize("position", range(6))
def test_each_stage_ends_at_its_stamp(position):
    """A millisecond between two stamps is a millisecond of the stage between them."""
    stamps = Stamps(*(0 if k <= position else 1_000_000 for k in range(7)))
    parts = latency_ms(stamps)
    assert {stage for stage in STAGES if parts[stage]} == {STAGES[position]}
    assert parts["total"] == 1.0


@given(STAMPS)
def test_stamps_are_in_order(stamps):
    """The order is that of a narration's life."""
    assert list(stamps.in_order()) == sorted(stamps.in_order())


def test_topics():
    """Narrations go out under their population."""
    assert narration(population="VISp").topic == "narration.VISp"
