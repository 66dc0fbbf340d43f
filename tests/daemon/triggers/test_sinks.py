"""Where sinks deliver: real servers and real programs, on their best and worst days."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import socket
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from contracts.clock import Clock
from contracts.trigger import TriggerKind, pack_trigger, unpack_trigger
from daemon.triggers.sinks.command import CommandOutlet
from daemon.triggers.sinks.http import HttpOutlet, OpenEphysOutlet
from daemon.triggers.sinks.thread import Delivery, DeliveryError, SinkThread
from daemon.triggers.tables import CommandSinkTable, HttpSinkTable, OpenEphysSinkTable
from tests.support.manual_clock import ManualClock
from tests.support.sinks import CLOCK, delivery_of, running
from tests.support.triggers import trigger
from tests.support.wait_until import wait_until

CONFIGS = Path(__file__).parents[3] / "configs" / "triggers"


@dataclass
class Server:
    """What an HTTP server was asked."""

    url: str
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)


@contextmanager
def _serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append((self.command, self.path, body))
            status, answer = found.answers.pop(0) if found.answers else (200, b"{}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield found
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with _serving() as found:
        yield found


def _deliver(outlet: HttpOutlet, delivery: Delivery | None = None) -> None:
    """Deliver one trigger, as a sink's thread would."""
    outlet.open()
    try:
        outlet.deliver(delivery or delivery_of())
    finally:
        outlet.close(deadline_s=1)


def test_http_posts_the_published_json(server: Server):
    """The body is the message of the publish socket, byte for byte, and the query stays."""
    delivery = delivery_of()
    table = HttpSinkTable(kind="http", url=f"{server.url}/hook?rig=1")
    _deliver(HttpOutlet(table, CLOCK), delivery)
    assert server.asked == [("POST", "/hook?rig=1", delivery.payload)]
    assert unpack_trigger(server.asked[0][2]) == delivery.trigger


def test_http_refusal_is_a_failure_and_is_not_repeated(server: Server):
    """An answer that is no 2xx is said, and by default nothing is sent twice."""
    server.answers = [(503, b"")]
    outlet = HttpOutlet(HttpSinkTable(kind="http", url=server.url), CLOCK)
    with pytest.raises(DeliveryError, match="answered 503"):
        _deliver(outlet)
    assert len(server.asked) == 1


def test_http_retries_where_asked(server: Server):
    """With retries the same trigger is sent again until it is taken."""
    server.answers = [(500, b""), (500, b"")]
    _deliver(HttpOutlet(HttpSinkTable(kind="http", url=server.url, retries=2), CLOCK))
    assert len(server.asked) == 3


def test_http_does_not_retry_what_is_too_old(server: Server):
    """A trigger is not tried again once it is older than the sink takes: late, it would mislead."""
    server.answers = [(500, b"")] * 10
    clock = ManualClock()
    table = HttpSinkTable(kind="http", url=server.url, retries=9, max_age_s=0.2)
    said = trigger(published_ns=clock.now_ns())
    with pytest.raises(DeliveryError, match=r"answered 500 .*; too old to be tried again"):
        _deliver(HttpOutlet(table, clock), Delivery(said, b"{}"))
    assert len(server.asked) == 3  # at 0, 50 and 150 ms


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["in the head", "in the body"]
)
def test_a_server_that_drips_is_left(head: bytes):
    """The time allowed is for the whole answer, however many pieces it comes in."""
    has_been_left = threading.Event()

    def drip() -> None:
        there, _ = listener.accept()
        with there, suppress(OSError):
            there.recv(65_536)
            there.sendall(head)
            while not has_been_left.wait(0.001):
                there.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        outlet = HttpOutlet(HttpSinkTable(kind="http", url=url, timeout_s=0.1), CLOCK)
        with pytest.raises(DeliveryError, match="Timeout"):
            _deliver(outlet)
        has_been_left.set()
        thread.join()


