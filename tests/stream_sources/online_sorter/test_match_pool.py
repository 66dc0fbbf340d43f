"""Blocks matched by several processes: the same spikes, and no process that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from contracts.errors import ChildError
from stream_sources.online_sorter import match_pool
from stream_sources.online_sorter.blocks import VoltageBlock
from stream_sources.online_sorter.match_pool import MatchPool, automatic_workers
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from tests.support.ground_truth import ground_truth
from tests.support.listed_voltages import ListedVoltages, cut
from tests.support.wait_until import wait_until

N_SAMPLES = 40_000
METHOD = "nearest"
"""The cheapest to compile; how blocks are handed out does not depend on it."""


@pytest.fixture(scope="module")
def pool():
    """Start two processes."""
    started = MatchPool(ground_truth().templates, (METHOD,), n_workers=2)
    yield started
    started.close()


def blocks(margin: int, n_blocks: int) -> list[VoltageBlock]:
    """Return the first blocks of the recording."""
    traces = ground_truth().recording.get_traces(end_frame=N_SAMPLES, return_in_uV=True)
    padded = np.pad(traces.astype(np.float32), ((margin, margin), (0, 0)))
    edges = [(3000 * n, 3000 * (n + 1)) for n in range(n_blocks)]
    return [
        VoltageBlock(start, stop, padded[start : stop + 2 * margin].copy()) for start, stop in edges
    ]


def match_on(pool: MatchPool) -> None:
    """Match blocks until it fails: the end of a process is noticed when nothing else happens."""
    for _ in range(1000):
        for block in blocks(pool.margin, 8):
            pool.submit(block, METHOD)
        pool.take(at_most_pending=0)
        time.sleep(0.01)


def test_two_processes_find_what_one_finds_in_the_same_order():
    """Spike for spike, through the whole source."""
    voltages = ground_truth().recording.get_traces(end_frame=N_SAMPLES, return_in_uV=True)
    templates = ground_truth().templates
    sent = []
    for n_workers in (1, 2):
        options = SorterOptions(method=METHOD, n_workers=n_workers, speed=None)
        source = OnlineSorterSource(
            ListedVoltages(templates.layout, cut(voltages, [700])), templates, options
        )
        sent.append(list(source.batches()))
        source.close()
    assert sum(batch.n_spikes for batch in sent[0]) > 50
    assert len(sent[0]) == len(sent[1])
    for one, two in zip(*sent, strict=True):
        assert (one.seq, one.start_ns, one.stop_ns) == (two.seq, two.start_ns, two.stop_ns)
        np.testing.assert_array_equal(one.spike_time_ns, two.spike_time_ns)
        np.testing.assert_array_equal(one.unit_index, two.unit_index)


def test_blocks_come_out_in_their_order_and_no_more_wait_than_was_said(pool):
    """The oldest first, whichever is done first."""
    for block in blocks(pool.margin, 8):
        pool.submit(block, METHOD)
    taken = pool.take()
    assert pool.n_pending <= 2 * match_pool.BLOCKS_OF_A_WORKER
    taken += pool.take(at_most_pending=0)
    assert [matched.block.start for matched in taken] == [3000 * n for n in range(8)]
    assert all(matched.took_s > 0 for matched in taken)
    assert pool.n_pending == 0


def test_a_process_that_is_killed_ends_the_sorter_with_a_sentence():
    """As the system does when memory is short."""
    before = set(psutil.Process().children())
    broken = MatchPool(ground_truth().templates, (METHOD,), n_workers=2)
    workers = [
        child
        for child in set(psutil.Process().children()) - before
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[-1].kill()
    with pytest.raises(ChildError, match="a worker process of the sorter has ended"):
        match_on(broken)
    broken.close()


SORTING = """
import sys, time
from stream_sources.online_sorter.match_pool import MatchPool
from tests.support.ground_truth import ground_truth
if __name__ == "__main__":
    pool = MatchPool(ground_truth().templates, ("nearest",), n_workers=2)
    print("ready", flush=True)
    time.sleep(1000)
"""


def test_the_processes_end_with_one_that_is_killed(tmp_path):
    """Nobody is left who could tell them."""
    script = tmp_path / "sorting.py"
    script.write_text(SORTING)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(worker.is_running() for worker in workers))
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


def test_a_probe_is_given_one_worker_for_half_of_its_channels(monkeypatch):
    """And no more than there are cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert [automatic_workers(n) for n in (1, 192, 193, 384, 385, 5000)] == [1, 1, 2, 2, 3, 3]
