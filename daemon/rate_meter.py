"""Counts spikes for displays, ten times a second of the session, while somebody subscribes.

A display of the units needs no spike times. What it gets here is bounded, and comes from the ring,
where every spike has its bin already; a display that listened to the source in their place would
slow a lossless replay down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, Clock, ns_to_second
from contracts.displays import (
    MAX_RATE_POPULATIONS,
    MAX_RATE_UNITS,
    RATE_DIGITS,
    RATES_TOPIC,
    Rates,
    pack_rates,
)
from contracts.population import Selection
from daemon.bin_ring import BinRing
from daemon.publisher import Publisher

INTERVALS_PER_S = 10
"""Of session time: what moves smoothly for the eye, and 4 kB each for 1,000 units."""

MIN_APART_NS = NS_PER_S // 20
"""Of host time, between two messages: a replay at fifty times real time sends longer intervals."""


class RateMeter:
    """Publishes the counts of intervals that have become complete. Called on the fast loop.

    `chunk_bins` is the most that the ring gives at once: the bins of a window. `fingerprint`
    identifies the units.
    """

    def __init__(
        self,
        ring: BinRing,
        selections: Sequence[Selection],
        publisher: Publisher,
        clock: Clock,
        *,
        chunk_bins: int,
        fingerprint: str,
    ) -> None:
        shown = selections[:MAX_RATE_POPULATIONS]
        self._ring = ring
        self._publisher = publisher
        self._clock = clock
        self._chunk_bins = chunk_bins
        self._fingerprint = fingerprint
        self._interval_bins = max(1, math.ceil(ring.rate.bins_per_s / INTERVALS_PER_S))
        self._names = [selection.name for selection in shown]
        self._n_units = np.array([selection.n_units for selection in shown])
        self._masks = np.array([selection.mask for selection in shown], dtype=np.int64)
        self._unit_step = math.ceil(ring.n_units / MAX_RATE_UNITS)
        self._next_bin: int | None = None
        self._generation = ring.generation
        self._due_ns = 0
        self._seq = 0

    def publish_due(self) -> None:
        """Publish the interval that has become complete, if there is one; never waits."""
        ring, n = self._ring, self._interval_bins
        if ring.begin_bin is None or ring.generation != self._generation:
            self._generation, self._next_bin = ring.generation, None
        if ring.begin_bin is None:
            return
        if self._next_bin is None:
            self._next_bin = -(-ring.begin_bin // n) * n
        start, stop = self._next_bin, ring.complete_until // n * n
        if stop <= start:
            return
        if not self._publisher.has_subscriber(RATES_TOPIC):
            self._next_bin = stop
            return
        now_ns = self._clock.now_ns()
        if now_ns < self._due_ns:
            return  # the next message covers this interval as well
        start = max(start, -(-ring.oldest_bin // n) * n)
        if start < stop:
            self._publisher.publish(pack_rates(self._rates(start, stop, now_ns)))
            self._due_ns = now_ns + MIN_APART_NS
            self._seq += 1
        self._next_bin = stop

    def _rates(self, start: int, stop: int, now_ns: int) -> Rates:
        rate = self._ring.rate
        counts, n_gap_bins = self._counts(start, stop)
        start_s, stop_s = ns_to_second(rate.start_ns(start)), ns_to_second(rate.start_ns(stop))
        # Sums of numpy itself: those of BLAS may start threads, which take the encoder's cores.
        sums = np.einsum("pu,u->p", self._masks, counts)
        hz = sums / np.maximum(self._n_units, 1) / (stop_s - start_s)
        by_name = zip(self._names, hz.tolist(), self._n_units.tolist(), strict=True)
        return Rates(
            seq=self._seq,
            host_ns=now_ns,
            fingerprint=self._fingerprint,
            start_s=start_s,
            stop_s=stop_s,
            n_gap_bins=n_gap_bins,
            populations_hz={
                name: round(value, RATE_DIGITS) if n_units else None
                for name, value, n_units in by_name
            },
            unit_step=self._unit_step,
            unit_counts=counts[:: self._unit_step].tolist(),
        )

    def _counts(self, start: int, stop: int) -> tuple[NDArray[np.int64], int]:
        """Return the spikes of each unit, shape (n_units,), and the bins with a gap."""
        counts = np.zeros(self._ring.n_units, dtype=np.int64)
        n_gap_bins = 0
        for first in range(start, stop, self._chunk_bins):
            n_bins = min(self._chunk_bins, stop - first)
            counts += self._ring.counts(first, n_bins).sum(axis=0, dtype=np.int64)
            n_gap_bins += self._ring.gaps(first, n_bins)[0]
        return counts, n_gap_bins
