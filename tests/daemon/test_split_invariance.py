"""The first property of the house: however a session comes, the windows are the offline ones.

Sessions of up to six probes with spikes on bin edges, cut into batches anywhere, interleaved in
any order, packed and unpacked, with the probes' units in another order than the encoder's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contracts.binning import BinRate, bin_spikes
from contracts.population import Population, Unit
from contracts.spikes import Hello, SpikeBatch
from contracts.window import Window, WindowSpec
from contracts.wire import pack, unpack
from daemon.bin_ring import BinRing
from daemon.stream_registry import StreamRegistry
from daemon.window_cutter import WindowCutter
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN

RATES = [BinRate(120), BinRate(50), BinRate(1000, 3), BinRate(30_000, 1001), BinRate(997)]
S = 1_000_000_000

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class Probe:
    """One stream's whole truth: its units' rows in the encoder, and its spikes."""

    name: str
    rows: list[int]
    start_ns: int
    stop_ns: int
    times: NDArray[np.int64]
    units: NDArray[np.uint32]


@st.composite
def sessions(draw: st.DrawFn):
    rate = draw(st.sampled_from(RATES))
    n_bins = draw(st.integers(1, 24))
    spec = WindowSpec(rate, n_bins, draw(st.integers(1, 30)))
    n_probes = draw(st.integers(1, 6))
    n_units = draw(st.integers(n_probes, 12))
    order = draw(st.permutations(range(n_units)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    origin_ns = draw(st.sampled_from([0, -S, 2852 * S + 187_037_000]))
    probes = []
    for k in range(n_probes):
        rows = order[k::n_probes]
        start_ns = origin_ns + draw(st.integers(0, S // 4))
        stop_ns = start_ns + draw(st.integers(S // 5, 2 * S))
        times, units = _spikes(rng, rate, start_ns, stop_ns, len(rows))
        probes.append(Probe(f"probe{k}", rows, start_ns, stop_ns, times, units))
    return spec, n_units, probes


def _spikes(
    rng: np.random.Generator, rate: BinRate, start_ns: int, stop_ns: int, n_units: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Spikes anywhere, and as many on bin edges and one nanosecond before them."""
    anywhere = rng.integers(start_ns, stop_ns, 60)
    bins = rng.integers(rate.bin_of(start_ns), rate.bin_of(stop_ns), 60)
    edges = np.array([rate.start_ns(int(b)) for b in bins])
    times = np.concatenate([anywhere, edges, edges - 1])
    times = times[(times >= start_ns) & (times < stop_ns)]
    return times, rng.integers(0, n_units, len(times)).astype(np.uint32)


def _batches(draw: Draw, probe: Probe) -> list[SpikeBatch]:
    """Cut a probe's session anywhere, in pieces of at most a second."""
    inner = draw(st.lists(st.integers(probe.start_ns + 1, probe.stop_ns - 1), max_size=12))
    whole = range(probe.start_ns, probe.stop_ns, S)
    cuts = sorted({probe.start_ns, probe.stop_ns, *inner, *whole})
    batches = []
    for seq, (start_ns, stop_ns) in enumerate(pairwise(cuts)):
        inside = (probe.times >= start_ns) & (probe.times < stop_ns)
        batches.append(
            SpikeBatch(
                stream=probe.name,
                run=RUN,
                seq=seq,
                start_ns=start_ns,
                stop_ns=stop_ns,
                spike_time_ns=probe.times[inside],
                unit_index=probe.units[inside],
            )
        )
    return batches


def _interleaved(draw: Draw, queues: list[list[SpikeBatch]]) -> list[SpikeBatch]:
    """Take from the queues in any order; each keeps its own."""
    queues = [list(queue) for queue in queues]
    merged = []
    while any(queues):
        choice = draw(st.sampled_from([k for k, queue in enumerate(queues) if queue]))
        merged.append(queues[choice].pop(0))
    return merged


def _streamed(
    spec: WindowSpec, population: Population, probes: list[Probe], batches: list[SpikeBatch]
) -> tuple[list[Window], int]:
    """Send everything through the wire, the registry, the ring and the cutter."""
    registry = StreamRegistry(population, "refuse")
    ring = BinRing(
        spec.rate, len(population), capacity_bins=4 * spec.rate.num, window_bins=spec.n_bins
    )
    cutter = WindowCutter(spec, ManualClock())
    for probe in probes:
        units = Population([population.units[row] for row in probe.rows])
        hello = unpack(pack(Hello(probe.name, RUN, "test", units)))
        assert isinstance(hello, Hello)
        assert registry.register(hello, host_ns=0)
        ring.add_stream(probe.name)
    assert not registry.missing_units()
    windows = []
    for batch in batches:
        arrived = unpack([bytes(part) for part in pack(batch)], received_host_ns=1)
        assert isinstance(arrived, SpikeBatch)
        (accepted,) = registry.accept(arrived).batches
        ring.add(accepted)
        windows += [window.detached() for window in cutter.ready(ring)]
    return windows, ring.take_report().n_binned


@given(session=sessions(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_streamed_windows_equal_offline_windows(session, data: st.DataObject):
    """For any cutting and any interleaving, streamed windows equal offline ones, bit for bit."""
    spec, n_units, probes = session
    population = Population([Unit(str(row), probe="p") for row in range(n_units)])
    batches = _interleaved(data.draw, [_batches(data.draw, probe) for probe in probes])
    windows, n_binned = _streamed(spec, population, probes, batches)

    times = np.concatenate([probe.times for probe in probes])
    rows = np.concatenate([np.array(probe.rows)[probe.units] for probe in probes])
    first = max(spec.rate.first_bin_at_or_after(probe.start_ns) for probe in probes)
    stop = min(spec.rate.bin_of(probe.stop_ns) for probe in probes)
    starts = range(spec.first_start_at_or_after(first), stop - spec.n_bins + 1, spec.stride_bins)
    assert list(starts) == [window.first_bin for window in windows]
    for window in windows:
        offline = bin_spikes(
            times, rows, first_bin=window.first_bin, n_bins=spec.n_bins, rate=spec.rate,
            n_units=n_units,
        )  # fmt: skip
        assert np.array_equal(offline, window.counts)
        assert window.n_gap_bins == 0
        assert window.blind_streams == ()
    assert n_binned == len(times)
