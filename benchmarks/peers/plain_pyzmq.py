"""pyzmq and msgpack with nothing around them: PUSH to PULL, no check of anything."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import numpy as np
import zmq

from benchmarks.peers.work import PAUSE_S, Case, CountTable, Meter, Sending


def send(case: Case) -> None:
    """Send each batch as one part."""
    sending = Sending(case)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.bind(case.address)
        while not sending.has_receiver:
            time.sleep(0.001)
        for batch in sending.due():
            if batch is None:
                time.sleep(PAUSE_S)
                continue
            message = (batch.start_ns, batch.times_ns.tobytes(), batch.units.tobytes())
            socket.send(msgpack.packb(message))


def receive(case: Case) -> dict[str, Any]:
    """Bin each batch."""
    meter, table = Meter(case), CountTable()
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(case.address)
        meter.ready()
        while not meter.is_over:
            _, times, units = msgpack.unpackb(socket.recv())
            table.add(np.frombuffer(times, np.int64), np.frombuffer(units, np.uint32))
            meter.update(table.n_spikes)
    return meter.result(table.n_counted)
