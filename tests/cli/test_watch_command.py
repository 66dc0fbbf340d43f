"""``neurrate watch`` over real sockets."""

import json
import sys
import threading
from dataclasses import replace

import pytest
import zmq
from rich.console import Console

from contracts.narration_wire import pack_narration
from contracts.spikes import Mark
from contracts.wire import pack
from neurrate.cli import main
from subscribers.watch.view import draw
from tests.support.narrations import narration


@pytest.fixture
def publisher():
    """Publish two narrations to everyone who subscribes, until the test ends."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.set(zmq.LINGER, 0)
    address = f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            if socket.poll(20) and socket.recv()[:1] == b"\x01":
                for seq in range(2):
                    socket.send_multipart(pack_narration(narration(seq=seq, text=f"car {seq}")))

    thread = threading.Thread(target=serve)
    thread.start()
    yield address
    is_over.set()
    thread.join()
    socket.close()
    context.term()


def test_lines_are_printed_and_written(publisher, tmp_path, capsys):
    """Where there is no terminal each narration is one line, and the JSON has them all."""
    out = tmp_path / "heard.json"
    words = ["--connect", publisher, "--seconds", "0.6", "--json", str(out)]
    assert main(["watch", *words]) == 0
    shown = capsys.readouterr().out
    assert "0.250 s  all: car 0  (60 ms)" in shown
    report = json.loads(out.read_text())
    assert [one["text"] for one in report["narrations"]] == ["car 0", "car 1"]
    assert report["populations"][0]["narrations"] == 2
    assert report["populations"][0]["latency ms, median"] == pytest.approx(60)


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(term, publisher, capsys, monkeypatch):
    """A terminal that does not move its cursor, as an editor's, would stay blank."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["watch", "--connect", publisher, "--seconds", "0.6"]) == 0
    shown = capsys.readouterr().out
    assert "0.250 s  all: car 0  (60 ms)" in shown
    assert "\x1b" not in shown.partition("Heard")[0].removesuffix("\x1b[1m")


@pytest.fixture
def world():
    """Publish a mark, and narrations of its moment, again and again: as (source, daemon)."""
    shown = Mark("nwb", "0" * 16, 0, 10**9, "movie", 0, 0, "A dog runs to the left, by day.")
    context = zmq.Context()
    addresses, sockets = [], []
    for _ in range(2):
        socket = context.socket(zmq.PUB)
        socket.set(zmq.LINGER, 0)
        addresses.append(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        sockets.append(socket)
    is_over = threading.Event()

    def serve() -> None:
        seq = 0
        while not is_over.wait(0.02):
            sockets[0].send_multipart(pack(shown))
            said = replace(narration(seq=seq, text="A dog and a car."), frame_s=0.5)
            sockets[1].send_multipart(pack_narration(said))
            seq += 1

    thread = threading.Thread(target=serve)
    thread.start()
    yield addresses
    is_over.set()
    thread.join()
    for socket in sockets:
        socket.close()
    context.term()


def test_the_truth_of_a_source_stands_beside_the_words(world, tmp_path, capsys):
    """With --truth the lines end with the true caption, and the score is in table and JSON."""
    out = tmp_path / "heard.json"
    source, daemon = world
    words = ["--connect", daemon, "--truth", source, "--seconds", "1", "--json", str(out)]
    assert main(["watch", *words]) == 0
    shown = capsys.readouterr().out
    assert "all: A dog and a car.  (60 ms) | truth: A dog runs to the left, by day." in shown
    assert "Objects named, against the true captions" in shown
    report = json.loads(out.read_text())
    scored = [one for one in report["narrations"] if one["truth"]]
    assert report["scores"] == {"all": {"object_f1": pytest.approx(2 / 3), "n": len(scored)}}


def test_a_truth_that_is_no_address_is_refused(capsys):
    """The option that was wrong is named, not the other one."""
    assert main(["watch", "--truth", "session.nwb", "--seconds", "0.2"]) == 2
    assert "--truth takes an address" in capsys.readouterr().err


def test_the_live_view_draws_on_a_terminal(publisher, monkeypatch, capsys):
    """On a terminal the live view is drawn and left again."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["watch", "--connect", publisher, "--seconds", "0.6"]) == 0
    assert "car 1" in capsys.readouterr().out


def test_the_live_view_fits_the_terminal(publisher, monkeypatch, capsys):
    """The live view is drawn for the height that the terminal has."""
    heights = []

    def draw_and_note(state, host_ns, height=None):
        heights.append(height)
        return draw(state, host_ns, height)

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("rich._console", Console(width=80, height=11))
    monkeypatch.setattr("subscribers.watch.view.draw", draw_and_note)
    assert main(["watch", "--connect", publisher, "--seconds", "0.3"]) == 0
    assert set(heights) == {11}


def test_nobody_there_is_said_and_is_no_error(capsys):
    """Waiting for a daemon that is not up is said on standard error."""
    assert main(["watch", "--connect", "tcp://127.0.0.1:1", "--seconds", "0.2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "waiting for tcp://127.0.0.1:1\n"
    assert captured.out == "Heard: nothing\n"
