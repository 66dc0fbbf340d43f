"""Pulses matched and fitted: planted offsets, drift, jumps, sawtooth times, periodic trains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from stream_sources.rigs.clock_sync import (
    MIN_PULSES,
    ClockFollower,
    fit_clock,
    match_pulses,
)

MS = 1_000_000
JITTER_NS = NS_PER_S // 30_000  # a pulse is seen at the next sample of either clock


def irregular(n: int = 60, seed: int = 0) -> NDArray[np.int64]:
    """Return pulses 0.3 to 1.7 s apart."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.integers(300 * MS, 1700 * MS, n))


def regular(n: int = 60) -> NDArray[np.int64]:
    """Return the 1 Hz of SpikeGLX."""
    return np.arange(n) * NS_PER_S


def seen_by_other(
    times_ns: NDArray[np.int64], *, offset_ns: int = 0, ppm: float = 0.0, seed: int = 1
) -> NDArray[np.int64]:
    """Return times on another clock, to a sample of 30 kHz."""
    jitter = np.random.default_rng(seed).integers(0, JITTER_NS, len(times_ns))
    drift_ns: NDArray[np.int64] = np.rint(times_ns * ppm * 1e-6).astype(np.int64)
    return times_ns + offset_ns + drift_ns + jitter


@given(
    offset_ns=st.integers(-(10**13), 10**13),
    ppm=st.floats(-60, 60),
    missed=st.sets(st.integers(0, 29), max_size=4),
    n_late=st.integers(0, 15),
)
@settings(max_examples=40, deadline=None)
def test_any_offset_and_drift_of_irregular_pulses_is_found(
    offset_ns: int, ppm: float, missed: set[int], n_late: int
):
    """Also if one source joins later, and misses some; times are translated to 0.1 ms."""
    ours_ns = irregular(30)
    reference_ns = np.delete(seen_by_other(ours_ns, offset_ns=offset_ns, ppm=ppm), sorted(missed))
    match = match_pulses(ours_ns, reference_ns[n_late:])
    assert match.problem == ""
    fit = fit_clock(ours_ns[match.ours], reference_ns[n_late:][match.reference])
    wanted_ns = seen_by_other(ours_ns, offset_ns=offset_ns, ppm=ppm)
    assert np.abs(fit.translate(ours_ns) - wanted_ns).max() < 0.1 * MS


def test_probes_24_ms_apart_are_joined():
    """At 50 millionths, over ten minutes: within a sample throughout, as drift is followed."""
    truth_ns = irregular(600)
    reference_ns = seen_by_other(truth_ns, offset_ns=24 * MS, ppm=50.0)
    follower = ClockFollower()
    errors_ns = []
    for ours, reference in zip(truth_ns.tolist(), reference_ns.tolist(), strict=True):
        if follower.fit is not None:  # as it is for the spikes before the pulse
            errors_ns.append(int(follower.fit.translate(np.array([ours]))[0]) - reference)
        follower.add(ours)
        follower.add_reference(reference)
    fit = follower.fit
    assert fit is not None
    assert fit.rate_error == pytest.approx(50e-6, abs=1e-6)
    assert len(errors_ns) > 580
    assert np.abs(errors_ns[20:]).max() < 2 * JITTER_NS
    assert fit.residual_ns < JITTER_NS


def test_drift_that_changes_is_followed():
    """A clock that warms up from -20 to 40 millionths within ten minutes."""
    truth_ns = irregular(600)
    ppm = np.linspace(-20, 40, 600)
    drift_ns = np.cumsum(np.diff(truth_ns, prepend=0) * ppm * 1e-6)
    reference_ns = truth_ns + np.rint(drift_ns).astype(np.int64)
    follower = ClockFollower()
    for ours, reference in zip(truth_ns.tolist(), reference_ns.tolist(), strict=True):
        follower.add(ours)
        follower.add_reference(reference)
    assert follower.fit is not None
    error_ns = follower.fit.translate(truth_ns[-1:]) - reference_ns[-1:]
    assert abs(int(error_ns[0])) < 0.5 * MS
    assert follower.fit.rate_error == pytest.approx(34e-6, abs=4e-6)  # the mean of two minutes


def test_pulses_with_wrong_times_do_not_move_the_fit():
    """One of five is up to 4 ms late: the median of slopes is that of the others."""
    ours_ns = irregular(60)
    reference_ns = seen_by_other(ours_ns, offset_ns=7 * NS_PER_S, ppm=10.0)
    late_ns = reference_ns.copy()
    late_ns[::5] += np.random.default_rng(2).integers(1 * MS, 4 * MS, 12)
    fit = fit_clock(ours_ns, late_ns)
    clean = np.arange(60) % 5 > 0
    assert np.abs(fit.translate(ours_ns) - reference_ns)[clean].max() < 0.1 * MS
    assert fit.max_residual_ns > 1 * MS
    assert fit.residual_ns < 2 * JITTER_NS


def test_periodic_pulses_are_refused():
    """They fit at every period, and the clocks may differ by any of them."""
    match = match_pulses(regular(), seen_by_other(regular(), offset_ns=24 * MS))
    assert len(match.ours) == 0
    assert "fit at several offsets" in match.problem
    assert "too regular" in match.problem


def test_periodic_pulses_are_refused_from_the_first_on():
    """Also while there are so few that a shift by a period has hardly a pair less."""
    follower = ClockFollower()
    for begin_ns in regular(40).tolist():
        follower.add(begin_ns)
        assert follower.fit is None
        follower.add_reference(begin_ns)
        assert follower.fit is None
    assert "too regular" in follower.problem