def test_http_without_a_server_is_a_failure():
    """Nobody there, and somebody who never answers, are failures within the time allowed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DeliveryError, match="ConnectionRefused"):
            _deliver(HttpOutlet(HttpSinkTable(kind="http", url=url), CLOCK))
        listener.listen()
        table = HttpSinkTable(kind="http", url=url, timeout_s=0.05)
        with pytest.raises(DeliveryError, match="Timeout"):
            _deliver(HttpOutlet(table, CLOCK))


def test_open_ephys_gets_a_message(server: Server):
    """A PUT of ``{"text": ...}`` to ``/api/message``, with the trigger's fields filled in."""
    server.answers = [(200, b'{"mode":"RECORD"}')]
    table = OpenEphysSinkTable(
        kind="open_ephys", url=server.url, message="{name} {population} {score:.2f} {stop_s}"
    )
    _deliver(OpenEphysOutlet(table, CLOCK))
    assert server.asked == [("PUT", "/api/message", b'{"text": "car_seen all 0.75 1.25"}')]


def test_open_ephys_default_message_is_one_line(server: Server):
    """Without a message of one's own the trigger can be found again in the recording."""
    table = OpenEphysSinkTable(kind="open_ephys", url=server.url)
    _deliver(OpenEphysOutlet(table, CLOCK), delivery_of(3))
    text = json.loads(server.asked[0][2])["text"]
    assert text == "neurrate car_seen all score=0.750 stop_s=1.250 id=run-car_seen-3"


def test_open_ephys_that_is_idle_is_a_failure(server: Server):
    """The GUI answers 200 and passes nothing on: that is said."""
    server.answers = [(200, b'{"mode":"IDLE"}')]
    outlet = OpenEphysOutlet(OpenEphysSinkTable(kind="open_ephys", url=server.url), CLOCK)
    with pytest.raises(DeliveryError, match="the GUI is idle"):
        _deliver(outlet)
    server.answers = [(200, b"not JSON")]
    _deliver(outlet)


def test_a_host_that_no_name_server_takes_is_a_failure():
    """A label over 63 letters is an error of the codec, not of the network."""
    url = f"http://{'a' * 64}.test/"
    with running(HttpOutlet(HttpSinkTable.model_construct(kind="http", url=url), CLOCK)) as sink:
        for seq in range(3):
            sink.offer(delivery_of(seq))
    assert (sink.n_sent, sink.n_failed, sink.n_lost) == (0, 3, 0)


def _command(words: list[str], clock: Clock = CLOCK, **options: float) -> CommandOutlet:
    table = CommandSinkTable.model_validate({"kind": "command", "command": words, **options})
    return CommandOutlet(table, clock)


def test_a_command_reads_one_line_a_trigger(tmp_path: Path):
    """The program runs from the start, gets each trigger as a line, and ends with the input."""
    out = tmp_path / "lines"
    outlet = _command(["sh", "-c", f"cat > {shlex.quote(str(out))}"])
    with running(outlet) as sink:
        wait_until(lambda: outlet.pid is not None, what="the program")
        for seq in range(3):
            sink.offer(delivery_of(seq))
    lines = out.read_bytes().splitlines()
    assert [unpack_trigger(line).seq for line in lines] == [0, 1, 2]
    assert sink.n_sent == 3


def test_a_killed_command_is_started_again(tmp_path: Path):
    """What comes meanwhile fails and is counted; after the pause deliveries go on."""
    out = tmp_path / "lines"
    outlet = _command(["sh", "-c", f"cat >> {shlex.quote(str(out))}"])
    with running(outlet) as sink:
        wait_until(lambda: outlet.pid is not None, what="the program")
        first = outlet.pid
        assert first is not None
        psutil.Process(first).kill()
        wait_until(lambda: outlet.pid is None, what="its end")
        sink.offer(delivery_of(0))
        wait_until(lambda: sink.n_failed == 1, what="the failure")
        wait_until(lambda: outlet.pid not in {None, first}, what="another one")
        sink.offer(delivery_of(1))
        wait_until(lambda: sink.n_sent == 1, what="the delivery")
    assert [unpack_trigger(line).seq for line in out.read_bytes().splitlines()] == [1]
    assert outlet.n_restarts == 1


