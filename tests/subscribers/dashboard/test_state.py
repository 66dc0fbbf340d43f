"""What the page is given of each message."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.displays import pack_probes, pack_rates
from contracts.narration import Utterance
from contracts.narration_wire import pack_narration
from contracts.population import Population, Unit
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello, Mark
from contracts.trigger import pack_trigger
from daemon.counters import Counters
from daemon.service.stats import StreamStats, stats_message
from subscribers.dashboard.state import DashboardState
from subscribers.listener import parse
from tests.support.displays import encoder_parts, manifest_of, probes, rates
from tests.support.narrations import narration
from tests.support.ramp_population import RUN
from tests.support.triggers import trigger

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[2J"


class FedState(DashboardState):
    """A state whose clock stands still unless a test moves it."""

    def __init__(self, **options: Any) -> None:
        self.host_s = 1_000.0
        super().__init__(
            "tcp://127.0.0.1:5571",
            now_s=lambda: self.host_s,
            wall_s=lambda: 1_700_000_000.0,
            **options,
        )

    def feed(self, *messages: list[bytes]) -> None:
        """Take in packed messages."""
        for parts in messages:
            self.take(parse(parts, host_ns=0))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what has been logged of a kind."""
        events = [json.loads(event.data) for event in self.log.since(1, limit=10_000)]
        return [event for event in events if event["k"] == kind]


def stats(**changes: Any) -> list[bytes]:
    values: dict[str, Any] = {
        "host_ns": 1,
        "uptime_s": 1.0,
        "session_s": 1.0,
        "counters": Counters(),
        "latency_ms": {"total": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "n": 5}},
        "reasons": ["streams: silent for too long: probeA"],
        "notes": ["3 units are held at their mean"],
        "streams": {"probeA": StreamStats(0.5, "blind")},
        "queue": {"waiting": 1, "unfinished": 2},
    }
    return stats_message(**values | changes)


def mark(start_s: float, caption: str | None, *, stream: str = "probeA", frame: int = 0) -> Mark:
    start_ns = round(start_s * 1e9)
    return Mark(stream, RUN, start_ns, start_ns + 500_000_000, "movie", 1, frame, caption)


def test_a_narration_is_shown_with_its_caption_controls_and_latency():
    """The caption is that of its frame; a control is marked as one."""
    state = FedState()
    one = narration()
    state.feed(
        pack_mark(mark(one.frame_s - 0.1, "A car.")),
        pack_narration(one),
        pack_narration(replace(one, population="shuffled", id="other")),
    )
    shown, control = state.events("narration")
    assert (shown["text"], shown["truth"]) == (one.utterance.text, "A car.")
    assert (shown["is_control"], control["is_control"]) == (False, True)
    assert sum(v for k, v in shown["latency_ms"].items() if k != "total") == pytest.approx(
        shown["latency_ms"]["total"], abs=0.1
    )
    newest = {
        event["population"] for event in state.snapshot()["newest"] if event["k"] == "narration"
    }
    assert newest == {one.population, "shuffled"}


def test_two_streams_may_send_the_same_marks():
    """None of them makes the page forget the captions of the other."""
    state = FedState()
    one = narration()
    for at_s in (one.frame_s - 0.4, one.frame_s - 0.1, one.frame_s + 0.3):
        for stream in ("probeA", "probeB"):
            state.feed(pack_mark(mark(at_s, f"At {at_s:.2f}.", stream=stream)))
    state.feed(pack_narration(one))
    assert state.events("narration")[0]["truth"] == f"At {one.frame_s - 0.1:.2f}."


def test_scores_have_matched_and_shuffled_of_every_population():
    """Once in two seconds; a failed narration names nothing."""
    state = FedState(kinds_of=lambda text: {word for word in ("car", "dog") if word in text})
    for number in range(8):
        thing = ("car", "dog")[number % 2]
        one = narration(seq=number, text=f"A {thing}.")
        moved = replace(
            one,
            window_start_s=number,
            window_stop_s=number + 0.5,
            frame_s=number + 0.4,
            id=f"id-{number}",
        )
        state.feed(pack_mark(mark(number + 0.1, f"The {thing} {number}.")), pack_narration(moved))
        state.host_s += 1
    newest = state.events("scores")[-1]["populations"][narration().population]
    assert newest["matched"] == 1.0
    assert newest["shuffled"] < 0.6


