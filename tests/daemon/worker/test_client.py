"""The worker client with a worker that does only what the test says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from contracts.clock import Clock
from contracts.errors import DependencyError, UserError
from contracts.narration import Status, Utterance
from contracts.window import Window
from daemon.handover import Handover
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.worker import client as client_module
from daemon.worker.client import SILENT_AFTER_S, SILENT_LOADING_AFTER_S, WorkerClient
from daemon.worker.connection import HALF_BYTES
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
from tests.support.daemon_components import PROVENANCE, Context, embeddings_of, encoded
from tests.support.manual_clock import ManualClock
from tests.support.narrator_clients import Collector, has_narrated, windows, worker_client
from tests.support.tiny_bundle import TINY_SPEC, tiny_windows
from tests.support.wait_until import wait_until

S = 1_000_000_000
SILENT_NS = round(SILENT_AFTER_S * S)


class FakeWorker:
    """A worker made of one socket, in place of the process."""

    def __init__(self, context: Context, process: FakeProcess) -> None:
        self.secret = process.secret
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(process.address)

    def send(self, reply: Reply) -> None:
        """Send a reply."""
        self.socket.send_multipart([self.secret[:HALF_BYTES], *pack_reply(reply)])

    def order(self) -> Order:
        """Return what was sent."""
        assert self.socket.poll(5000), "no order came"
        secret, *parts = self.socket.recv_multipart()
        assert secret == self.secret[HALF_BYTES:]
        return unpack_order(parts)

    def take(self) -> tuple[int, int]:
        """Return batch id and window number of what was sent."""
        order = self.order()
        assert isinstance(order, Narrate)
        return order.batch_id, order.embeddings[0].window.seq

    def finish(self, batch_id: int) -> None:
        """Offer room, then end a window: who has received the second has received the first."""
        self.send(ReadyForNext())
        self.send(NarratorOutput(ended=rows(batch_id)))

    def receives_nothing(self) -> bool:
        """Whether no order waits, not even after a moment."""
        return not self.socket.poll(50)


class FakeProcess:
    """Stands in for the child process, and for its class."""

    pid: int | None = 1
    address = start_problem = ""
    secret = b""
    n_restarts = n_kills = started_ns = 0
    has_died = False

    def __call__(self, arguments: Sequence[str], clock: Clock, *, secret: bytes) -> FakeProcess:
        """Take the place of the new process."""
        self.secret = secret
        self.address = arguments[arguments.index("--address") + 1]
        return self

    def start(self) -> None:
        """Start nothing."""

    def check(self) -> int | None:
        """Report once that it has died, if it has."""
        has_died, self.has_died = self.has_died, False
        return -9 if has_died else None

    def kill(self) -> None:
        """Die."""
        self.n_kills += 1
        self.has_died = True

    def stop(self, *, deadline_s: float) -> None:
        """Stop nothing."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    process = FakeProcess()
    monkeypatch.setattr(client_module, "WorkerProcess", process)
    return process


@pytest.fixture
def options() -> dict[str, Any]:
    """Of the client; a test may give its own."""
    return {}


@pytest.fixture
def client(
    context: Context, process: FakeProcess, clock: ManualClock, options: dict[str, Any]
) -> Iterator[WorkerClient]:
    with worker_client(context, [], clock=clock, batch_timeout_s=10, **options) as client:
        yield client


@pytest.fixture
def collector(client: WorkerClient) -> Collector:
    return Collector(client)


@pytest.fixture
def worker(context: Context, client: WorkerClient, process: FakeProcess) -> Iterator[FakeWorker]:
    """A worker that loads its model."""
    worker = FakeWorker(context, process)
    yield worker
    worker.socket.close()


@pytest.fixture
def ready_worker(worker: FakeWorker, collector: Collector) -> FakeWorker:
    """A worker that has loaded its model and waits for a window."""
    worker.send(ModelLoaded(1, PROVENANCE))
    collector.ready()
    return worker


def rows(batch_id: int, numbers: Sequence[int] = (0, 1)) -> tuple[EndedRow, ...]:
    return tuple(EndedRow(batch_id, row, Utterance("a", Status.OK)) for row in numbers)