@pytest.mark.parametrize("offset_ms", [-240, 0, 24, 240])
def test_periodic_pulses_are_matched_within_half_a_period(offset_ms: int):
    """If the clocks are known to differ by less than that."""
    reference_ns = seen_by_other(regular(), offset_ns=offset_ms * MS, ppm=50.0)
    match = match_pulses(regular(), reference_ns, within_ns=300 * MS)
    fit = fit_clock(regular()[match.ours], reference_ns[match.reference])
    assert fit.reference_ns - fit.ours_ns == pytest.approx(offset_ms * MS, abs=2 * MS)


@pytest.mark.parametrize(
    ("offset_ms", "within_ms", "text"),
    [(450, 300, "at no offset smaller than 0.3 s"), (24, 1100, "fit at several offsets")],
)
def test_periodic_pulses_beyond_what_is_known_are_refused(
    offset_ms: int, within_ms: int, text: str
):
    """Neither an offset that is larger than was said, nor a limit that lets two fit."""
    reference_ns = seen_by_other(regular(), offset_ns=offset_ms * MS)
    match = match_pulses(regular(), reference_ns, within_ns=within_ms * MS)
    assert text in match.problem
    assert len(match.ours) == 0


def test_pulses_of_another_line_are_refused():
    """Two trains that have nothing to do with each other."""
    match = match_pulses(irregular(60, seed=1), irregular(60, seed=2))
    assert match.problem == "the pulses of the two clocks fit at no offset"


def test_too_few_pulses_are_not_enough():
    """With how many there are."""
    follower = ClockFollower()
    pulses = irregular(MIN_PULSES - 1).tolist()
    for begin_ns in pulses:
        follower.add(begin_ns)
        follower.add_reference(begin_ns)
    assert follower.fit is None
    assert follower.problem == "7 pulses have come, and 8 are needed"


def feed(follower: ClockFollower, ours: NDArray[np.int64], reference: NDArray[np.int64]) -> None:
    for one, other in zip(ours.tolist(), reference.tolist(), strict=True):
        follower.add(one)
        follower.add_reference(other)


@pytest.mark.parametrize("jump_ms", [-40, 24, 500])
def test_a_jump_is_noticed_after_two_pulses(jump_ms: int):
    """The fit is gone; it is back, with the new offset, after eight pulses more."""
    ours_ns = irregular(60)
    reference_ns = ours_ns.copy()
    reference_ns[30:] += jump_ms * MS
    follower = ClockFollower()
    feed(follower, ours_ns[:31], reference_ns[:31])
    assert follower.fit is not None
    feed(follower, ours_ns[31:32], reference_ns[31:32])
    assert follower.fit is None
    assert "a clock has jumped" in follower.problem
    feed(follower, ours_ns[32:41], reference_ns[32:41])
    assert follower.fit is not None
    assert follower.fit.reference_ns - follower.fit.ours_ns == pytest.approx(jump_ms * MS, abs=MS)


def test_a_clock_that_goes_back_begins_again():
    """An acquisition that was started anew."""
    follower = ClockFollower()
    feed(follower, irregular(20), irregular(20))
    follower.add(0)
    assert follower.fit is None
    assert "went back" in follower.problem


def test_pulses_that_one_side_lacks_change_nothing():
    """A message that was lost is no jump."""
    ours_ns = irregular(60)
    follower = ClockFollower()
    feed(follower, ours_ns[:20], ours_ns[:20])
    for begin_ns in ours_ns[20:26].tolist():
        follower.add(begin_ns)
    feed(follower, ours_ns[26:], ours_ns[26:])
    assert follower.fit is not None
    assert follower.fit.n_pulses == 54


def test_the_other_sources_pulses_may_come_later():
    """Its blocks are longer, or its process slower."""
    ours_ns = irregular(40)
    follower = ClockFollower()
    for begin in range(0, 40, 5):
        for begin_ns in ours_ns[begin : begin + 5].tolist():
            follower.add(begin_ns)
        for begin_ns in ours_ns[begin : begin + 5].tolist():
            follower.add_reference(begin_ns + 3 * NS_PER_S)
    assert follower.fit is not None
    assert follower.fit.reference_ns - follower.fit.ours_ns == 3 * NS_PER_S


@pytest.mark.parametrize(("block_ms", "is_fitted"), [(1, True), (23, False)])
def test_sawtooth_time_stamps_are_reported_or_refused(block_ms: int, is_fitted: bool):
    """Times that run within a block and are set at its begin: the residual says by how much."""
    ours_ns = irregular(40)
    block_ns = block_ms * MS
    # The block is longer on the reference's clock by a tenth, and corrected at each begin.
    reference_ns = ours_ns + (ours_ns % (block_ns * 97 // 10)) // 10
    follower = ClockFollower()
    feed(follower, ours_ns, reference_ns)
    assert (follower.fit is not None) is is_fitted
    if follower.fit is not None:
        assert 0.1 * MS < follower.fit.residual_ns < block_ns
        assert abs(follower.fit.rate_error) < 20e-6
    else:
        assert "a clock is not steady" in follower.problem or "at no offset" in follower.problem


def test_a_wrong_sampling_rate_is_named():
    """30,000 Hz taken for 30,009 is no drift of a crystal."""
    follower = ClockFollower()
    feed(follower, irregular(20), seen_by_other(irregular(20), ppm=300.0))
    assert follower.fit is None
    assert "is a sampling rate wrong" in follower.problem


def test_times_of_a_long_session_keep_their_nanoseconds():
    """A float has 2 ns after 104 days; the drift alone is one."""
    ours_ns = irregular(20) + 200 * 86_400 * NS_PER_S
    fit = fit_clock(ours_ns, ours_ns - 5)
    assert (fit.translate(ours_ns) == ours_ns - 5).all()