def test_rates_become_levels_of_populations_and_units():
    """A column in the tile, and the same in the event; gaps are told apart."""
    state = FedState()
    state.feed(encoder_parts(), pack_rates(rates(1.0)), pack_rates(rates(1.1, n_gap_bins=3)))
    first = state.events("rates")[0]
    levels = np.frombuffer(base64.b64decode(first["levels"]), np.uint8)
    assert levels.tolist() == [57, 255, 0, 88, 51]
    assert state.rates is not None
    tile = np.frombuffer(zlib.decompress(state.rates.tile(0) or b""), np.uint8).reshape(-1, 5)
    assert tile[10].tolist() == levels.tolist()
    assert [event["n"] for event in state.events("gap")] == [3]


def test_the_layout_has_areas_of_the_encoder_and_depths_of_the_source():
    """Joined by probe and id, whatever the order in which the messages come."""
    manifest = manifest_of()
    units = manifest.population.units
    sited = [replace(unit, depth_um=100.0 * row) for row, unit in enumerate(reversed(units))]
    counts = [0] * len(units)
    fingerprint = manifest.population.fingerprint
    state = FedState()
    state.feed(
        pack_rates(rates(1.0, unit_counts=counts, fingerprint=fingerprint)),
        pack_units(Hello("probeA", RUN, "test", Population(sited))),
        encoder_parts(manifest),
    )
    layout = state.events("layout")[-1]
    assert layout["populations"] == ["all", "silent"]
    assert layout["units"]["area"] == [unit.area for unit in units]
    assert layout["units"]["depth_um"] == [100.0 * row for row in reversed(range(len(units)))]


def test_health_is_in_the_words_of_the_daemon():
    """Reasons and notes as ``/readyz`` has them, and the state of each stream."""
    state = FedState()
    state.feed(stats())
    (shown,) = state.events("stats")
    assert shown["reasons"] == ["streams: silent for too long: probeA"]
    assert shown["notes"] == ["3 units are held at their mean"]
    assert shown["streams"]["probeA"]["state"] == "blind"
    assert state.events("latency")[0]["p95"] == 2.0


def test_triggers_and_probes_are_shown_with_their_thresholds():
    """A dry one is told apart."""
    state = FedState()
    state.feed(pack_trigger(trigger(dry_run=True)), pack_probes(probes()))
    (fired,) = state.events("trigger")
    assert (fired["name"], fired["dry_run"], fired["threshold"]) == ("car_seen", True, 0.5)
    assert state.events("probes")[0]["rules"]["car_seen"]["threshold"] == 0.8


def test_a_session_that_begins_again_keeps_what_was_before():
    """The axis goes on; session times are those of the new session."""
    state = FedState()
    state.feed(pack_rates(rates(100.0)))
    state.host_s += 5
    state.feed(pack_rates(rates(1.0)))
    first, second = state.events("rates")
    assert (first["x0"], second["x0"]) == (100.0, pytest.approx(105.1))
    assert len(state.snapshot()["spans"]) == 2


def test_hostile_texts_stay_texts():
    """Controls are escaped, and what is too long is cut: pages draw texts alone."""
    state = FedState()
    hostile = HOSTILE * 200
    units = [replace(manifest_of().population.units[0], area=HOSTILE)]
    manifest = manifest_of([replace(units[0]), Unit("b" + HOSTILE)])
    one = narration()
    state.feed(
        pack_narration(replace(one, label=HOSTILE, utterance=replace(one.utterance, text=hostile))),
        pack_mark(replace(mark(1.0, hostile), stimulus=HOSTILE)),
        pack_units(Hello("probeA", RUN, HOSTILE, Population([Unit(HOSTILE)]))),
        encoder_parts(manifest, ("all",)),
        stats(reasons=[HOSTILE], notes=[HOSTILE]),
    )
    logged = b"".join(event.data for event in state.log.since(1, limit=100)).decode()
    assert "\u202e" not in logged
    assert "\\u001b" not in logged.replace("\\\\u001b", "")
    assert len(state.events("narration")[0]["text"]) < 20_000


def test_features_that_a_page_could_not_draw_are_left_out():
    """Those without a height, and more than a narration has."""
    state = FedState()
    topic, payload = pack_narration(narration())
    heights = (float("nan"), 2.0, 1.5, 1.0)
    features = [{"feature": 1, "name": HOSTILE, "z": z} for z in heights]
    state.feed([topic, json.dumps({**json.loads(payload), "features": features}).encode()])
    (event,) = state.events("narration")
    assert [one["z"] for one in event["features"]] == [2.0, 1.5]
    assert "\x1b" not in event["features"][0]["name"]


def test_an_utterance_without_numbers_is_json():
    """What is not a number becomes null: a browser could not read it."""
    state = FedState()
    one = narration()
    assert isinstance(one.utterance, Utterance)
    state.feed(pack_probes(probes()))
    state._log({"k": "odd", "value": float("nan"), "inner": [float("inf")]}, None)
    assert state.events("odd")[0]["value"] is None