def test_a_command_that_ends_at_once_is_not_started_in_a_hurry():
    """Each end doubles the pause, so that a broken program costs no core."""
    clock = ManualClock()
    outlet = _command(["false"], clock)
    outlet.open()

    def has_ended() -> bool:
        outlet.tend()
        return outlet.pid is None

    for n, pause_ns in enumerate((500_000_000, 1_000_000_000, 2_000_000_000)):
        wait_until(has_ended, what="its end")
        clock.ns += pause_ns - 1
        outlet.tend()
        assert outlet.n_restarts == n
        clock.ns += 1
        outlet.tend()
        assert outlet.n_restarts == n + 1
    outlet.close(deadline_s=5)


def test_a_command_that_does_not_read_is_replaced():
    """Once its pipe is full a delivery fails in time, and the program with half a line is ended."""
    outlet = _command(["sleep", "60"], timeout_s=0.02)
    outlet.open()
    long = Delivery(trigger(), b"x" * 200_000)
    with pytest.raises(DeliveryError, match=r"did not read for 0\.02 s"):
        outlet.deliver(long)
    assert outlet.pid is None
    with pytest.raises(DeliveryError, match="has ended"):
        outlet.deliver(long)
    outlet.close(deadline_s=1)


def test_a_command_that_stays_is_killed_at_the_end():
    """A program that does not end with its input is not left behind."""
    outlet = _command(["sleep", "60"])
    outlet.open()
    pid = outlet.pid
    outlet.close(deadline_s=0.05)
    assert pid is not None
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("script", ["cat; wait", "cat", "exit"])
def test_what_a_command_has_started_ends_with_it(tmp_path: Path, script: str):
    """Whether a program must be killed, ends with its input or by itself, nothing of it stays."""
    pid_file = tmp_path / "pid"
    started = f"sleep 600 & echo $! > {shlex.quote(str(pid_file))}.new"
    moved = f"mv {shlex.quote(str(pid_file))}.new {shlex.quote(str(pid_file))}"
    outlet = _command(["sh", "-c", f"{started}; {moved}; {script}"], ManualClock())
    outlet.open()
    wait_until(pid_file.exists, what="its child")
    child = psutil.Process(int(pid_file.read_text()))

    def has_ended() -> bool:
        outlet.tend()
        return outlet.pid is None

    if script == "exit":
        wait_until(has_ended, what="its end")
    outlet.close(deadline_s=5 if script == "cat" else 0.05)
    wait_until(lambda: not _runs(child), what="the end of its child")


def _runs(process: psutil.Process) -> bool:
    """Whether a process is there, and not one that has ended and nobody has asked about."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_sink_has_the_time_to_kill_its_program(caplog: pytest.LogCaptureFixture):
    """The program gets less time to end than the thread, which waits for it."""
    outlet = _command(["sleep", "60"])
    sink = SinkThread("sink", outlet, queue=10, max_age_s=5, clock=CLOCK)
    wait_until(lambda: outlet.pid is not None, what="the program")
    pid = outlet.pid
    sink.close(deadline_s=0.5)
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert "sink left behind" not in caplog.text


@pytest.mark.parametrize(
    "program", [["sh", "serial_pulse.sh"], [sys.executable, "serial_pulse.py"]], ids=["sh", "py"]
)
def test_the_serial_examples_make_a_pulse(program: list[str]):
    """The documented commands write 1 and 0 to a serial port for each trigger, of any kind."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        outlet = _command([program[0], str(CONFIGS / program[1]), os.ttyname(slave)])
        with running(outlet) as sink:
            read = b""
            for seq, kind in enumerate(TriggerKind):
                said = replace(delivery_of(seq).trigger, kind=kind)
                sink.offer(Delivery(said, pack_trigger(said)[1]))
                while len(read) < 2 * seq + 2:
                    assert select.select([master], [], [], 20)[0], read
                    read += os.read(master, 10)
            assert read == b"101010"
        assert sink.n_sent == 3
    finally:
        os.close(master)
        os.close(slave)
