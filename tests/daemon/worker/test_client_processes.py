"""The narrator in its own process: none forgotten, replaced when it dies, left when it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import zmq

from contracts.clock import HostClock
from contracts.errors import DependencyError, UserError
from contracts.manifest import Manifest
from contracts.narration import Status
from tests.support.daemon_components import Context
from tests.support.narrator_clients import Collector, arguments, has_narrated, port_of, windows
from tests.support.tiny_bundle import CAPTIONS


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_every_batch_is_accounted_for(context: Context, stub_bundle: Manifest):
    """With a real worker that is killed now and then: narrated, replaced or failed, in order."""
    with port_of(context, arguments(stub_bundle)) as port:
        collector = Collector(port)
        collector.ready()
        offered = 0
        for n, batch in enumerate(windows(200)):
            if n == 100 and port.worker_pid:
                os.kill(port.worker_pid, signal.SIGKILL)
            port.offer(batch)
            offered += 1
            if n % 3 == 0:
                collector.collect()
        collector.until(lambda: port.n_unfinished == 0, "an idle port")
        assert offered == len(collector.narrated) / 2 + port.dropped["narrator_busy"]
        assert sum(port.dropped.values()) == offered - len(collector.seqs)
        assert collector.seqs == sorted(set(collector.seqs))
        assert collector.narrated[-1].embedding.window.seq == 199


def test_words_come_back_with_their_batch(context: Context, stub_bundle: Manifest):
    """A real worker says the caption that the patches point to, with stamps in order."""
    with port_of(context, arguments(stub_bundle)) as port:
        collector = Collector(port)
        collector.ready()
        before_ns = HostClock().now_ns()
        for n, batch in enumerate(windows(6)):
            port.offer(batch)
            collector.until(partial(has_narrated, collector, n + 1))
    for narrated in collector.narrated:
        word = narrated.utterance
        assert word.text == CAPTIONS[narrated.embedding.window.seq % 3]
        assert before_ns <= word.start_host_ns <= word.first_token_host_ns
        assert narrated.provenance.backend == "retrieval"
    assert collector.seqs == list(range(6))


def test_killed_worker_is_replaced(context: Context, stub_bundle: Manifest):
    """kill -9 with a batch under way: the batch fails, the next worker narrates the newest."""
    with port_of(context, arguments(stub_bundle)) as port:
        collector = Collector(port)
        collector.ready()
        first = port.worker_pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the batch is under way when it dies
        batches = windows(3)
        for batch in batches:
            port.offer(batch)
        os.kill(first, signal.SIGKILL)
        collector.until(lambda: collector.failures == ["the narrator worker died"])
        collector.until(lambda: collector.seqs == [2], "the newest batch")
        assert port.n_restarts == 1
        assert port.worker_pid not in {None, first}
        assert port.dropped == {"narrator_busy": 1, "worker_died": 1}


def test_stopped_worker_goes_on_with_newest(context: Context, stub_bundle: Manifest):
    """A real process, stopped for longer than its pulse may fail, narrates the newest window."""
    with port_of(context, arguments(stub_bundle)) as port:
        collector = Collector(port)
        collector.ready()
        assert port.worker_pid is not None
        os.kill(port.worker_pid, signal.SIGSTOP)
        batches = windows(8)
        for batch in batches[:7]:
            port.offer(batch)
        collector.until(lambda: port.problem, "a worker that is missed")
        port.offer(batches[7])
        os.kill(port.worker_pid, signal.SIGCONT)
        collector.until(lambda: collector.seqs)
    assert collector.seqs == [7]
    assert port.dropped == {"narrator_busy": 6, "worker_stopped": 1}


def test_hanging_worker_is_killed_and_replaced(context: Context, stub_bundle: Manifest):
    """A real process that hangs in a batch is killed after its time, even while it is stopped."""
    with port_of(context, arguments(stub_bundle), batch_timeout_s=0.2) as port:
        collector = Collector(port)
        collector.ready()
        assert port.worker_pid is not None
        os.kill(port.worker_pid, signal.SIGSTOP)
        first, second = windows(2)
        port.offer(first)
        collector.until(lambda: collector.failures)
        collector.ready()
        port.offer(second)
        collector.until(lambda: collector.seqs == [1])
        assert port.n_restarts == 1


def test_bundle_without_captions_is_the_users_error(context: Context, tmp_path: Path):
    """A model that cannot be loaded is said in one sentence, and the worker is gone."""
    from tests.support.tiny_bundle import write_stub_bundle

    bare = write_stub_bundle(tmp_path / "bare")
    with (
        port_of(context, arguments(bare)) as port,
        pytest.raises(UserError, match=r"the narrator cannot start: .* has no captions\.jsonl"),
    ):
        Collector(port).until(lambda: False)


def test_missing_model_is_the_users_error(context: Context, stub_bundle: Manifest, tmp_path: Path):
    """A llava model that is not there is said in one sentence."""
    words = arguments(stub_bundle, backend="llava", model=str(tmp_path / "nothing"), device="cpu")
    with (
        port_of(context, words) as port,
        pytest.raises((UserError, DependencyError), match=r"the narrator cannot start: .*nothing"),
    ):
        Collector(port).until(lambda: False)


def test_llava_speaks_from_its_process(context: Context, stub_bundle: Manifest, tiny_llava: Path):
    """The language model in a real worker: words, tokens and a log-probability come back."""
    words = arguments(
        stub_bundle, backend="llava", model=str(tiny_llava), device="cpu", max_new_tokens=4
    )
    with port_of(context, words) as port:
        collector = Collector(port)
        collector.ready()
        port.offer(windows(1)[0])
        collector.until(lambda: has_narrated(collector, 1))
    for word in (each.utterance for each in collector.narrated):
        assert word.status in {Status.OK, Status.TRUNCATED}
        assert 1 <= word.n_tokens <= 4
        assert word.mean_logprob is not None


def test_stop_has_a_deadline(context: Context, stub_bundle: Manifest):
    """A worker that hangs is killed at the deadline; its folder is gone."""
    with port_of(context, arguments(stub_bundle)) as port:
        Collector(port).ready()
        assert port.worker_pid is not None
        process = psutil.Process(port.worker_pid)
        folder = port._folder
        process.suspend()
        port.close(deadline_s=0.1)
        assert not process.is_running()
        assert not folder.exists()


def test_worker_does_not_survive_the_closing_of_its_stdin(stub_bundle: Manifest, tmp_path: Path):
    """Its lifeline cut, it ends with code 0, though nobody ever answered it."""
    address = f"ipc://{tmp_path}/line"
    command = [sys.executable, "-m", "daemon.worker", "--address", address]
    worker = subprocess.Popen([*command, *arguments(stub_bundle)], stdin=subprocess.PIPE)
    assert worker.stdin
    worker.stdin.close()
    assert worker.wait(20) == 0


def test_worker_survives_the_signals_of_its_group(stub_bundle: Manifest, context: Context):
    """Ctrl-C and SIGTERM reach it too, from its first instruction on; the daemon ends it."""
    with port_of(context, arguments(stub_bundle)) as port:
        collector = Collector(port)
        assert port.worker_pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(port.worker_pid, number)
        collector.ready()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(port.worker_pid, number)
        port.offer(windows(1)[0])
        collector.until(lambda: collector.seqs == [0])
        assert port.n_restarts == 0