def disconnect(client: WorkerClient, worker: FakeWorker) -> None:
    """Close the worker's socket, and wait until the client's knows."""
    (socket,) = client.sockets
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    worker.socket.close()
    assert monitor.poll(5000)
    socket.disable_monitor()
    monitor.close()
    assert not socket.poll(50)


def test_busy_worker_gets_nothing_more(ready_worker, client, collector):
    """One batch at a time; what comes meanwhile waits here, and only the newest of it."""
    batches = windows(10)
    for batch in batches[:9]:
        client.offer(encoded(batch))
    batch_id, seq = ready_worker.take()
    assert seq == 0
    assert ready_worker.receives_nothing()
    assert (client.dropped["narrator_busy"], client.n_waiting, client.n_unfinished) == (7, 1, 2)
    ready_worker.finish(batch_id)
    collector.until(lambda: collector.seqs == [0])
    assert ready_worker.take()[1] == 8  # the newest, at once
    client.offer(encoded(batches[9]))
    collector.collect()
    assert ready_worker.receives_nothing()


def test_newest_wins_while_the_model_loads(worker, client, collector):
    """Until the worker is ready windows replace each other, and none fails."""
    assert client.problem == "the narrator worker is loading its model"
    for batch in windows(5):
        client.offer(encoded(batch))
    worker.send(ModelLoaded(1, PROVENANCE))
    collector.until(lambda: not client.problem)
    assert worker.take()[1] == 4
    assert client.dropped == {"narrator_busy": 4}


def test_batch_over_its_time_kills_the_worker(ready_worker, client, collector, process, clock):
    """Killed once, its batch failed with the reason; a worker within its time is left alone."""
    client.offer(encoded(windows(1)[0]))
    clock.ns += 10 * S
    ready_worker.send(Heartbeat(1))
    wait_until(lambda: client.sockets[0].poll(0), what="its heartbeat")
    collector.until(lambda: not client.sockets[0].poll(0))
    assert process.n_kills == 0
    clock.ns += 1
    collector.until(lambda: collector.failures)
    assert process.n_kills == 1
    assert collector.failures == ["the narrator worker died"]
    assert client.problem == "the narrator worker is loading its model"


def test_late_narration_of_a_dead_worker_is_discarded(ready_worker, client, collector, process):
    """A batch that has failed is not narrated as well."""
    client.offer(encoded(windows(1)[0]))
    batch_id, _ = ready_worker.take()
    process.has_died = True
    collector.until(lambda: collector.failures)
    process.pid = 2
    ready_worker.finish(batch_id)
    ready_worker.send(ModelLoaded(2, PROVENANCE))
    collector.ready()
    assert collector.seqs == []
    assert client.dropped == {"narrator_busy": 0, "worker_died": 1}
    assert client.n_unfinished == 0


def test_replies_of_a_dead_worker_are_discarded(worker, client, collector, process):
    """What it sent before it died is read afterwards: the window waits for the next worker."""
    worker.send(ModelLoaded(1, PROVENANCE))
    wait_until(lambda: client.sockets[0].poll(0), what="its last reply")
    process.pid = None
    collector.until(lambda: not client.sockets[0].poll(0))
    client.offer(encoded(windows(1)[0]))
    assert client.problem
    assert worker.receives_nothing()
    process.pid = 2
    worker.send(ModelLoaded(2, PROVENANCE))
    collector.ready()
    assert worker.take()[1] == 0


def test_worker_that_restarts_fails_its_window(ready_worker, client, collector):
    """Loaded twice without an end in between: no window is left unaccounted for."""
    client.offer(encoded(windows(1)[0]))
    ready_worker.take()
    ready_worker.send(ModelLoaded(1, PROVENANCE))
    collector.until(lambda: collector.failures)
    assert collector.failures == ["the narrator worker restarted"]
    assert (client.n_unfinished, client.dropped["worker_died"]) == (0, 1)


