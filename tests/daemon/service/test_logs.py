"""How log lines look."""

import io
import json
import logging

import pytest

from daemon.service.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
    line = json.loads(stream.getvalue())
    assert line["event"] == "message dropped"
    assert (line["level"], line["n"], line["p95_ms"]) == ("WARNING", 3, "inf")


def test_text_lines_quote_what_has_blanks():
    """A text line ends with key=value pairs that can be taken apart again."""
    stream = io.StringIO()
    configure_logging("INFO", "text", stream)
    logging.getLogger("daemon.x").info("started", extra={"why": "a b", "ms": 1.23456})
    assert stream.getvalue().endswith('INFO daemon.x: started why="a b" ms=1.235\n')


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_line_steers_a_terminal(log_format):
    """Control characters in a name are escapes, and a line break begins no line of its own."""
    stream = io.StringIO()
    configure_logging("INFO", log_format, stream)
    name = "a\x1b[2J\nINFO daemon.x: forged\x9b\u202e"
    logging.getLogger("daemon.x").info("started", extra={"area": name})
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
    assert len(stream.getvalue().splitlines()) == 1


def test_tracebacks_are_kept():
    """An exception is part of its line."""
    stream = io.StringIO()
    configure_logging("INFO", "json", stream)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("daemon.x").exception("worker failed")
    assert "boom" in json.loads(stream.getvalue())["traceback"]
