"""The fast loop fed with a ramp: what the tests of the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from contracts.binning import BinRate
from contracts.clock import Clock
from contracts.population import Population
from contracts.spikes import SourceMessage, SpikeBatch
from contracts.window import Window, WindowSpec
from tests.support.daemon_components import (
    Context,
    DaemonLoop,
    SentMessages,
    connected_source,
    daemon_loop,
)
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import (
    RUN,
    batch_of,
    ramp_numbers,
    ramp_population,
    ramp_spikes,
)

RATE = BinRate(100)
BIN_NS = 10_000_000
SPEC = WindowSpec(RATE, n_bins=20, stride_bins=20)


class FedLoop:
    """A fast loop with its source."""

    def __init__(self, daemon: DaemonLoop, source: SentMessages) -> None:
        self.loop, self.ingest, self.counters = daemon.loop, daemon.ingest, daemon.counters
        self.encoder, self.publisher = daemon.encoder, daemon.publisher
        self.source = source

    def receive(self, *messages: SourceMessage) -> None:
        """Send messages, and let the loop make one step."""
        self.source.send(*messages)
        self.loop.step()


Start = Callable[..., FedLoop]


@contextmanager
def fed_loops(context: Context) -> Iterator[Start]:
    """Yield a function that starts a fast loop; it takes the options of `daemon_loop`."""
    with ExitStack() as stack:

        def start(clock: Clock | None = None, **options: Any) -> FedLoop:
            clock = clock or ManualClock()
            daemon = stack.enter_context(daemon_loop(context, clock, SPEC, **options))
            return FedLoop(daemon, connected_source(daemon.ingest))

        yield start


def ramp(
    start_bin: int,
    stop_bin: int,
    *,
    n_bins: int = 10,
    run: str = RUN,
    stream: str = "probeA",
    bits: Sequence[int] | None = None,
    first_seq: int = 0,
) -> list[SpikeBatch]:
    """Batches of a ramp; `bits` are the units of this stream, in its own order."""
    times, units = ramp_spikes(RATE, start_bin, stop_bin)
    if bits is not None:
        mine = np.isin(units, bits)
        times, units = times[mine], units[mine]
        units = np.array([bits.index(int(unit)) for unit in units], dtype=np.uint32)
    return [
        batch_of(
            times,
            units,
            start * BIN_NS,
            (start + n_bins) * BIN_NS,
            seq=first_seq + n,
            stream=stream,
            run=run,
        )
        for n, start in enumerate(range(start_bin, stop_bin, n_bins))
    ]


def part_of(bits: Sequence[int]) -> Population:
    return Population([ramp_population().units[bit] for bit in bits])


def numbers(windows: Sequence[Window]) -> list[list[int]]:
    return [ramp_numbers(window.counts) for window in windows]


def spans(*first_bins: int, n_bins: int = 20) -> list[list[int]]:
    return [list(range(first, first + n_bins)) for first in first_bins]