def test_worker_that_cannot_be_reached_fails_its_batch(ready_worker, client, collector, process):
    """A free worker whose socket has gone is killed, and its window says why it failed."""
    disconnect(client, ready_worker)
    client.offer(encoded(windows(1)[0]))
    collector.until(lambda: collector.failures)
    assert collector.failures[0].startswith("the narrator worker cannot be reached: ")
    assert (client.n_unfinished, client.dropped["worker_died"], process.n_kills) == (0, 1, 1)


def test_failed_batches_in_a_row_are_a_problem_until_one_succeeds(ready_worker, client, collector):
    """Three make the daemon unready with the reason; one good batch mends it."""
    for n, batch in enumerate(windows(4)):
        assert bool(client.problem) is (n == 3)
        client.offer(encoded(batch))
        batch_id, _ = ready_worker.take()
        ready_worker.send(ReadyForNext())
        ready_worker.send(
            Failed(batch_id, "no memory") if n < 3 else NarratorOutput(ended=rows(batch_id))
        )
        collector.until(partial(has_narrated, collector, n + 1))
    assert collector.failures == ["no memory"] * 3
    assert client.dropped == {"narrator_busy": 0, "narration_failed": 3}
    assert client.problem == ""


def test_rows_leave_as_they_end(ready_worker, client, collector):
    """A short sentence does not wait for a long one, and the window is done with its last row."""
    client.offer(encoded(windows(1)[0]))
    batch_id, _ = ready_worker.take()
    ready_worker.send(NarratorOutput(ended=rows(batch_id, [1])))
    collector.until(lambda: collector.narrated)
    assert [row.embedding.population for row in collector.narrated] == ["PV"]
    assert client.n_unfinished == 1
    ready_worker.send(NarratorOutput(ended=rows(batch_id, [1, 0])))  # row 1 counts once
    collector.until(lambda: not client.n_unfinished)
    assert [row.embedding.population for row in collector.narrated] == ["PV", "all"]


def test_window_that_fails_halfway_fails_the_rest(ready_worker, client, collector):
    """Rows that ended stand, the others have the reason, and the window counts as dropped."""
    client.offer(encoded(windows(1)[0]))
    batch_id, _ = ready_worker.take()
    ready_worker.send(NarratorOutput(ended=rows(batch_id, [0])))
    ready_worker.send(Failed(batch_id, "no memory"))
    collector.until(lambda: has_narrated(collector, 1))
    assert [row.utterance.reason for row in collector.narrated] == ["", "no memory"]
    assert client.dropped["narration_failed"] == 1


def test_worker_with_room_is_sent_another_window(ready_worker, client, collector):
    """Before the first has ended, if the worker says so; both come to their end."""
    first, second = windows(2)
    client.offer(encoded(first))
    first_id, _ = ready_worker.take()
    ready_worker.send(ReadyForNext())
    client.offer(encoded(second))
    collector.until(lambda: client.n_waiting == 0)
    second_id, seq = ready_worker.take()
    assert (seq, client.n_unfinished) == (1, 2)
    ready_worker.finish(second_id)
    ready_worker.send(NarratorOutput(ended=rows(first_id)))
    collector.until(lambda: client.n_unfinished == 0)
    assert collector.seqs == [1, 0]


@pytest.mark.parametrize("options", [{"wants_partials": True}])
def test_partial_sentences_come_with_their_window(ready_worker, client, collector):
    """They are asked for if somebody subscribes; those of an unknown window are dropped."""
    client.offer(encoded(windows(1)[0]))
    order = ready_worker.order()
    assert isinstance(order, Narrate)
    assert order.with_partials
    ready_worker.send(
        NarratorOutput(
            partials=(PartialRow(order.batch_id, 1, "A car", 2), PartialRow(9, 0, "x", 1))
        )
    )
    collector.until(lambda: collector.partials)
    (text,) = collector.partials
    assert (text.embedding.population, text.text, text.n_tokens) == ("PV", "A car", 2)


