"""timeflux: its ZeroMQ nodes, with its broker between them.

The receiver is a graph of two nodes under timeflux's scheduler, which looks for messages at a fixed
rate. A batch is a data frame with a time index, as everything in timeflux is.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from timeflux.core.exceptions import WorkerInterrupt
from timeflux.core.graph import Graph
from timeflux.core.node import Node
from timeflux.core.scheduler import Scheduler
from timeflux.nodes.zmq import Broker, Pub, Sub

from benchmarks.peers.work import PAUSE_S, Batch, Case, CountTable, Meter, Sending

TOPIC = "spikes"
RATE_HZ = 1000
"""Of the scheduler; its default is one."""


class CountNode(Node):  # type: ignore[misc]
    """Bins what comes in."""

    def __init__(self, meter: Meter, table: CountTable) -> None:
        self._meter = meter
        self._table = table

    def update(self) -> None:
        """Count the spikes of the data frame, if there is one.

        Raises
        ------
        WorkerInterrupt
            After the last; it ends the scheduler.
        """
        if self.i.meta:
            self._meter.ready()
        frame = self.i.data
        if frame is None:
            return
        self._table.add(frame.index.to_numpy().view(np.int64), frame["unit"].to_numpy())
        self._meter.update(self._table.n_spikes)
        if self._meter.is_over:
            raise WorkerInterrupt


def helper(case: Case) -> None:
    """Run the broker until this process is ended."""
    Broker(address_in=case.address, address_out=_out(case)).update()


def send(case: Case) -> None:
    """Publish each batch."""
    sending = Sending(case)
    publisher = Pub(topic=TOPIC, address=case.address)
    while not sending.has_receiver:
        _publish(publisher, None, {"is_test": True})
        time.sleep(0.05)
    for batch in sending.due():
        if batch is None:
            time.sleep(PAUSE_S)
        else:
            _publish(publisher, _frame(batch), {})
    while sending.n_left:  # what waits is dropped when the socket is closed
        time.sleep(0.01)


def receive(case: Case) -> dict[str, Any]:
    """Bin each batch."""
    meter, table = Meter(case), CountTable()
    nodes = {"sub": Sub(topics=[TOPIC], address=_out(case)), "count": CountNode(meter, table)}
    graph = Graph(
        {
            "nodes": [{"id": name} for name in nodes],
            "edges": [{"source": f"sub:{TOPIC}", "target": "count"}],
        }
    )
    graph.build()
    with suppress(WorkerInterrupt):
        Scheduler(graph.traverse(), nodes, RATE_HZ).run()
    return meter.result(table.n_counted)


def _publish(publisher: Pub, frame: pd.DataFrame | None, meta: dict[str, Any]) -> None:
    publisher.clear()
    publisher.i.data, publisher.i.meta = frame, meta
    publisher.update()


def _frame(batch: Batch) -> pd.DataFrame:
    return pd.DataFrame({"unit": batch.units}, index=batch.times_ns.view("datetime64[ns]"))


def _out(case: Case) -> str:
    """Return the broker's other address."""
    head, _, port = case.address.rpartition(":")
    return f"{head}:{int(port) + 1}"
