"""How log lines look."""

import fcntl
import io
import json
import logging
import os
import re
import subprocess
import sys
import time

import pytest

from daemon.service import logs
from daemon.service.logs import MAX_QUEUED, QueuedHandler, configure_logging, n_lines_dropped


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("daemon", "stream_sources", "simulation", "neurrate"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_json_lines_hold_the_fields():
    """Each line is one JSON object with the phrase and the pairs; numbers JSON lacks are text."""
    stream = io.StringIO()
    configure_logging("INFO", "auto", stream)
    fields = {"n": 3, "p95_ms": float("inf")}
    logging.getLogger("daemon.x").warning("message dropped", extra=fields)
    logging.getLogger().handlers[0].flush()
    line = json.loads(stream.getvalue())
    assert line["event"] == "message dropped"
    assert (line["level"], line["n"], line["p95_ms"]) == ("WARNING", 3, "inf")


def test_text_lines_quote_what_has_blanks():
    """A text line ends with key=value pairs that can be taken apart again."""
    stream = io.StringIO()
    configure_logging("INFO", "text", stream)
    logging.getLogger("daemon.x").info("started", extra={"why": "a b", "ms": 1.23456})
    logging.getLogger().handlers[0].flush()
    assert stream.getvalue().endswith('INFO daemon.x: started why="a b" ms=1.235\n')


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_line_steers_a_terminal(log_format):
    """Control characters in a name are escapes, and a line break begins no line of its own."""
    stream = io.StringIO()
    configure_logging("INFO", log_format, stream)
    name = "a\x1b[2J\nINFO daemon.x: forged\x9b\u202e"
    logging.getLogger("daemon.x").info("started", extra={"area": name})
    logging.getLogger().handlers[0].flush()
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    if log_format == "json":
        assert json.loads(line)["area"] == name


def test_only_our_own_packages_are_talkative():
    """At DEBUG a library still logs from WARNING on."""
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream)
    logging.getLogger("some_library").info("hello")
    logging.getLogger("daemon.x").debug("hello")
    logging.getLogger().handlers[0].flush()
    assert len(stream.getvalue().splitlines()) == 1


def test_tracebacks_are_kept():
    """An exception is part of its line."""
    stream = io.StringIO()
    configure_logging("INFO", "json", stream)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("daemon.x").exception("worker failed")
    logging.getLogger().handlers[0].flush()
    assert "boom" in json.loads(stream.getvalue())["traceback"]


@pytest.fixture
def full_pipe():
    """A pipe that takes nothing more, and the file to write it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    with (
        os.fdopen(reader, "rb", buffering=0) as out,
        os.fdopen(writer, "w", encoding="utf-8") as into,
    ):
        yield out, into


def _read_until(pipe, pattern: bytes) -> bytes:
    received = b""
    while not re.search(pattern, received):
        received += pipe.read(65536)
    return received


def test_a_reader_that_does_not_read_stops_nobody(full_pipe):
    """A full pipe: lines are dropped and counted, and a line says how many when it flows again."""
    pipe, output = full_pipe
    configure_logging("INFO", "text", output)
    log = logging.getLogger("daemon.x")
    before = time.monotonic()
    for number in range(MAX_QUEUED + 1000):
        log.info("line", extra={"number": number})
    assert time.monotonic() - before < 5
    n_dropped = n_lines_dropped()
    assert 998 <= n_dropped <= 1000  # the thread holds one, and may have found the queue empty
    text = _read_until(pipe, rb"lines dropped, since nobody read them lines=\d+\n").decode()
    assert text.count("daemon.x: line") == MAX_QUEUED + 1000 - n_dropped
    assert text.endswith(f" lines={n_dropped}\n")
    assert n_lines_dropped() == n_dropped


def test_the_end_does_not_wait_for_a_reader(full_pipe, monkeypatch):
    """Flushing and closing are bounded where nobody reads."""
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT_S", 0.1)
    pipe, output = full_pipe
    handler = QueuedHandler(output)
    handler.handle(logging.makeLogRecord({"msg": "one"}))
    before = time.monotonic()
    handler.flush()
    handler.close()
    assert time.monotonic() - before < 2
    _read_until(pipe, b"one")  # which lets the thread end


def test_a_reader_that_is_gone_stops_nobody():
    """Lines into a closed pipe are counted, and nothing is raised."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as output:
        handler = QueuedHandler(output)
        handler.handle(logging.makeLogRecord({"msg": "one"}))
        handler.flush()
        handler.close()
    assert handler.n_dropped == 1


def test_a_pipe_that_another_program_made_non_blocking_is_waited_for(full_pipe):
    """A descriptor is shared with its mode: a full one is tried again, not given up."""
    pipe, output = full_pipe
    os.set_blocking(output.fileno(), False)
    handler = QueuedHandler(output)
    handler.handle(logging.makeLogRecord({"msg": "one"}))
    _read_until(pipe, b"one\n")
    handler.close()
    assert handler.n_dropped == 0


def test_what_is_logged_before_the_end_is_written():
    """A process that ends right after a line, or with an error, loses no line."""
    program = (
        "import logging; from daemon.service.logs import configure_logging; configure_logging();"
        "[logging.getLogger('daemon').info('line') for _ in range(1000)]; raise SystemExit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr.count(b'"line"')) == (3, 1000)
