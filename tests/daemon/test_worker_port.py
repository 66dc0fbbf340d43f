"""The narrator in its own process: never two batches, none forgotten, replaced when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from contracts.clock import Clock, HostClock
from contracts.embedding import PatchEmbedding
from contracts.errors import DependencyError, UserError
from contracts.manifest import Manifest
from contracts.narration import Status, Utterance
from contracts.window import Window
from daemon import worker_port
from daemon.narration_port import Narrated
from daemon.settings import LogSettings, NarratorSettings
from daemon.worker_port import WorkerPort
from daemon.worker_process import FIRST_PAUSE_S, LONGEST_PAUSE_S, WorkerProcess
from daemon.worker_wire import Failed, Ready, Reply, Said, pack_reply, unpack_batch
from tests.support.daemon_rooms import PROVENANCE, Context, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import CAPTIONS, TINY_SPEC, tiny_windows
from tests.support.wait_until import wait_until

S = 1_000_000_000


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


def arguments(manifest: Manifest, **narrator: Any) -> list[str]:
    settings = NarratorSettings(backend="retrieval").model_copy(update=narrator)
    return [
        "--bundle", str(manifest.folder), "--narrator", settings.model_dump_json(),
        "--log", LogSettings(level="ERROR").model_dump_json(),
    ]  # fmt: skip


@contextmanager
def port_of(
    context: Context,
    words: Sequence[str],
    *,
    clock: Clock | None = None,
    batch_timeout_s: float = 60,
) -> Iterator[WorkerPort]:
    port = WorkerPort(
        context,
        words,
        batch_timeout_s=batch_timeout_s,
        failures_before_problem=3,
        clock=clock or HostClock(),
    )
    try:
        yield port
    finally:
        port.close(deadline_s=5)


class Collector:
    """Collects what a port yields."""

    def __init__(self, port: WorkerPort) -> None:
        self.port = port
        self.narrated: list[Narrated] = []

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Collect until a condition holds."""

        def holds() -> bool:
            self.narrated += self.port.collect()
            return bool(condition())

        wait_until(holds, deadline_s=30, what=what)

    def ready(self) -> None:
        """Collect until the worker can take a batch."""
        self.until(lambda: not self.port.problem, "a worker that is ready")

    @property
    def seqs(self) -> list[int]:
        """Windows that came to a good end."""
        return [n.embeddings[0].window.seq for n in self.narrated if n.utterances[0].text]

    @property
    def failures(self) -> list[str]:
        """Why batches failed."""
        return [n.utterances[0].reason for n in self.narrated if not n.utterances[0].text]


def has_narrated(collector: Collector, n: int) -> bool:
    return len(collector.narrated) == n


def windows(n: int) -> list[list[PatchEmbedding]]:
    return [embeddings_of(window, ("all", "PV")) for window in tiny_windows(n)]


