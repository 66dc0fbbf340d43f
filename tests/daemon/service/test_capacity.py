"""What the encoder can keep up with: the arithmetic, and the sentences that state it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from daemon.encoders.protocol import Encoder
from daemon.service.capacity import Capacity, Load, measure_capacity
from tests.support.daemon_components import StubEncoder
from tests.support.manual_clock import ManualClock


def capacity(first_s: float, others_s: float, **changes: Any) -> Capacity:
    asked = {
        "n_populations": 8,
        "n_at_once": 8,
        "n_first": int(first_s > 0),
        "stride_s": 0.05,
        "every": 1,
        "keeps_all": False,
    }
    return Capacity(Load(**{**asked, **changes}), first_s, others_s)


@pytest.mark.parametrize(
    ("first_s", "every", "share"),
    [(0, 1, 0.3), (0, 10, 0.03), (0.005, 1, 0.4), (0.005, 10, 0.13)],
)
def test_share_counts_what_each_window_is_encoded_through(first_s: float, every: int, share: float):
    """What rules need of every window, and the others of those that are narrated."""
    assert capacity(first_s, 0.015, every=every).loop_share == pytest.approx(share)


def test_summary_states_what_was_measured():
    """Times, populations, stride and share; those of rules and turns only where there are any."""
    assert capacity(0, 0.02).summary == (
        "a window takes 20 ms through 8 populations; one comes every 50 ms: up to 40 % of the fast "
        "loop's time"
    )
    turns = capacity(0.0052, 1.3, n_populations=2000, n_at_once=64, every=10, stride_s=1)
    assert turns.summary == (
        "a window takes 1,305 ms through 64 of 2,000 populations, which take turns, 5.2 ms of it "
        "through the 1 population that rules on probes need, which come first; one comes every "
        "1,000 ms and one in 10 is narrated: up to 14 % of the fast loop's time"
    )


def test_what_fits_is_no_problem():
    """All of the loop's time is just enough."""
    assert not capacity(0, 0.05).problem
    assert not capacity(0.005, 0.2, every=10).problem


def test_populations_that_do_not_fit_are_a_problem():
    """How many of how many windows are encoded at best, and what to do."""
    assert capacity(0, 0.12).problem == (
        "a window takes 120 ms through 8 populations, and one comes every 50 ms: at best 8.3 of "
        "20 windows a second are encoded. Use fewer populations, a larger window.stride_bins, a "
        "larger handover.every or a smaller handover.populations"
    )
    assert "at best 0.83 of 2 windows a second" in capacity(0, 1.2, every=10).problem


def test_windows_that_are_all_kept_make_spikes_wait():
    """No window is left out, so the source waits or loses; there are no turns."""
    problem = capacity(0, 0.12, keeps_all=True).problem
    assert "50 ms: spikes wait: a live source loses batches" in problem
    assert problem.endswith("a larger window.stride_bins or a larger handover.every")


def test_triggers_that_come_late_are_named_first():
    """The populations of rules alone do not fit: fewer narrations would not help."""
    assert capacity(0.1, 0.02, every=2).problem == (
        "the 1 population that rules on probes need takes 100 ms a window, and one comes every "
        "50 ms: triggers come late, and at best 9.1 of 20 windows a second are encoded. Use fewer "
        "populations or a larger window.stride_bins"
    )
    assert "through 8 populations, and one comes" in capacity(0.01, 0.2).problem


def test_one_population_cannot_be_made_fewer():
    """What is left to do is named alone."""
    load = replace(capacity(0, 0).load, n_populations=1, n_at_once=1)
    assert Capacity(load, 0.1, 0).problem.endswith("encoded. Use a larger window.stride_bins")


def test_both_encoders_are_measured():
    """The populations of rules, and the others; no encoder takes no time."""
    first, others = (StubEncoder(ManualClock()) for _ in range(2))
    first.window_s, others.window_s = 0.1, 0.3
    load = capacity(0, 0).load
    found = measure_capacity(cast(Encoder, first), cast(Encoder, others), load)
    assert found == Capacity(load, 0.1, 0.3)
    assert measure_capacity(None, None, load) == Capacity(load, 0, 0)
