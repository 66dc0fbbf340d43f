"""What the page knows: the last hour, and the newest of everything. No socket, no HTTP.

Everything here runs on one thread, that of the HTTP server; the thread that listens to the daemon
hands over what it has received.
"""

from __future__ import annotations

import base64
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from typing import Any

import numpy as np

from contracts.clock import second_to_ns
from contracts.daemon_json import DaemonIdentity
from contracts.displays import EncoderFacts, ProbeScores, Rates
from contracts.narration import Narration, Status
from contracts.spikes import Hello, Mark
from contracts.statistics import Statistics
from contracts.trigger import Trigger
from subscribers.dashboard.event_log import EventLog
from subscribers.dashboard.events import (
    Event,
    dumped,
    encoder_event,
    latency_event,
    narration_event,
    probes_event,
    statistics_event,
    text_of,
    trigger_event,
    units_table,
)
from subscribers.dashboard.rate_history import TILE_S, RateHistory, levels_of
from subscribers.dashboard.running_score import RunningScore
from subscribers.dashboard.timeline import SessionAxis
from subscribers.listener import Received
from subscribers.watch.truth import CaptionTimeline

MAX_POPULATIONS = 256
"""Populations whose newest narration is kept; the daemon narrates a few tens."""

MAX_STREAMS = 64
SCORES_EVERY_S = 2.0
MARKS_EVERY_S = 0.05
"""Frames that are drawn: twenty a second."""

SCORE_SEED = 0

LIVE_ONLY = frozenset({"rates", "stats", "mark", "scores"})
"""Kinds of which a page that was away needs the newest alone."""


