"""The worker client with a real worker: none forgotten, replaced when it dies or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from contracts.clock import HostClock
from contracts.errors import DependencyError, UserError
from contracts.manifest import Manifest
from contracts.narration import Status
from daemon.worker.connection import WorkerSecret
from tests.support.daemon_components import Context, encoded
from tests.support.narrator_clients import (
    Collector,
    arguments,
    has_narrated,
    windows,
    worker_client,
)
from tests.support.tiny_bundle import CAPTIONS


def test_every_batch_is_accounted_for(context: Context, stub_bundle: Manifest):
    """With a real worker that is killed now and then: narrated, replaced or failed, in order."""
    with worker_client(context, arguments(stub_bundle)) as client:
        collector = Collector(client)
        collector.ready()
        offered = 0
        for n, batch in enumerate(windows(200)):
            if n == 100 and client.worker_pid:
                os.kill(client.worker_pid, signal.SIGKILL)
            client.offer(encoded(batch))
            offered += 1
            if n % 3 == 0:
                collector.collect()
        collector.until(lambda: client.n_unfinished == 0, "an idle client")
        assert offered == len(collector.narrated) / 2 + client.dropped["narrator_busy"]
        assert sum(client.dropped.values()) == offered - len(collector.seqs)
        assert collector.seqs == sorted(set(collector.seqs))
        assert collector.narrated[-1].embedding.window.seq == 199


def test_narrations_come_back_with_their_window(context: Context, stub_bundle: Manifest):
    """A real worker returns the caption that the patches point to, with stamps in order."""
    with worker_client(context, arguments(stub_bundle)) as client:
        collector = Collector(client)
        collector.ready()
        before_ns = HostClock().now_ns()
        for n, batch in enumerate(windows(6)):
            client.offer(encoded(batch))
            collector.until(partial(has_narrated, collector, n + 1))
    for narrated in collector.narrated:
        utterance = narrated.utterance
        assert utterance.text == CAPTIONS[narrated.embedding.window.seq % 3]
        assert before_ns <= utterance.start_host_ns <= utterance.first_token_host_ns
        assert narrated.provenance.backend == "retrieval"
    assert collector.seqs == list(range(6))


def test_killed_worker_is_replaced(context: Context, stub_bundle: Manifest):
    """kill -9 with a batch under way: the batch fails, the next worker narrates the newest."""
    with worker_client(context, arguments(stub_bundle)) as client:
        collector = Collector(client)
        collector.ready()
        first = client.worker_pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the batch is under way when it dies
        batches = windows(3)
        for batch in batches:
            client.offer(encoded(batch))
        os.kill(first, signal.SIGKILL)
        collector.until(lambda: collector.failures == ["the narrator worker died"])
        collector.until(lambda: collector.seqs == [2], "the newest batch")
        assert client.n_restarts == 1
        assert client.worker_pid not in {None, first}
        assert client.dropped == {"narrator_busy": 1, "worker_died": 1}


def test_stopped_worker_continues_with_the_newest(context: Context, stub_bundle: Manifest):
    """A real process that was stopped until it was missed narrates the newest window."""
    with worker_client(context, arguments(stub_bundle)) as client:
        collector = Collector(client)
        collector.ready()
        assert client.worker_pid is not None
        os.kill(client.worker_pid, signal.SIGSTOP)
        batches = windows(8)
        for batch in batches[:7]:
            client.offer(encoded(batch))
        collector.until(lambda: client.problem, "a worker that is missed")
        client.offer(encoded(batches[7]))
        os.kill(client.worker_pid, signal.SIGCONT)
        collector.until(lambda: collector.seqs)
    assert collector.seqs == [7]
    assert client.dropped == {"narrator_busy": 6, "worker_stopped": 1}


def test_hanging_worker_is_killed_and_replaced(context: Context, stub_bundle: Manifest):
    """A real process that hangs in a batch is killed after its time, even while it is stopped."""
    with worker_client(context, arguments(stub_bundle), batch_timeout_s=0.2) as client:
        collector = Collector(client)
        collector.ready()
        assert client.worker_pid is not None
        os.kill(client.worker_pid, signal.SIGSTOP)
        first, second = windows(2)
        client.offer(encoded(first))
        collector.until(lambda: collector.failures)
        collector.ready()
        client.offer(encoded(second))
        collector.until(lambda: collector.seqs == [1])
        assert client.n_restarts == 1


def test_bundle_without_captions_is_the_users_error(context: Context, tmp_path: Path):
    """A model that cannot be loaded is reported in one sentence, and the worker is gone."""
    from tests.support.tiny_bundle import write_stub_bundle

    bare = write_stub_bundle(tmp_path / "bare")
    with (
        worker_client(context, arguments(bare)) as client,
        pytest.raises(UserError, match=r"the narrator cannot start: .* has no captions\.jsonl"),
    ):
        Collector(client).until(lambda: False)


def test_bundle_that_was_replaced_is_the_users_error(context: Context, stub_bundle: Manifest):
    """Another manifest than the daemon's: nothing is narrated from two bundles at once."""
    other = [*arguments(stub_bundle), "--bundle-sha256", "0" * 64]
    with (
        worker_client(context, other) as client,
        pytest.raises(UserError, match="it was replaced since the daemon started"),
    ):
        Collector(client).ready()


