"""The fast loop's end of the line to its narrator, with a worker that does what it is told."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import zmq

from contracts.clock import Clock
from contracts.errors import DependencyError, UserError
from contracts.narration import Status, Utterance
from contracts.window import Window
from daemon.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S
from daemon.handover import Handover
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.worker import client as worker_port
from daemon.worker.client import STILL_AFTER_S, WorkerClient
from daemon.worker.messages import (
    Cancel,
    Failed,
    Heartbeat,
    ModelLoaded,
    Narrate,
    NarratorOutput,
    Order,
    ReadyForNext,
    Reply,
    pack_reply,
    unpack_order,
)
from daemon.worker.process import WorkerProcess
from tests.support.daemon_components import PROVENANCE, Context, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.narrator_clients import Collector, has_narrated, port_of, windows
from tests.support.tiny_bundle import TINY_SPEC, tiny_windows
from tests.support.wait_until import wait_until

S = 1_000_000_000


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


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
        order = self.order()
        assert isinstance(order, Narrate)
        return order.batch_id, order.embeddings[0].window.seq

    def order(self) -> Order:
        """Return what was sent."""
        assert self.socket.poll(5000), "no order came"
        return unpack_order(self.socket.recv_multipart())

    def finish(self, batch_id: int) -> None:
        """Say that there is room, and all of a window: who has heard this has heard that."""
        self.say(ReadyForNext())
        self.say(NarratorOutput(ended=words(batch_id)))

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


def fake_processes(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """Put a fake in the place of the next process, and return where it will be found."""
    made: list[FakeProcess] = []

    def make(words: Sequence[str], clock: Clock) -> FakeProcess:
        made.append(FakeProcess(words, clock))
        return made[0]

    monkeypatch.setattr(worker_port, "WorkerProcess", make)
    return made


@pytest.fixture
def fake(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[WorkerClient, FakeWorker, FakeProcess, ManualClock]]:
    """A port whose worker is the test."""
    made = fake_processes(monkeypatch)
    clock = ManualClock()
    with port_of(context, [], clock=clock, batch_timeout_s=10) as port:
        worker = FakeWorker(context, made[0].address)
        yield port, worker, made[0], clock
        worker.socket.close()


def words(batch_id: int, rows: Sequence[int] = (0, 1)) -> tuple[EndedRow, ...]:
    return tuple(EndedRow(batch_id, row, Utterance("a", Status.OK)) for row in rows)


def test_busy_worker_gets_nothing_more(fake):
    """One batch at a time; what comes meanwhile waits here, and only the newest of it."""
    port, worker, _, _ = fake
    collector = Collector(port)
    batches = windows(10)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    for batch in batches[:9]:
        port.offer(batch)
    batch_id, seq = worker.take()
    assert seq == 0
    assert worker.hears_nothing()
    assert (port.dropped["narrator_busy"], port.n_waiting, port.n_unfinished) == (7, 1, 2)
    worker.finish(batch_id)
    collector.until(lambda: collector.seqs == [0])
    assert worker.take()[1] == 8  # the newest, at once
    port.offer(batches[9])
    collector.collect()
    assert worker.hears_nothing()


def test_newest_wins_while_the_model_loads(fake):
    """Before the first word of the worker batches replace each other, and none is failed."""
    port, worker, _, _ = fake
    assert port.problem == "the narrator worker is loading its model"
    for batch in windows(5):
        port.offer(batch)
    worker.say(ModelLoaded(1, PROVENANCE))
    Collector(port).until(lambda: not port.problem)
    assert worker.take()[1] == 4
    assert port.dropped == {"narrator_busy": 4}


def test_batch_over_its_time_kills_the_worker(fake):
    """Killed once, its batch failed with the reason; a worker within its time is left alone."""
    port, worker, process, clock = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    clock.ns += 10 * S
    worker.say(Heartbeat(1))
    wait_until(lambda: port.sockets[0].poll(0), what="its beat")
    collector.until(lambda: not port.sockets[0].poll(0))
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
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    batch_id, _ = worker.take()
    process.has_died = True
    collector.until(lambda: collector.failures)
    process.pid = 2
    worker.finish(batch_id)
    worker.say(ModelLoaded(2, PROVENANCE))
    collector.ready()
    assert collector.seqs == []
    assert port.dropped == {"narrator_busy": 0, "worker_died": 1}
    assert port.n_unfinished == 0


def test_dead_worker_is_not_believed(fake):
    """What it said before it died is read after its end: the batch waits for the next worker."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    wait_until(lambda: port.sockets[0].poll(0), what="its last word")
    process.pid = None
    collector.until(lambda: not port.sockets[0].poll(0))
    port.offer(windows(1)[0])
    assert port.problem
    assert worker.hears_nothing()
    process.pid = 2
    worker.say(ModelLoaded(2, PROVENANCE))
    collector.ready()
    assert worker.take()[1] == 0


