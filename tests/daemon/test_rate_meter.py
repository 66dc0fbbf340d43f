"""Rates for displays: every spike once, bounded, and made only while somebody subscribes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.displays import MAX_RATE_UNITS, Rates, rates_of
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch
from daemon.bin_ring import BinRing
from daemon.publisher import Publisher
from daemon.rate_meter import MIN_APART_NS, RateMeter
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN

RATE = BinRate(120)
INTERVAL_BINS = 12
WINDOW_BINS = 20


@dataclass
class SubscribedPublisher:
    """Remembers what was published, as if somebody subscribed or nobody did."""

    is_subscribed: bool = True
    published: list[Rates] = field(default_factory=list)

    def has_subscriber(self, topic: bytes) -> bool:
        return self.is_subscribed and topic == b"rates"

    def publish(self, parts: list[bytes]) -> None:
        self.published.append(rates_of(json.loads(parts[1])))


class MeteredRing:
    """A ring that is filled by a test, and its meter, at real time."""

    def __init__(self, n_units: int = 4, *, capacity_bins: int = 1200) -> None:
        units = [Unit(str(n), area="VISp" if n % 2 else "LGd") for n in range(n_units)]
        population = Population(units)
        self.ring = BinRing(RATE, n_units, capacity_bins=capacity_bins, window_bins=WINDOW_BINS)
        self.publisher = SubscribedPublisher()
        self.clock = ManualClock()
        self.n_sent = 0
        self.meter = RateMeter(
            self.ring,
            [population.select(name) for name in ("all", "VISp", "silent")],
            cast(Publisher, self.publisher),
            self.clock,
            chunk_bins=WINDOW_BINS,
            fingerprint=population.fingerprint,
        )

    def send(self, first_bin: int, stop_bin: int, *, is_metered: bool = True) -> None:
        """Add a batch in which unit k fires k times a bin, and look for what is due."""
        bins = np.arange(first_bin, stop_bin)
        units = np.repeat(np.arange(self.ring.n_units), np.arange(self.ring.n_units))
        starts = np.array([RATE.start_ns(int(number)) for number in bins], dtype=np.int64)
        self.ring.add(
            SpikeBatch(
                stream="probeA",
                run=RUN,
                seq=self.n_sent,
                start_ns=RATE.start_ns(first_bin),
                stop_ns=RATE.start_ns(stop_bin),
                spike_time_ns=np.repeat(starts, len(units)),
                unit_index=np.tile(units, len(bins)).astype(np.uint32),
            )
        )
        self.n_sent += 1
        self.clock.ns += RATE.start_ns(stop_bin) - RATE.start_ns(first_bin)
        if is_metered:
            self.meter.publish_due()

    @property
    def published(self) -> list[Rates]:
        """What has been published."""
        return self.publisher.published


def test_ten_messages_a_second_hold_every_spike_once():
    """Intervals follow each other, and their counts are those of the spikes."""
    metered = MeteredRing()
    for first in range(0, 360, 3):
        metered.send(first, first + 3)
    published = metered.published
    assert [rates.seq for rates in published] == list(range(30))
    assert [rates.start_s for rates in published] == pytest.approx([n / 10 for n in range(30)])
    assert all(a.stop_s == b.start_s for a, b in pairwise(published))
    assert {tuple(rates.unit_counts) for rates in published} == {(0, 12, 24, 36)}


def test_populations_have_spikes_a_second_and_unit():
    """Of everything, of an area; null for a population without units."""
    metered = MeteredRing()
    metered.send(0, INTERVAL_BINS)
    hz = metered.published[0].populations_hz
    assert hz == {"all": pytest.approx(120 * 6 / 4), "VISp": pytest.approx(240), "silent": None}


def test_nothing_is_counted_while_nobody_subscribes():
    """And what was before somebody did is not sent later."""
    metered = MeteredRing()
    metered.publisher.is_subscribed = False
    metered.send(0, 120)
    metered.publisher.is_subscribed = True
    metered.send(120, 132)
    assert [(rates.seq, rates.start_s) for rates in metered.published] == [(0, 1.0)]


def test_a_fast_replay_gets_longer_intervals():
    """Two messages are a twentieth of a second apart; no spike is left out, none counted twice."""
    metered = MeteredRing()
    for first in range(0, 1200, INTERVAL_BINS):
        metered.clock.ns -= RATE.start_ns(INTERVAL_BINS)  # takes no time at all
        metered.send(first, first + INTERVAL_BINS)
        metered.clock.ns += MIN_APART_NS // 10
    published = metered.published
    assert 8 <= len(published) <= 11
    assert all(a.stop_s == b.start_s for a, b in pairwise(published))
    covered_s = published[-1].stop_s
    assert sum(rates.unit_counts[3] for rates in published) == pytest.approx(3 * 120 * covered_s)


def test_bins_that_the_ring_has_lost_are_left_out():
    """What is published is in the ring, whole."""
    metered = MeteredRing(capacity_bins=240)
    for first in range(0, 1200, 60):
        metered.send(first, first + 60, is_metered=first in {0, 1140})
    assert [(rates.start_s, rates.stop_s) for rates in metered.published] == [(0, 0.5), (8, 10)]


def test_gaps_are_counted():
    """Bins that a live stream did not cover."""
    metered = MeteredRing()
    metered.send(0, 6)
    metered.send(9, 24)
    assert sum(rates.n_gap_bins for rates in metered.published) == 3


def test_a_session_that_begins_anew_is_metered_from_its_beginning():
    """Its first interval, although it lies before the last one."""
    metered = MeteredRing()
    metered.send(600, 612)
    metered.ring.begin_session(["probeA"])
    metered.send(0, 12)
    assert [rates.start_s for rates in metered.published] == pytest.approx([5.0, 0.0])


def test_a_message_of_many_units_is_bounded():
    """Of more than 4,096 units every second is sent, or fewer."""
    metered = MeteredRing(MAX_RATE_UNITS + 1, capacity_bins=240)
    metered.ring.add(
        SpikeBatch(
            stream="probeA",
            run=RUN,
            seq=0,
            start_ns=0,
            stop_ns=RATE.start_ns(INTERVAL_BINS),
            spike_time_ns=np.array([0], dtype=np.int64),
            unit_index=np.array([4], dtype=np.uint32),
        )
    )
    metered.meter.publish_due()
    rates = metered.published[0]
    assert (rates.unit_step, len(rates.unit_counts)) == (2, MAX_RATE_UNITS // 2 + 1)
    assert rates.unit_counts[2] == 1
