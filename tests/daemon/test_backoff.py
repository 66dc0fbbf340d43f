"""Pauses that double, and begin anew for what was well."""

from daemon.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, Backoff
from tests.support.manual_clock import ManualClock

S = 1_000_000_000


def test_pauses_double_up_to_the_longest():
    """From half a second to half a minute, and no further."""
    backoff = Backoff(ManualClock(), healthy_after_s=10)
    backoff.begin()
    pauses = [backoff.end() for _ in range(8)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[6:] == [LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_what_was_well_begins_at_the_first():
    """One that ran for longer than a failing one would is tried again soon."""
    clock = ManualClock()
    backoff = Backoff(clock, healthy_after_s=10)
    pauses = []
    for lived_s in (0, 10, 11):
        backoff.begin()
        clock.ns += lived_s * S
        pauses.append(backoff.end())
    assert pauses == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, FIRST_PAUSE_S]


def test_a_pause_is_over_in_time():
    """There is none at first; then it lasts as long as was returned."""
    clock = ManualClock()
    backoff = Backoff(clock, healthy_after_s=10)
    assert backoff.is_over
    backoff.begin()
    pause_ns = round(backoff.end() * S)
    clock.ns += pause_ns - 1
    assert not backoff.is_over
    clock.ns += 1
    assert backoff.is_over