def test_worker_that_begins_anew_fails_its_batch(fake):
    """A second first word without an end in between leaves no batch unaccounted for."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    worker.take()
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.until(lambda: collector.failures)
    assert collector.failures == ["the narrator worker began anew"]
    assert (port.n_unfinished, port.dropped["worker_died"]) == (0, 1)


def test_worker_that_cannot_be_reached_fails_its_batch(fake):
    """A free worker whose end of the line has gone is killed, and its batch says why it failed."""
    port, worker, process, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    monitor = port.sockets[0].get_monitor_socket(zmq.EVENT_DISCONNECTED)
    worker.socket.close()
    assert monitor.poll(5000)
    port.sockets[0].disable_monitor()
    monitor.close()
    assert not port.sockets[0].poll(50)  # time for the socket to hear of it
    port.offer(windows(1)[0])
    collector.until(lambda: collector.failures)
    assert collector.failures[0].startswith("the narrator worker cannot be reached: ")
    assert (port.n_unfinished, port.dropped["worker_died"], process.n_kills) == (0, 1, 1)


def test_failed_batches_in_a_row_are_a_problem_until_one_succeeds(fake):
    """Three make the daemon unready with the reason; one good batch mends it."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    for n, batch in enumerate(windows(4)):
        assert bool(port.problem) is (n == 3)
        port.offer(batch)
        batch_id, _ = worker.take()
        worker.say(ReadyForNext())
        worker.say(
            Failed(batch_id, "no memory") if n < 3 else NarratorOutput(ended=words(batch_id))
        )
        collector.until(partial(has_narrated, collector, n + 1))
    assert collector.failures == ["no memory"] * 3
    assert port.dropped == {"narrator_busy": 0, "narration_failed": 3}
    assert port.problem == ""


def test_rows_leave_as_they_end(fake):
    """A short sentence does not wait for a long one, and the window is done with its last row."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    batch_id, _ = worker.take()
    worker.say(NarratorOutput(ended=words(batch_id, rows=[1])))
    collector.until(lambda: collector.narrated)
    assert [each.embedding.population for each in collector.narrated] == ["PV"]
    assert port.n_unfinished == 1
    worker.say(
        NarratorOutput(ended=words(batch_id, rows=[1, 0]))
    )  # a row that is said twice counts once
    collector.until(lambda: not port.n_unfinished)
    assert [each.embedding.population for each in collector.narrated] == ["PV", "all"]


def test_window_that_fails_halfway_fails_the_rest(fake):
    """What was said stands; what was not has the reason, and the window counts as dropped."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(windows(1)[0])
    batch_id, _ = worker.take()
    worker.say(NarratorOutput(ended=words(batch_id, rows=[0])))
    worker.say(Failed(batch_id, "no memory"))
    collector.until(lambda: has_narrated(collector, 1))
    assert [each.utterance.reason for each in collector.narrated] == ["", "no memory"]
    assert port.dropped["narration_failed"] == 1


