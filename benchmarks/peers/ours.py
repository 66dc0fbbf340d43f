"""The daemon's own: `Ingest` with its checks and its guard, and `BinRing`."""

from __future__ import annotations

import time
from typing import Any

import zmq

from benchmarks.bench_wire_ingest import Context, DaemonReceiver
from benchmarks.peers.work import BATCH_NS, PAUSE_S, Case, Meter, Sending
from benchmarks.spike_data import RUN, STREAM, population
from contracts.spikes import Hello, SpikeBatch
from contracts.wire import pack

WAIT_MS = 1000


def send(case: Case) -> None:
    """Greet the receiver and send it each batch, as the project's sources do."""
    sending = Sending(case)
    context: Context = zmq.Context()
    with context, context.socket(zmq.XPUB) as socket:
        socket.set(zmq.XPUB_NODROP, 1)
        socket.bind(case.address)
        hello = pack(Hello(STREAM, RUN, source="benchmark", population=population()))
        while not sending.has_receiver:
            if socket.poll(1) and socket.recv()[:1] == b"\x01":
                socket.send_multipart(hello)
        for batch in sending.due():
            if batch is None:
                time.sleep(PAUSE_S)
                continue
            start_ns = batch.start_ns
            message = SpikeBatch(
                stream=STREAM,
                run=RUN,
                seq=batch.seq,
                start_ns=start_ns,
                stop_ns=start_ns + BATCH_NS,
                spike_time_ns=batch.times_ns,
                unit_index=batch.units,
            )
            socket.send_multipart(pack(message))


def receive(case: Case) -> dict[str, Any]:
    """Take in and bin what comes."""
    meter = Meter(case)
    receiver = DaemonReceiver()
    receiver.connect(case.address)
    while not receiver.has_begun:
        receiver.wait(1)  # a thread reads the hello: nothing more may come
        list(receiver.step())
    meter.ready()
    while not meter.is_over:
        receiver.wait(WAIT_MS)
        list(receiver.step())  # binned when the step is over
        meter.update(receiver.n_spikes)
    receiver.close()
    return meter.result(receiver.n_spikes)