class FakeWorker:
    """A worker made of one socket, in place of the process, that does only what it is told."""

    def __init__(self, context: Context, address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(address)

    def say(self, reply: Reply) -> None:
        """Send a reply."""
        self.socket.send_multipart(pack_reply(reply))

    def take(self) -> tuple[int, int]:
        """Return batch id and window number of what was sent."""
        assert self.socket.poll(5000), "no batch came"
        batch_id, embeddings = unpack_batch(self.socket.recv_multipart())
        return batch_id, embeddings[0].window.seq

    def hears_nothing(self) -> bool:
        """Whether no batch waits, not even after a moment."""
        return not self.socket.poll(50)


class FakeProcess:
    """Stands in for the child process."""

    def __init__(self, words: Sequence[str], clock: Clock) -> None:
        self.address = words[words.index("--address") + 1]
        self.pid, self.n_restarts, self.n_kills = 1, 0, 0
        self.has_died = False

    def start(self) -> None:
        """Start nothing."""

    def check(self) -> int | None:
        """Say once that it has died, if it has."""
        has_died, self.has_died = self.has_died, False
        return -9 if has_died else None

    def kill(self) -> None:
        """Die."""
        self.n_kills += 1
        self.has_died = True

    def stop(self, *, deadline_s: float) -> None:
        """Stop nothing."""


@pytest.fixture
def fake(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[WorkerPort, FakeWorker, FakeProcess, ManualClock]]:
    """A port whose worker is the test."""
    made: list[FakeProcess] = []

    def make(words: Sequence[str], clock: Clock) -> FakeProcess:
        made.append(FakeProcess(words, clock))
        return made[0]

    monkeypatch.setattr(worker_port, "WorkerProcess", make)
    clock = ManualClock()
    with port_of(context, [], clock=clock, batch_timeout_s=10) as port:
        worker = FakeWorker(context, made[0].address)
        yield port, worker, made[0], clock
        worker.socket.close()


def words(n: int = 2) -> tuple[Utterance, ...]:
    return (Utterance("a", Status.OK),) * n


def test_busy_worker_gets_nothing_more(fake):
    """One batch at a time; what comes meanwhile waits here, and only the newest of it."""
    port, worker, _, _ = fake
    collector = Collector(port)
    batches = windows(10)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    for batch in batches[:9]:
        port.offer(batch)
    batch_id, seq = worker.take()
    assert seq == 0
    assert worker.hears_nothing()
    assert (port.n_replaced, port.n_unfinished) == (7, 2)
    worker.say(Said(batch_id, words()))
    collector.until(lambda: collector.seqs == [0])
    assert worker.take()[1] == 8  # the newest, at once
    port.offer(batches[9])
    list(port.collect())
    assert worker.hears_nothing()


def test_newest_wins_while_the_model_loads(fake):
    """Before the first word of the worker batches replace each other, and none is failed."""
    port, worker, _, _ = fake
    assert port.problem == "the narrator worker is loading its model"
    for batch in windows(5):
        port.offer(batch)
    worker.say(Ready(1, PROVENANCE))
    Collector(port).until(lambda: not port.problem)
    assert worker.take()[1] == 4
    assert (port.n_replaced, port.n_failed) == (4, 0)


def test_batch_over_its_time_kills_the_worker(fake):
    """Killed once, its batch failed with the reason; a worker within its time is left alone."""
    port, worker, process, clock = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    clock.ns += 10 * S
    collector.until(lambda: True)
    assert process.n_kills == 0
    clock.ns += 1
    collector.until(lambda: collector.failures)
    assert process.n_kills == 1
    assert collector.failures == ["the narrator worker died"]
    assert port.problem == "the narrator worker is loading its model"


def test_late_answer_of_a_dead_worker_is_passed_over(fake):
    """A batch that has failed is not narrated as well."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    batch_id, _ = worker.take()
    process.has_died = True
    collector.until(lambda: collector.failures)
    process.pid = 2
    worker.say(Said(batch_id, words()))
    worker.say(Ready(2, PROVENANCE))
    collector.ready()
    assert collector.seqs == []
    assert (port.n_failed, port.n_died) == (1, 1)
    assert port.n_unfinished == 0


def test_dead_worker_is_not_believed(fake):
    """What it said before it died is read after its end: the batch waits for the next worker."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    wait_until(lambda: port.sockets[0].poll(0), what="its last word")
    process.pid = None
    collector.until(lambda: not port.sockets[0].poll(0))
    port.offer(windows(1)[0])
    assert port.problem
    assert worker.hears_nothing()
    process.pid = 2
    worker.say(Ready(2, PROVENANCE))
    collector.ready()
    assert worker.take()[1] == 0


def test_worker_that_begins_anew_fails_its_batch(fake):
    """A second first word without an end in between leaves no batch unaccounted for."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    worker.take()
    worker.say(Ready(1, PROVENANCE))
    collector.until(lambda: collector.failures)
    assert collector.failures == ["the narrator worker began anew"]
    assert (port.n_unfinished, port.n_failed, port.n_died) == (0, 1, 1)


def test_worker_that_cannot_be_reached_fails_its_batch(fake):
    """A free worker whose end of the line has gone is killed, and its batch says why it failed."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    monitor = port.sockets[0].get_monitor_socket(zmq.EVENT_DISCONNECTED)
    worker.socket.close()
    assert monitor.poll(5000)
    port.sockets[0].disable_monitor()
    monitor.close()
    assert not port.sockets[0].poll(50)  # time for the socket to hear of it
    port.offer(windows(1)[0])
    assert port.n_unfinished == 1
    collector.until(lambda: collector.failures)
    assert collector.failures[0].startswith("the narrator worker cannot be reached: ")
    assert (port.n_unfinished, port.n_died, process.n_kills) == (0, 1, 1)


def test_failed_batches_in_a_row_are_a_problem_until_one_succeeds(fake):
    """Three make the daemon unready with the reason; one good batch mends it."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    for n, batch in enumerate(windows(4)):
        assert bool(port.problem) is (n == 3)
        port.offer(batch)
        batch_id, _ = worker.take()
        worker.say(Failed(batch_id, "no memory") if n < 3 else Said(batch_id, words()))
        collector.until(partial(has_narrated, collector, n + 1))
    assert collector.failures == ["no memory"] * 3
    assert (port.n_failed, port.n_died) == (3, 0)
    assert port.problem == ""


def test_wrong_number_of_utterances_is_a_failure(fake):
    """A narrator that says too little or too much fails its batch and not the daemon."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    for n_said in (0, 1, 3):
        port.offer(windows(1)[0])
        batch_id, _ = worker.take()
        worker.say(Said(batch_id, words(n_said)))
        collector.until(lambda: port.n_unfinished == 0)
    assert collector.failures == [f"{n} utterances for 2 populations" for n in (0, 1, 3)]
    assert all(len(n.utterances) == len(n.embeddings) for n in collector.narrated)


def test_nonsense_on_the_line_is_passed_over(fake):
    """What is no reply is logged; the worker goes on."""
    port, worker, _, _ = fake
    worker.socket.send_multipart([b"hello?"])
    worker.socket.send_multipart([b"said", b"\xc1"])
    worker.say(Said(99, words()))
    worker.say(Ready(1, PROVENANCE))
    collector = Collector(port)
    collector.ready()
    assert collector.narrated == []


def test_first_worker_that_cannot_start_is_raised(fake):
    """The user's fault is code 2, a missing library code 3; the sentence is the worker's."""
    port, worker, _, _ = fake
    for code, kind in ((2, UserError), (3, DependencyError)):
        worker.say(Failed(-1, "No such model.", exit_code=code))
        with pytest.raises(kind, match=r"the narrator cannot start: No such model\."):
            Collector(port).until(lambda: False)


def test_later_worker_that_cannot_start_is_a_problem(fake):
    """In the middle of a session it is tried again: not ready, with the sentence, not raised."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    process.has_died = True
    worker.say(Failed(-1, "No such model.", exit_code=2))
    collector.until(lambda: port.problem == "the narrator cannot start: No such model.")
    process.pid = 2
    worker.say(Ready(2, PROVENANCE))
    collector.ready()


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
                collector.narrated += port.collect()
        collector.until(lambda: port.n_unfinished == 0, "an idle port")
        assert offered == len(collector.narrated) + port.n_replaced
        assert port.n_failed == len(collector.failures)
        assert collector.seqs == sorted(set(collector.seqs))
        assert collector.narrated[-1].embeddings[0].window.seq == 199


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
        seq = narrated.embeddings[0].window.seq
        assert [word.text for word in narrated.utterances] == [CAPTIONS[seq % 3]] * 2
        word = narrated.utterances[0]
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
        assert (port.n_failed, port.n_died, port.n_replaced) == (1, 1, 1)


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
        collector.until(lambda: collector.narrated)
    for word in collector.narrated[0].utterances:
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


def test_folder_too_deep_for_a_socket_is_the_users_error(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A long TMPDIR is named, and nothing is left in it; so is one that is not there."""
    monkeypatch.setattr(worker_port, "WorkerProcess", FakeProcess)
    deep = tmp_path / ("x" * 100)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(UserError, match="Set TMPDIR"), port_of(context, []):
        pass
    deep.mkdir()
    with (
        pytest.raises(UserError, match=r"80 bytes\. Set TMPDIR to one: File name too long in .*x$"),
        port_of(context, []),
    ):
        pass
    assert list(deep.iterdir()) == []


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


class FakeChild:
    """A child process that is dead or alive as the test says."""

    def __init__(self, command: Sequence[str], stdin: int) -> None:
        self.pid, self.stdin, self.code = 1, None, None

    def poll(self) -> int | None:
        """Return the exit code, if it has one."""
        return self.code


def test_pauses_between_restarts_double(monkeypatch: pytest.MonkeyPatch):
    """From half a second to half a minute; a worker that lived a minute begins anew."""
    monkeypatch.setattr(subprocess, "Popen", FakeChild)
    clock = ManualClock()
    process = WorkerProcess(["x"], clock)
    process.start()
    pauses = []
    for lived_s in (0, 0, 0, 0, 0, 0, 0, 0, 61, 0):
        clock.ns += lived_s * S
        assert process.check() is None
        process._child.code = 1  # type: ignore[union-attr, assignment, unused-ignore]
        died_ns = clock.ns
        assert process.check() == 1
        while process.pid is None:
            clock.ns += S // 20
            assert process.check() is None
        pauses.append((clock.ns - died_ns) / S)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[6:] == [LONGEST_PAUSE_S, LONGEST_PAUSE_S, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    assert process.n_restarts == len(pauses)


def test_window_that_comes_back_is_the_one_that_went(fake):
    """Gaps, stamps and counts stay with the daemon: the narration is of the very object."""
    port, worker, _, _ = fake
    window: Window = replace(tiny_windows(1)[0], n_gap_bins=3, spec=TINY_SPEC)
    collector = Collector(port)
    worker.say(Ready(1, PROVENANCE))
    collector.ready()
    port.offer(embeddings_of(window, ("all", "PV")))
    batch_id, _ = worker.take()
    worker.say(Said(batch_id, words()))
    collector.until(lambda: collector.narrated)
    assert collector.narrated[0].embeddings[0].window is window
