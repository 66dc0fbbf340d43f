"""Lab Streaming Layer: a sample for each spike, its unit in one channel and its time as the stamp.

The receiver pulls as many samples at once as a batch has, into numpy arrays.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.work import NS_PER_S, PAUSE_S, WINDOW, Case, CountTable, Meter, Sending

CONFIG = "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n"
"""Only this machine is asked who sends."""

TIMEOUT_S = 60.0


def send(case: Case) -> None:
    """Push each batch as a chunk, with a time for each sample."""
    pylsl = _pylsl(case)
    sending = Sending(case)
    info = pylsl.StreamInfo("spikes", "Spikes", 1, pylsl.IRREGULAR_RATE, "int32", case.address)
    outlet = pylsl.StreamOutlet(info, max_buffered=_buffered(case))
    while not (outlet.have_consumers() and sending.has_receiver):
        time.sleep(0.01)
    for batch in sending.due():
        if batch is None:
            time.sleep(PAUSE_S)
            continue
        units = batch.units.astype(np.int32)[:, None]
        outlet.push_chunk(units, (batch.times_ns / NS_PER_S).tolist())
    while sending.n_left:  # what waits is dropped when the outlet is closed
        time.sleep(0.01)


def receive(case: Case) -> dict[str, Any]:
    """Bin each batch."""
    pylsl = _pylsl(case)
    meter, table = Meter(case), CountTable()
    found = pylsl.resolve_byprop("source_id", case.address, timeout=TIMEOUT_S)
    inlet = pylsl.StreamInlet(found[0], max_buflen=_buffered(case), recover=False)
    inlet.open_stream(timeout=TIMEOUT_S)
    meter.ready()
    while not meter.is_over:
        units, times_s = inlet.pull_chunk(TIMEOUT_S, case.n_spikes, as_numpy=True)
        times_ns = np.rint(times_s * NS_PER_S).astype(np.int64)
        table.add(times_ns, units[:, 0])
        meter.update(table.n_spikes)
    return meter.result(table.n_counted)


def _buffered(case: Case) -> int:
    """Return hundreds of samples: twice what the sender may be ahead."""
    return 2 * WINDOW * case.n_spikes // 100 + 1


def _pylsl(case: Case) -> Any:
    """Import the library, which reads its configuration when it is first used."""
    config = Path(f"{case.board}.cfg")
    config.write_text(CONFIG, encoding="utf-8")
    os.environ["LSLAPICFG"] = str(config)
    import pylsl

    return pylsl