def test_stopped_worker_is_given_up_and_sent_nothing(
    ready_worker, client, collector, process, clock
):
    """Its window fails and is cancelled once, and nothing queues until its heartbeat resumes."""
    batches = windows(5)
    client.offer(encoded(batches[0]))
    batch_id, _ = ready_worker.take()
    clock.ns += SILENT_NS
    collector.until(lambda: collector.failures)
    assert collector.failures == ["the narrator worker missed its heartbeat for 3 s"]
    assert client.problem == "the narrator worker has missed its heartbeat for 3 s"
    assert ready_worker.order() == Cancel(batch_id)
    for batch in batches[1:]:
        client.offer(encoded(batch))
        collector.collect()
    assert ready_worker.receives_nothing()
    ready_worker.send(Heartbeat(1))
    ready_worker.send(NarratorOutput(ended=rows(batch_id)))  # of the window that was given up
    ready_worker.send(ReadyForNext())
    collector.until(lambda: client.n_waiting == 0)
    assert ready_worker.take()[1] == 4
    assert (client.problem, collector.seqs, process.n_kills) == ("", [], 0)
    assert client.dropped == {"narrator_busy": 3, "worker_stopped": 1}


def test_heartbeat_of_a_dead_worker_is_ignored(ready_worker, client, collector, process, clock):
    """One that was still on its way does not make the next worker look alive."""
    process.pid = 2
    clock.ns += SILENT_NS
    ready_worker.send(Heartbeat(1))
    collector.until(lambda: client.problem)
    assert client.problem == "the narrator worker has missed its heartbeat for 3 s"


@pytest.mark.parametrize("has_begun", [True, False])
def test_worker_that_is_stopped_while_it_loads_is_reported(
    has_begun: bool, worker, client, collector, process, clock
):
    """Not ready, with the seconds since its last heartbeat or its start; it is waited for."""
    process.started_ns = clock.ns
    if has_begun:
        clock.ns += S
        worker.send(Heartbeat(1))
        wait_until(lambda: client.sockets[0].poll(0), what="its heartbeat")
        collector.collect()
    clock.ns += round(SILENT_LOADING_AFTER_S * S) - 1
    assert client.problem == "the narrator worker is loading its model"
    clock.ns += 1
    assert client.problem == "the narrator worker missed its heartbeat for 30 s as it loads"
    worker.send(ModelLoaded(1, PROVENANCE))
    collector.ready()
    assert process.n_kills == 0


@pytest.mark.parametrize("options", [{"handover": Handover("all", 3)}])
def test_all_keeps_what_waits(ready_worker, client, collector):
    """Under the policy `all` every window goes to the worker, in order; then it is full."""
    for batch in windows(4):
        assert not client.is_full
        client.offer(encoded(batch))
    assert client.is_full
    for n in range(4):
        batch_id, seq = ready_worker.take()
        assert seq == n
        ready_worker.finish(batch_id)
        collector.until(partial(has_narrated, collector, n + 1))
    assert (collector.seqs, client.dropped["narrator_busy"]) == ([0, 1, 2, 3], 0)


def test_window_without_a_narration_is_a_failure(ready_worker, client, collector):
    """Rows that all failed are published as such, count as dropped, and are a problem in a row."""
    silent = Utterance("", Status.FAILED, "no server")
    for n, batch in enumerate(windows(3)):
        assert client.problem == ""
        client.offer(encoded(batch))
        batch_id, _ = ready_worker.take()
        ready_worker.send(ReadyForNext())
        ready_worker.send(
            NarratorOutput(ended=tuple(EndedRow(batch_id, row, silent) for row in (0, 1)))
        )
        collector.until(partial(has_narrated, collector, n + 1))
    assert client.problem == "the last 3 windows could not be narrated"
    assert client.dropped["narration_failed"] == 3
    client.offer(encoded(windows(1)[0]))
    batch_id, _ = ready_worker.take()
    half = (EndedRow(batch_id, 0, silent), *rows(batch_id, [1]))
    ready_worker.send(NarratorOutput(ended=half))
    collector.until(lambda: not client.problem)
    assert client.dropped["narration_failed"] == 3


