"""ezmsg: a publisher and a subscriber of one topic, by shared memory or by TCP.

These are what its units use inside `ez.run`: publisher with the default 32 buffers and
back-pressure, subscriber without a copy.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import ezmsg.core as ez
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.work import PAUSE_S, Case, CountTable, Meter, Sending

TOPIC = "SPIKES"


@dataclass
class SpikeMessage:
    """A batch; pickled with its arrays out of band."""

    start_ns: int
    times_ns: NDArray[np.int64]
    units: NDArray[np.uint32]


def helper(case: Case, transport: str) -> None:
    """Run the graph's server until this process is ended."""
    del transport
    host, _, port = case.address.removeprefix("tcp://").partition(":")
    server = ez.graphserver.GraphServer()
    server.start((host, int(port)))
    threading.Event().wait()


def send(case: Case, transport: str) -> None:
    """Publish each batch."""
    asyncio.run(_send(case, is_tcp=transport == "tcp"))


def receive(case: Case, transport: str) -> dict[str, Any]:
    """Bin each batch."""
    del transport
    return asyncio.run(_receive(case))


async def _send(case: Case, *, is_tcp: bool) -> None:
    sending = Sending(case)
    async with ez.GraphContext(_address(case)) as graph:
        publisher = await graph.publisher(TOPIC, force_tcp=is_tcp)
        nothing = SpikeMessage(0, np.empty(0, np.int64), np.empty(0, np.uint32))
        while not sending.has_receiver:
            await publisher.broadcast(nothing)
            await asyncio.sleep(0.05)
        for batch in sending.due():
            if batch is None:
                await asyncio.sleep(PAUSE_S)
                continue
            await publisher.broadcast(SpikeMessage(batch.start_ns, batch.times_ns, batch.units))
        # What waits is dropped when the publisher is closed, and the receiver is another process.
        while sending.n_left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _receive(case: Case) -> dict[str, Any]:
    meter, table = Meter(case), CountTable()
    async with ez.GraphContext(_address(case)) as graph:
        subscriber = await graph.subscriber(TOPIC)
        while not meter.is_over:
            async with subscriber.recv_zero_copy() as message:
                if len(message.units):
                    table.add(message.times_ns, message.units)
                    meter.update(table.n_spikes)
                else:
                    meter.ready()
                del message  # its arrays are views of a buffer that is given back now
    return meter.result(table.n_counted)


def _address(case: Case) -> tuple[str, int]:
    host, _, port = case.address.removeprefix("tcp://").partition(":")
    return host, int(port)