def test_worker_with_room_is_sent_another_window(fake):
    """Before the first has ended, if the worker says so; both come to their end."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    first, second = windows(2)
    port.offer(first)
    first_id, _ = worker.take()
    worker.say(ReadyForNext())
    port.offer(second)
    collector.until(lambda: port.n_waiting == 0)
    second_id, seq = worker.take()
    assert (seq, port.n_unfinished) == (1, 2)
    worker.finish(second_id)
    worker.say(NarratorOutput(ended=words(first_id)))
    collector.until(lambda: port.n_unfinished == 0)
    assert collector.seqs == [1, 0]


def test_sentences_are_heard_as_they_grow(context, monkeypatch):
    """If somebody listens the worker is told so, and each piece comes with its window."""
    made = fake_processes(monkeypatch)
    with port_of(context, [], clock=ManualClock(), wants_partials=True) as port:
        worker, collector = FakeWorker(context, made[0].address), Collector(port)
        worker.say(ModelLoaded(1, PROVENANCE))
        collector.ready()
        port.offer(windows(1)[0])
        order = worker.order()
        assert isinstance(order, Narrate)
        assert order.with_partials
        worker.say(
            NarratorOutput(
                partials=(PartialRow(order.batch_id, 1, "A car", 2), PartialRow(9, 0, "x", 1))
            )
        )
        collector.until(lambda: collector.heard)
        worker.socket.close()
    (heard,) = collector.heard
    assert (heard.embedding.population, heard.text, heard.n_tokens) == ("PV", "A car", 2)


def test_stopped_worker_is_given_up_and_sent_nothing(fake):
    """Its window fails and is cancelled once, and nothing queues until it stirs."""
    port, worker, process, clock = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    batches = windows(5)
    port.offer(batches[0])
    batch_id, _ = worker.take()
    clock.ns += round(STILL_AFTER_S * S)
    collector.until(lambda: collector.failures)
    assert collector.failures == ["the narrator worker did not stir for 3 s"]
    assert port.problem == "the narrator worker has not stirred for 3 s"
    assert worker.order() == Cancel(batch_id)
    for batch in batches[1:]:
        port.offer(batch)
        collector.collect()
    assert worker.hears_nothing()
    worker.say(Heartbeat(1))
    worker.say(
        NarratorOutput(ended=words(batch_id))
    )  # what it had said of the window that was given up
    worker.say(ReadyForNext())
    collector.until(lambda: port.n_waiting == 0)
    assert worker.take()[1] == 4
    assert (port.problem, collector.seqs, process.n_kills) == ("", [], 0)
    assert port.dropped == {"narrator_busy": 3, "worker_stopped": 1}


def test_pulse_of_a_dead_worker_counts_for_nothing(fake):
    """A beat that was still on its way does not make the next worker look alive."""
    port, worker, process, clock = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    process.pid = 2
    clock.ns += round(STILL_AFTER_S * S)
    worker.say(Heartbeat(1))
    collector.until(lambda: port.problem)
    assert port.problem == "the narrator worker has not stirred for 3 s"


def test_all_keeps_what_waits(context, monkeypatch):
    """Under the policy `all` every window goes to the worker, in order; full says stop."""
    made = fake_processes(monkeypatch)
    with port_of(context, [], clock=ManualClock(), handover=Handover("all", 3)) as port:
        worker, collector = FakeWorker(context, made[0].address), Collector(port)
        worker.say(ModelLoaded(1, PROVENANCE))
        collector.ready()
        for batch in windows(4):
            assert not port.is_full
            port.offer(batch)
        assert port.is_full
        for n in range(4):
            batch_id, seq = worker.take()
            assert seq == n
            worker.finish(batch_id)
            collector.until(partial(has_narrated, collector, n + 1))
        worker.socket.close()
    assert (collector.seqs, port.dropped["narrator_busy"]) == ([0, 1, 2, 3], 0)


def test_window_without_a_word_is_a_failure(fake):
    """Rows that all failed are published as such, count as dropped, and are a problem in a row."""
    port, worker, _, _ = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    silent = Utterance("", Status.FAILED, "no server")
    for n, batch in enumerate(windows(3)):
        assert port.problem == ""
        port.offer(batch)
        batch_id, _ = worker.take()
        worker.say(ReadyForNext())
        worker.say(NarratorOutput(ended=tuple(EndedRow(batch_id, row, silent) for row in (0, 1))))
        collector.until(partial(has_narrated, collector, n + 1))
    assert port.problem == "the last 3 windows could not be narrated"
    assert port.dropped["narration_failed"] == 3
    port.offer(windows(1)[0])
    batch_id, _ = worker.take()
    half = (EndedRow(batch_id, 0, silent), *words(batch_id, rows=[1]))
    worker.say(NarratorOutput(ended=half))
    collector.until(lambda: not port.problem)
    assert port.dropped["narration_failed"] == 3


def test_worker_that_is_gone_when_it_is_given_up(fake):
    """Two windows out, and no way to cancel the first: both fail, and the loop goes on."""
    port, worker, process, clock = fake
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    first, second = windows(2)
    port.offer(first)
    worker.say(ReadyForNext())
    collector.until(lambda: port.n_unfinished == 1)
    port.offer(second)
    collector.until(lambda: port.n_waiting == 0)
    monitor = port.sockets[0].get_monitor_socket(zmq.EVENT_DISCONNECTED)
    worker.socket.close()
    assert monitor.poll(5000)
    port.sockets[0].disable_monitor()
    monitor.close()
    assert not port.sockets[0].poll(50)
    clock.ns += round(STILL_AFTER_S * S)
    collector.until(lambda: has_narrated(collector, 2))
    assert process.n_kills == 1
    assert port.dropped["worker_stopped"] + port.dropped["worker_died"] == 2


def test_nonsense_on_the_line_is_passed_over(fake):
    """What is no reply is logged; the worker goes on."""
    port, worker, _, _ = fake
    worker.socket.send_multipart([b"hello?"])
    worker.socket.send_multipart([b"said", b"\xc1"])
    worker.say(NarratorOutput(ended=words(99)))
    worker.say(ModelLoaded(1, PROVENANCE))
    worker.say(NarratorOutput(ended=words(99)))
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
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    process.has_died = True
    worker.say(Failed(-1, "No such model.", exit_code=2))
    collector.until(lambda: port.problem == "the narrator cannot start: No such model.")
    process.pid = 2
    worker.say(ModelLoaded(2, PROVENANCE))
    collector.ready()


def test_window_that_comes_back_is_the_one_that_went(fake):
    """Gaps, stamps and counts stay with the daemon: the narration is of the very object."""
    port, worker, _, _ = fake
    window: Window = replace(tiny_windows(1)[0], n_gap_bins=3, spec=TINY_SPEC)
    collector = Collector(port)
    worker.say(ModelLoaded(1, PROVENANCE))
    collector.ready()
    port.offer(embeddings_of(window, ("all", "PV")))
    batch_id, _ = worker.take()
    worker.finish(batch_id)
    collector.until(lambda: collector.narrated)
    assert collector.narrated[0].embedding.window is window


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
