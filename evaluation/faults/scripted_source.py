"""A source whose clock, hellos and name are chosen: a real publisher of made-up spikes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from secrets import token_hex
from threading import Event, Thread
from types import TracebackType
from typing import Self

import numpy as np
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.population import Population, Unit
from contracts.spikes import Hello, SpikeBatch
from stream_sources.publisher import SpikePublisher

BATCH_NS = 20_000_000
RATE_HZ = 20.0  # Of each unit


class ScriptedSource:
    """Sends a batch every 20 ms; those that begin together cover the same spans.

    `shift_s` is added to session time, and may be changed while it runs.
    """

    def __init__(self, address: str, units: Sequence[Unit], stream: str) -> None:
        self.shift_s = 0.0
        self.n_spikes = 0
        self._hello = Hello(stream, token_hex(8), "scripted", Population(units))
        self._address = address
        self._is_over = Event()
        self._thread = Thread(target=self._run, name=stream, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def send_shifted(self, n_batches: int, shift_s: float) -> None:
        """Shift the clock for so many batches, and back."""
        self.shift_s = shift_s
        time.sleep(n_batches * BATCH_NS / NS_PER_S)
        self.shift_s = 0.0

    def _run(self) -> None:
        rng = np.random.default_rng(0)
        n_units = len(self._hello.population)
        with zmq.Context() as context:
            publisher = SpikePublisher(context, self._address, self._hello, HostClock())
            while not self._is_over.is_set() and not publisher.n_subscribers:
                publisher.serve(wait_ms=20)
            # On one grid of the host's clock, so that several sources have the same time.
            index = time.monotonic_ns() // BATCH_NS
            seq = 0
            while not self._is_over.wait(max(0.0, _due_in_s(index + 1))):
                start_ns = index * BATCH_NS + round(self.shift_s * NS_PER_S)
                n_spikes = rng.poisson(RATE_HZ * n_units * BATCH_NS / NS_PER_S)
                times = np.sort(rng.integers(start_ns, start_ns + BATCH_NS, n_spikes))
                publisher.send(
                    SpikeBatch(
                        self._hello.stream,
                        self._hello.run,
                        seq,
                        start_ns,
                        start_ns + BATCH_NS,
                        times.astype(np.int64),
                        rng.integers(0, n_units, n_spikes).astype(np.uint32),
                    )
                )
                self.n_spikes += n_spikes
                index, seq = index + 1, seq + 1
            publisher.send_end()
            publisher.close(is_urgent=True)


def _due_in_s(index: int) -> float:
    return (index * BATCH_NS - time.monotonic_ns()) / NS_PER_S