def test_worker_that_is_gone_when_it_is_given_up(ready_worker, client, collector, process, clock):
    """Two windows out, and no way to cancel the first: both fail, and the loop continues."""
    first, second = windows(2)
    client.offer(encoded(first))
    ready_worker.send(ReadyForNext())
    collector.until(lambda: client.n_unfinished == 1)
    client.offer(encoded(second))
    collector.until(lambda: client.n_waiting == 0)
    disconnect(client, ready_worker)
    clock.ns += SILENT_NS
    collector.until(lambda: has_narrated(collector, 2))
    assert process.n_kills == 1
    assert client.dropped["worker_stopped"] + client.dropped["worker_died"] == 2


def test_message_that_is_no_reply_is_ignored(worker, collector):
    """It is logged; the worker continues."""
    worker.socket.send_multipart([worker.secret[:HALF_BYTES], b"hello?"])
    worker.socket.send_multipart([worker.secret[:HALF_BYTES], b"output", b"\xc1"])
    worker.send(NarratorOutput(ended=rows(99)))
    worker.send(ModelLoaded(1, PROVENANCE))
    worker.send(NarratorOutput(ended=rows(99)))
    collector.ready()
    assert collector.narrated == []


def test_first_worker_that_cannot_start_is_raised(worker, collector):
    """The user's error is code 2, a missing library code 3; the sentence is the worker's."""
    for code, kind in ((2, UserError), (3, DependencyError)):
        worker.send(Failed(-1, "No such model.", exit_code=code))
        with pytest.raises(kind, match=r"the narrator cannot start: No such model\."):
            collector.until(lambda: False)


def test_later_worker_that_cannot_start_is_a_problem(ready_worker, client, collector, process):
    """In the middle of a session it is tried again: not ready, with the sentence, not raised."""
    process.has_died = True
    ready_worker.send(Failed(-1, "No such model.", exit_code=2))
    collector.until(lambda: client.problem == "the narrator cannot start: No such model.")
    process.pid = 2
    ready_worker.send(ModelLoaded(2, PROVENANCE))
    collector.ready()


def test_window_that_comes_back_is_the_one_that_went(ready_worker, client, collector):
    """Gaps, stamps and counts stay with the daemon: the narration is of the very object."""
    window: Window = replace(tiny_windows(1)[0], n_gap_bins=3, spec=TINY_SPEC)
    client.offer(encoded(embeddings_of(window, ("all", "PV"))))
    batch_id, _ = ready_worker.take()
    ready_worker.finish(batch_id)
    collector.until(lambda: collector.narrated)
    assert collector.narrated[0].embedding.window is window


def test_folder_too_deep_for_a_socket_is_the_users_error(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A long TMPDIR is named, and nothing is left in it; so is one that is not there."""
    monkeypatch.setattr(client_module, "WorkerProcess", FakeProcess())
    deep = tmp_path / ("x" * 100)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(UserError, match="Set TMPDIR"), worker_client(context, []):
        pass
    deep.mkdir()
    with (
        pytest.raises(UserError, match=r"80 bytes\. Set TMPDIR to one: File name too long in .*x$"),
        worker_client(context, []),
    ):
        pass
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("secret", [b"", b"x", bytes(HALF_BYTES), None])
def test_message_without_the_secret_is_dropped(
    secret: bytes | None,
    context: Context,
    process: FakeProcess,
    client: WorkerClient,
    ready_worker: FakeWorker,
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
):
    """Another process of this user in the folder: no reply, no new worker; logged once a second."""
    client.offer(encoded(windows(1)[0]))
    batch_id, _ = ready_worker.take()
    forged = [
        pack_reply(NarratorOutput(ended=rows(batch_id))),
        pack_reply(ModelLoaded(1, PROVENANCE)),
        pack_reply(Failed(-1, "stop", exit_code=2)),
    ]
    with context.socket(zmq.DEALER) as stranger:
        stranger.set(zmq.LINGER, 1000)
        stranger.connect(process.address)
        for parts in forged:
            stranger.send_multipart(parts if secret is None else [secret, *parts])
        wait_until(lambda: not list(client.collect()) and client._socket.n_refused == len(forged))
    lines = [one for one in caplog.records if "another process refused" in one.getMessage()]
    assert len(lines) == 1
    ready_worker.finish(batch_id)
    collector.until(lambda: len(collector.narrated) == 2)