class DashboardState:
    """Takes in what the daemon publishes, and logs what pages draw.

    `kinds_of` returns the kinds of things that a text names; without it nothing is scored.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        kinds_of: Callable[[str], AbstractSet[str]] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.endpoint = endpoint
        self.log = EventLog(live_only=LIVE_ONLY)
        self.axis = SessionAxis()
        self.rates: RateHistory | None = None
        self._kinds_of = kinds_of
        self._now_s = now_s
        self._wall_s = wall_s
        self._newest: dict[str, Event] = {}  # by kind, and narrations by population
        self._facts: EncoderFacts | None = None
        self._layout: tuple[str, int, tuple[str, ...]] | None = None
        self._streams: dict[str, Hello] = {}
        self._captions: dict[str, CaptionTimeline] = {}
        self._caption = ""  # the newest that was logged
        self._scores: defaultdict[str, RunningScore] = defaultdict(RunningScore)
        self._scored: set[str] = set()
        self._summaries: dict[str, Any] = {}
        self._next_scores_s = self._next_mark_s = 0.0
        self.n_received = 0
        self._received_ms = 0

    def take(self, received: Received) -> None:
        """Take in one message, and log what pages draw of it."""
        self.n_received += 1
        self._received_ms = self._wall_ms()
        match received.value:
            case Narration():
                self._take_narration(received.value)
            case Rates():
                self._take_rates(received.value)
            case Trigger():
                trigger = received.value
                self._log(trigger_event(trigger), trigger.window.stop_s)
            case ProbeScores():
                probes = received.value
                self._log(probes_event(probes), probes.window.stop_s)
            case Statistics():
                notes = received.content.get("notes", [])
                self._take_statistics(received.value, notes if isinstance(notes, list) else [])
            case Mark():
                self._take_mark(received.value)
            case Hello():
                self._take_units(received.value)
            case EncoderFacts():
                self._take_encoder(received.value)
            case DaemonIdentity():
                self._take_daemon(received.value)
            case _:
                pass

    def snapshot(self) -> Event:
        """Return what a page needs to begin: the newest of everything, and how far history goes."""
        return {
            "k": "hello",
            "endpoint": self.endpoint,
            "now": self._wall_ms(),
            "received": self._received_ms,
            "head": self.axis.head,
            "spans": [asdict(span) for span in self.axis.spans],
            "oldest": self._oldest_x(),
            "tiles": list(self.rates.numbers) if self.rates else [],
            "newest": list(self._newest.values()),
        }

    def history(self, start_x: float, stop_x: float) -> bytes:
        """Return the events of an interval of the axis, as a JSON list."""
        return b"[" + b",".join(event.data for event in self.log.between(start_x, stop_x)) + b"]"

    def _oldest_x(self) -> float | None:
        """Return where history begins; what came before any session time has no place."""
        tiles = self.rates.numbers if self.rates else ()
        begins = (self.log.oldest_x, tiles[0] * TILE_S if tiles else None)
        oldest = min((x for x in begins if x is not None), default=None)
        if oldest is None or not self.axis.spans:
            return oldest
        return max(oldest, self.axis.spans[0].x)

    def _take_narration(self, narration: Narration) -> None:
        times = (narration.window_start_s, narration.window_stop_s, narration.frame_s)
        if not all(map(math.isfinite, times)):
            return
        truth = self._caption_at(narration.frame_s)
        event = narration_event(narration, truth=truth)
        self._advance(narration.window_stop_s)
        self._log(event, narration.window_stop_s, key=f"narration {narration.population}")
        if truth and self._kinds_of is not None:
            # The reason of a failed narration is no description, whatever words it has.
            is_failed = narration.utterance.status is Status.FAILED
            text = "" if is_failed else narration.utterance.text
            if len(self._scores) < MAX_POPULATIONS or narration.population in self._scores:
                score = self._scores[narration.population]
                score.add(truth, self._kinds_of(text), self._kinds_of(truth))
                self._scored.add(narration.population)
        self._log_scores()

    def _take_rates(self, rates: Rates) -> None:
        self._advance(rates.start_s)
        self._advance(rates.stop_s)
        populations = tuple(rates.populations_hz)
        self._set_layout(rates, populations)
        duration_s = rates.stop_s - rates.start_s
        hz = [math.nan if value is None else value for value in rates.populations_hz.values()]
        units_hz = np.asarray(rates.unit_counts, dtype=np.float64) / duration_s
        levels = levels_of(np.concatenate([np.asarray(hz, dtype=np.float64), units_hz]))
        start_x, stop_x = self.axis.x_of(rates.start_s), self.axis.x_of(rates.stop_s)
        if self.rates is not None:
            self.rates.add(start_x, stop_x, levels)
        event: Event = {
            "k": "rates",
            "x0": round(start_x, 3),
            "x1": round(stop_x, 3),
            "gap": rates.n_gap_bins,
            "levels": base64.b64encode(levels.tobytes()).decode(),
        }
        if rates.n_gap_bins:
            self._log(
                {"k": "gap", "x0": start_x, "x1": stop_x, "n": rates.n_gap_bins}, rates.stop_s
            )
        self._log(event, rates.stop_s, is_newest=False)

    def _set_layout(self, rates: Rates, populations: tuple[str, ...]) -> None:
        n_rows = len(populations) + len(rates.unit_counts)
        layout = (rates.fingerprint, n_rows, populations)
        if layout == self._layout:
            return
        self._layout = layout
        self.rates = RateHistory(n_rows)
        self._log_layout(rates.unit_step)

    def _log_layout(self, unit_step: int) -> None:
        if self._layout is None:
            return
        fingerprint, n_rows, populations = self._layout
        event: Event = {
            "k": "layout",
            "populations": list(populations),
            "n_rows": n_rows,
            "unit_step": unit_step,
        }
        if self._facts is not None and self._facts.fingerprint == fingerprint:
            event["units"] = units_table(self._facts, unit_step, self._streams)
        self._log(event, None)

    def _take_statistics(self, statistics: Statistics, notes: list[str]) -> None:
        if statistics.session_s is not None and not self.axis.spans:
            self._advance(statistics.session_s)
        self._log(statistics_event(statistics, notes), None)
        latency = latency_event(statistics)
        if latency and statistics.session_s is not None:
            self._log(latency, statistics.session_s, is_newest=False)

    def _take_mark(self, mark: Mark) -> None:
        if mark.stream not in self._captions and len(self._captions) >= MAX_STREAMS:
            return
        self._captions.setdefault(mark.stream, CaptionTimeline()).add(mark)
        start_s, stop_s = mark.start_ns / 1e9, mark.stop_ns / 1e9
        now_s = self._now_s()
        is_new_caption = (mark.caption or "") != self._caption
        if not is_new_caption and now_s < self._next_mark_s:
            return
        self._next_mark_s = now_s + MARKS_EVERY_S
        event: Event = {
            "k": "mark",
            "start_s": start_s,
            "stop_s": stop_s,
            "stimulus": text_of(mark.stimulus, 200),
            "frame": mark.frame,
            "caption": text_of(mark.caption or ""),
        }
        if is_new_caption:
            self._caption = mark.caption or ""
            self._log({**event, "k": "caption"}, start_s, is_newest=False)
        self._log(event, start_s)

    def _take_units(self, hello: Hello) -> None:
        if hello.stream in self._streams or len(self._streams) < MAX_STREAMS:
            self._streams[hello.stream] = hello
        self._log(
            {
                "k": "source",
                "stream": hello.stream,
                "run": hello.run,
                "source": text_of(hello.source, 200),
                "n_units": len(hello.population),
                "session_start_utc": text_of(hello.session_start_utc, 200),
                "table": text_of(hello.table, 200),
            },
            None,
            key=f"source {hello.stream}",
        )
        self._log_layout(self._unit_step())

    def _take_encoder(self, facts: EncoderFacts) -> None:
        self._facts = facts
        self._log(encoder_event(facts), None)
        self._log_layout(self._unit_step())

    def _take_daemon(self, identity: DaemonIdentity) -> None:
        settings = identity.settings
        narrator, handover = settings.get("narrator", {}), settings.get("handover", {})
        event: Event = {
            "k": "daemon",
            "software": {name: text_of(text, 200) for name, text in identity.software.items()},
            "bundle": text_of(identity.bundle, 200),
            "backend": text_of(_entry(narrator, "backend"), 200),
            "policy": text_of(_entry(handover, "policy"), 200),
        }
        self._log(event, None)

    def _unit_step(self) -> int:
        newest = self._newest.get("layout")
        return int(newest["unit_step"]) if newest else 1

    def _caption_at(self, session_s: float) -> str:
        """Return what was shown, by the first stream that tells."""
        session_ns = second_to_ns(session_s)
        found = (timeline.caption_at(session_ns) for timeline in self._captions.values())
        return next(filter(None, found), "")

    def _log_scores(self) -> None:
        now_s = self._now_s()
        if now_s < self._next_scores_s or not self._scored:
            return
        self._next_scores_s = now_s + SCORES_EVERY_S
        rng = np.random.default_rng(SCORE_SEED)
        for name in self._scored:
            self._summaries[name] = self._scores[name].summary(rng).as_dict()
        self._scored.clear()
        self._log({"k": "scores", "populations": self._summaries}, None)

    def _advance(self, session_s: float) -> None:
        if self.axis.advance(session_s, self._now_s()):
            self._log({"k": "spans", "spans": [asdict(span) for span in self.axis.spans]}, None)

    def _log(
        self, event: Event, session_s: float | None, *, key: str = "", is_newest: bool = True
    ) -> None:
        """Log an event at a time of the session, or where the session is now."""
        x = self.axis.head if session_s is None else self.axis.x_of(session_s)
        event = {**event, "x": round(x, 3), "at": self._wall_ms()}
        if is_newest:
            key = key or str(event["k"])
            if key in self._newest or len(self._newest) < 2 * MAX_POPULATIONS:
                self._newest[key] = event
        self.log.append(str(event["k"]), x, dumped(event))

    def _wall_ms(self) -> int:
        return round(self._wall_s() * 1000)


def _entry(group: object, name: str) -> object:
    return group.get(name, "") if isinstance(group, Mapping) else ""
