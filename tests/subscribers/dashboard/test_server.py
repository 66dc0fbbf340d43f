"""The server between a publisher and pages: at once, nothing lost, and nobody waited for."""

from __future__ import annotations

import json
import socket
import time
import zlib
from itertools import islice

import numpy as np
import pytest

from contracts.displays import pack_rates
from contracts.errors import UserError
from contracts.narration_wire import pack_narration
from subscribers.dashboard import app
from subscribers.dashboard.frames import FrameFolder
from subscribers.dashboard.server import DashboardOptions, DashboardServer
from tests.support.dashboards import DEADLINE_S, fed_dashboard, subscribe
from tests.support.displays import encoder_parts, rates
from tests.support.narrations import narration
from tests.support.wait_until import wait_until


def one(seq: int, text: str = "A car.") -> list[bytes]:
    return pack_narration(narration(seq=seq, text=text))


def narrations_in(events, n: int) -> list[tuple[str, int]]:
    """Return id and number of the next narrations."""
    found = ((number, event["seq"]) for number, event in events if event["k"] == "narration")
    return list(islice(found, n))


def test_a_page_is_sent_what_was_before_it_and_what_comes(context):
    """A snapshot with the newest of everything, then each event, numbered."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(encoder_parts(), one(0))
        with dashboard.events() as events:
            _, hello = next(events)
            assert (hello["k"], hello["is_new"]) == ("hello", True)
            kinds = {event["k"] for event in hello["newest"]}
            assert {"encoder", "narration"} <= kinds
            dashboard.publish(one(1), one(2))
            assert [seq for _, seq in narrations_in(events, 2)] == [1, 2]


def test_a_page_that_was_away_gets_what_it_missed(context):
    """By the number that it has seen last; of another server it begins anew."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(one(0))
        with dashboard.events() as events:
            next(events)
            dashboard.publish(one(1))
            ((seen, _),) = narrations_in(events, 1)
        dashboard.publish(*(one(seq) for seq in range(2, 20)))
        with dashboard.events(seen=seen) as events:
            assert not next(events)[1]["is_new"]
            assert [seq for _, seq in narrations_in(events, 18)] == list(range(2, 20))
        for other in ("ffffffff-3", "nonsense", f"{seen}9999999", "-"):
            with dashboard.events(seen=other) as events:
                assert next(events)[1]["is_new"]


def test_history_survives_a_restart_of_the_daemon(context):
    """The server connects again by itself, and what was received is still served."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(one(0, "Before."))
        address = dashboard.publisher.address
        dashboard.publisher.close()
        with fed_dashboard(context, publish=address) as again:
            subscribe(again.publisher)  # of the first dashboard, which comes back
            dashboard.publisher = again.publisher
            dashboard.publish(pack_narration(narration(seq=0, text="After.", population="VISp")))
            status, _, body = dashboard.get("/history?start=-10&stop=800")
    texts = [event["text"] for event in json.loads(body) if event["k"] == "narration"]
    assert (status, texts) == (200, ["Before.", "After."])


def test_tiles_are_served_compressed(context):
    """A column for each tenth of a second."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(*(pack_rates(rates(1 + n / 10, seq=n)) for n in range(5)))
        status, headers, body = dashboard.get("/tiles/full/0")
        assert (status, headers["content-encoding"], headers["x-rows"]) == (200, "deflate", "5")
        tile = np.frombuffer(zlib.decompress(body), np.uint8).reshape(600, 5)
        assert (tile[:, 3] > 0).sum() > 5
        assert np.flatnonzero(tile[:, 3] == 88).tolist() == [10, 11, 12, 13, 14]
        assert len(zlib.decompress(dashboard.get("/tiles/overview/0")[2])) == 60 * 5


def test_a_page_that_never_reads_is_given_up(context, monkeypatch):
    """Others are served meanwhile, and it takes no memory to speak of."""
    monkeypatch.setattr(app, "STALLED_S", 1.0)
    with fed_dashboard(context) as dashboard, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", dashboard.server.port))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: json.loads(dashboard.get("/health")[2])["pages"] == 1)
        with dashboard.events() as events:
            next(events)
            seq = 0

            def is_given_up() -> bool:
                nonlocal seq
                dashboard.publish(*(one(seq + n, "A car. " * 250) for n in range(100)))
                assert len(narrations_in(events, 100)) == 100
                seq += 100
                return bool(json.loads(dashboard.get("/health")[2])["stalled"])

            wait_until(is_given_up)
        health = json.loads(dashboard.get("/health")[2])
        assert health["log_bytes"] <= 64 << 20


def test_too_many_pages_are_refused(context, monkeypatch):
    """Those that are open stay."""
    monkeypatch.setattr(app, "MAX_PAGES", 1)
    with fed_dashboard(context) as dashboard, dashboard.events() as events:
        next(events)
        assert dashboard.get("/events")[0] == 503


def test_closing_ends_open_pages(context):
    """At once: nobody waits for a browser."""
    with fed_dashboard(context) as dashboard:
        with dashboard.events() as events:
            next(events)
            started_s = time.monotonic()
            dashboard.server.close()
            assert time.monotonic() - started_s < DEADLINE_S
            assert list(events) == []


def test_a_port_that_is_taken_is_said(context):
    """With what to do."""
    with fed_dashboard(context) as dashboard:
        options = DashboardOptions("tcp://127.0.0.1:5571", port=dashboard.server.port)
        with pytest.raises(UserError, match="--port"):
            DashboardServer(options)


def test_frames_are_pictures(context, tmp_path):
    """Of arrays and of folders; what is not there is not found, whatever it is called."""
    np.save(tmp_path / "movie.npy", np.zeros((3, 8, 8), np.uint8))
    np.save(tmp_path / "odd.npy", np.zeros((3, 8), np.float64))
    with fed_dashboard(context, frames=tmp_path) as dashboard:
        status, headers, body = dashboard.get("/frames/2/movie")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert body.startswith(b"\xff\xd8")
        for path in ("3/movie", "0/odd", "0/other", "0/../movie", "99999999999/movie"):
            assert dashboard.get(f"/frames/{path}")[0] == 404
    with pytest.raises(UserError, match="--frames"):
        FrameFolder(tmp_path / "nothing")