def test_missing_model_is_the_users_error(context: Context, stub_bundle: Manifest, tmp_path: Path):
    """A llava model that is not there is reported in one sentence."""
    llava = arguments(stub_bundle, backend="llava", model=str(tmp_path / "nothing"), device="cpu")
    with (
        worker_client(context, llava) as client,
        pytest.raises((UserError, DependencyError), match=r"the narrator cannot start: .*nothing"),
    ):
        Collector(client).until(lambda: False)


def test_llava_narrates_from_its_process(context: Context, stub_bundle: Manifest, tiny_llava: Path):
    """The language model in a real worker: text, tokens and a log-probability come back."""
    llava = arguments(
        stub_bundle, backend="llava", model=str(tiny_llava), device="cpu", max_new_tokens=4
    )
    with worker_client(context, llava) as client:
        collector = Collector(client)
        collector.ready()
        client.offer(encoded(windows(1)[0]))
        collector.until(lambda: has_narrated(collector, 1))
    for utterance in (narrated.utterance for narrated in collector.narrated):
        assert utterance.status in {Status.OK, Status.TRUNCATED}
        assert 1 <= utterance.n_tokens <= 4
        assert utterance.mean_logprob is not None


def test_stop_has_a_deadline(context: Context, stub_bundle: Manifest):
    """A worker that hangs is killed at the deadline; its folder is gone."""
    with worker_client(context, arguments(stub_bundle)) as client:
        Collector(client).ready()
        assert client.worker_pid is not None
        process = psutil.Process(client.worker_pid)
        folder = client._socket.folder.path
        process.suspend()
        client.close(deadline_s=0.1)
        assert not process.is_running()
        assert not folder.exists()


def test_worker_does_not_survive_the_closing_of_its_stdin(stub_bundle: Manifest, tmp_path: Path):
    """Its lifeline cut, it ends with code 0, though nothing ever answered it."""
    address = f"ipc://{tmp_path}/worker"
    command = [sys.executable, "-m", "daemon.worker", "--address", address]
    worker = subprocess.Popen([*command, *arguments(stub_bundle)], stdin=subprocess.PIPE)
    assert worker.stdin
    worker.stdin.close()
    assert worker.wait(20) == 0


LOADS_FOREVER = """
import sys, time
from daemon.worker import __main__ as worker

def load(*_, **__):
    print("loading", flush=True)
    time.sleep(1000)

worker.load_narrator = load
worker.main(sys.argv[1:])
"""


def test_worker_that_loads_ends_with_its_daemon(stub_bundle: Manifest, tmp_path: Path):
    """A model takes minutes to load; the worker of a killed daemon does not stay for so long."""
    address = f"ipc://{tmp_path}/worker"
    with subprocess.Popen(
        [sys.executable, "-c", LOADS_FOREVER, "--address", address, *arguments(stub_bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout
        assert worker.stdin
        try:
            worker.stdin.write(WorkerSecret.new().line)
            worker.stdin.flush()
            assert worker.stdout.readline() == b"loading\n"
            worker.stdin.close()
            assert worker.wait(20) == 0
        finally:
            worker.kill()


def test_worker_survives_the_signals_of_its_group(stub_bundle: Manifest, context: Context):
    """Ctrl-C and SIGTERM reach it too, from its first instruction on; the daemon ends it."""
    with worker_client(context, arguments(stub_bundle)) as client:
        collector = Collector(client)
        assert client.worker_pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(client.worker_pid, number)
        collector.ready()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(client.worker_pid, number)
        client.offer(encoded(windows(1)[0]))
        collector.until(lambda: collector.seqs == [0])
        assert client.n_restarts == 0
