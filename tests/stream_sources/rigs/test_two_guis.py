"""Two acquisition systems over sockets, of which one begins again: both on one clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

import numpy as np

from contracts.clock import NS_PER_S, HostClock
from contracts.population import Population, Unit
from contracts.spikes import Mark, SpikeBatch
from stream_sources.live import publish_live
from stream_sources.rigs.open_ephys.emulator import Fault
from stream_sources.rigs.open_ephys.source import OpenEphysSource
from stream_sources.rigs.synced_source import SyncOptions, on_clock_of
from stream_sources.source import SpikeBlock, cut_batches, new_run
from tests.support.emulated_gui import emulated_gui, table_of
from tests.support.wait_until import wait_until

SECONDS = 40
SAMPLE_NS = NS_PER_S // 30_000


class PulsedSession:
    """One unit at known times, and irregular pulses of 50 ms."""

    stream, run, label = "s", new_run(), "session"
    n_spikes = None
    span_ns = None
    population = Population([Unit("1")])

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.spikes_ns = np.sort(rng.integers(0, SECONDS * NS_PER_S, 4000))
        self.pulses_ns = np.cumsum(rng.integers(NS_PER_S // 4, NS_PER_S, 2 * SECONDS))

    def batches(self) -> Iterator[SpikeBatch]:
        units = np.zeros(len(self.spikes_ns), np.uint32)
        blocks = [SpikeBlock(0, SECONDS * NS_PER_S, self.spikes_ns, units)]
        return cut_batches(blocks, stream=self.stream, run=self.run, batch_ns=20_000_000)

    def marks(self) -> Iterator[Mark]:
        for begin_ns in self.pulses_ns.tolist():
            yield Mark(self.stream, self.run, begin_ns, begin_ns + 50_000_000, "pulse", 0)

    def close(self) -> None:
        return


def test_a_gui_that_begins_again_keeps_to_the_clock_of_the_other():
    """12 s into the session its samples count from 0; its spikes are where the other has them."""
    session, stop = PulsedSession(), Event()
    bound: list[str] = []
    with (
        emulated_gui(session, speed=10.0) as first,
        emulated_gui(session, speed=10.0, faults=[Fault("restart", 12.0)]) as second,
    ):
        reference = OpenEphysSource(first.address, table_of(first), end_silence_s=5)
        thread = Thread(
            target=publish_live,
            args=(reference, "tcp://127.0.0.1:*", HostClock()),
            kwargs={"on_bound": bound.append, "should_stop": stop.is_set},
        )
        thread.start()
        try:
            wait_until(lambda: bound)
            ours = OpenEphysSource(second.address, table_of(second), end_silence_s=2)
            synced = on_clock_of(ours, SyncOptions(bound[0], "TTL line 1"))
            with closing(synced):
                batches = list(synced.batches())
        finally:
            stop.set()
            thread.join()
    assert ours.counters.n_runs == 2
    assert synced.counters.n_fits == 2
    assert len({batch.run for batch in batches}) == 2
    sent_ns = np.concatenate([batch.spike_time_ns for batch in batches])
    distance_ns = np.abs(sent_ns[:, None] - session.spikes_ns).min(axis=1)
    assert len(sent_ns) > 1500
    assert distance_ns.max() <= 2 * SAMPLE_NS
    after = [batch for batch in batches if batch.run == batches[-1].run]
    assert after[0].start_ns > 12 * NS_PER_S  # of the session, not of its own samples
