"""What a watcher knows: the newest narrations and the newest statistics. No socket, no drawing.

Messages come from a socket; one that cannot be read is counted and passed over.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from contracts.clock import second_to_ns
from contracts.errors import WireError
from contracts.narration import STAGES, Narration, Status, latency_ms
from contracts.narration_wire import load, unpack_narration
from contracts.spikes import Mark
from contracts.trigger import unpack_trigger
from contracts.wire import unpack
from contracts.wire_header import Part
from subscribers.watch.triggers import ReceivedTriggers
from subscribers.watch.truth import CaptionTimeline, ObjectScore

N_SHOWN = 4
"""Narrations kept for each population: the newest, and three before it."""

N_KEPT = 1000
"""Narrations kept for ``--json``, and ids remembered to pass over repeats."""

GROWING = "growing"
"""Status of a sentence that is still being said."""

CONTROLS = ("shuffled", "silent")
"""Shown last: what the others are compared with."""

SILENCE_S = 5.0
"""The daemon publishes statistics every second; five without any is no hiccup."""


@dataclass(frozen=True, slots=True)
class ReceivedNarration:
    """A narration, in what a person reads of it."""

    population: str
    text: str
    status: str
    window_stop_s: float
    frame_s: float
    n_units: int
    n_gap_bins: int
    blind_streams: tuple[str, ...]
    latency_ms: dict[str, float]
    truth: str = ""
    """The true caption of the moment that it describes; empty where that is not known."""

    @property
    def line(self) -> str:
        """One line for a log or a pipe."""
        notes = [f"{self.latency_ms['total']:.0f} ms"]
        notes += [self.status] if self.status != "ok" else []
        notes += [f"{self.n_gap_bins} gap bins"] if self.n_gap_bins else []
        notes += [f"blind {', '.join(self.blind_streams)}"] if self.blind_streams else []
        said = f"{self.window_stop_s:.3f} s  {self.population}: {self.text}  ({'; '.join(notes)})"
        return f"{said} | truth: {self.truth}" if self.truth else said


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A ``stats`` message, in what a person reads of it."""

    is_ready: bool
    reasons: tuple[str, ...]
    streams: dict[str, str]
    """State of each stream by name."""
    dropped: dict[str, int]
    """Windows dropped, by reason."""
    gap_bins: int
    batches_lost: int
    p95_ms: float | None
    """Total latency; None before the first narration."""


@dataclass(slots=True)
class WatchState:
    """Everything that the view is drawn from.

    Attributes
    ----------
    endpoint : str
        Where the messages come from.
    started_ns : int
        When watching began. Host clock.
    last_message_ns : int or None
        When the newest message arrived. Host clock.
    newest : dict
        Newest first, by population.
    n_heard : dict
        Narrations by population.
    daemon : DaemonState or None
        From the newest statistics.
    n_unreadable : int
        Messages that were passed over.
    kept : deque
        The last thousand narrations, oldest first.
    order : tuple of str
        Populations in the order in which they are shown; others come after them, by name.
    truth : CaptionTimeline
        What was on the screen, as far as the source says so.
    scores : dict
        Of the narrations whose true caption is known, by population.
    growing : dict
        What is being said, by population; only where sentences are asked for as they grow.
    fired : dict
        The newest trigger, by rule.
    """

    endpoint: str
    started_ns: int
    last_message_ns: int | None = None
    newest: dict[str, deque[ReceivedNarration]] = field(default_factory=dict)
    n_heard: dict[str, int] = field(default_factory=dict)
    daemon: DaemonState | None = None
    n_unreadable: int = 0
    kept: deque[ReceivedNarration] = field(default_factory=lambda: deque(maxlen=N_KEPT))
    order: tuple[str, ...] = ()
    truth: CaptionTimeline = field(default_factory=CaptionTimeline)
    scores: dict[str, ObjectScore] = field(default_factory=dict)
    growing: dict[str, str] = field(default_factory=dict)
    fired: dict[str, ReceivedTriggers] = field(default_factory=dict)
    _ids: deque[str] = field(default_factory=lambda: deque(maxlen=N_KEPT))

    def take(
        self, parts: Sequence[bytes], *, host_ns: int
    ) -> ReceivedNarration | ReceivedTriggers | None:
        """Take in a message; return the narration if it is one, and new, or the trigger.

        Parameters
        ----------
        parts : sequence of bytes
            Topic and JSON.
        host_ns : int
            When it arrived.

        Returns
        -------
        heard : ReceivedNarration, ReceivedTriggers or None
        """
        self.last_message_ns = host_ns
        try:
            topic, payload = parts
            if topic == b"stats":
                self.daemon = _daemon_state(load(payload))
                return None
            if topic.startswith(b"trigger."):
                return self._note_trigger(payload)
            if topic.startswith(b"partial."):
                partial = load(payload)
                self.growing[printable(partial["population"])] = printable(partial["text"])
                return None
            narration = unpack_narration(payload)
            heard = _heard(narration, self.truth)
        # The sender may be of another version, or not the daemon at all.
        except (WireError, ValueError, TypeError, KeyError, AttributeError):
            self.n_unreadable += 1
            return None
        return self._note(narration.id, heard)

    def take_mark(self, parts: Sequence[Part]) -> None:
        """Take in a message of a source, and keep what it says was shown.

        Parameters
        ----------
        parts : sequence of bytes-like
            As in docs/wire-format.md; anything but a mark is passed over.
        """
        try:
            message = unpack(parts)
        except WireError:
            self.n_unreadable += 1
            return
        if isinstance(message, Mark):
            self.truth.add(message)

    @property
    def names(self) -> list[str]:
        """The populations heard: everything, the parts, the controls."""
        rank = {name: at for at, name in enumerate(self.order)}

        def place(name: str) -> tuple[bool, int, bool, str]:
            return name in CONTROLS, rank.get(name, len(rank)), name != "all", name

        return sorted(self.newest, key=place)

    def now(self, name: str) -> ReceivedNarration:
        """Return the newest narration of a population, with the words of the one that grows."""
        newest = self.newest[name][0]
        if name not in self.growing:
            return newest
        return replace(newest, text=f"{self.growing[name]} …", status=GROWING)

    def silent_s(self, host_ns: int) -> float:
        """Return the seconds since the newest message, or since watching began."""
        since_ns = self.started_ns if self.last_message_ns is None else self.last_message_ns
        return (host_ns - since_ns) / 1e9

    def is_silent(self, host_ns: int) -> bool:
        """Whether nothing has come for so long that what is known may no longer hold."""
        return self.silent_s(host_ns) >= SILENCE_S

    def notice(self, host_ns: int) -> str:
        """Return what to tell a person who sees nothing new; empty while messages come."""
        silent_s = self.silent_s(host_ns)
        if self.last_message_ns is None:
            if not self.is_silent(host_ns):
                return f"waiting for {self.endpoint}"
            return (
                f"waiting for {self.endpoint}: no message for {silent_s:.0f} s; "
                "is `neurrate run` up?"
            )
        if not self.is_silent(host_ns):
            return ""
        return f"{self.endpoint} has been silent for {silent_s:.0f} s; has the daemon stopped?"

    def _note_trigger(self, payload: bytes) -> ReceivedTriggers:
        trigger = unpack_trigger(payload)
        trigger = replace(
            trigger, name=printable(trigger.name), population=printable(trigger.population)
        )
        before = self.fired.get(trigger.name)
        self.fired[trigger.name] = ReceivedTriggers.of(trigger, before.n if before else 0)
        return self.fired[trigger.name]

    def _note(self, narration_id: str, heard: ReceivedNarration) -> ReceivedNarration | None:
        if narration_id in self._ids:
            return None
        self._ids.append(narration_id)
        self.growing.pop(heard.population, None)
        self.newest.setdefault(heard.population, deque(maxlen=N_SHOWN)).appendleft(heard)
        self.n_heard[heard.population] = self.n_heard.get(heard.population, 0) + 1
        self.kept.append(heard)
        if heard.truth:
            text = "" if heard.status == Status.FAILED.value else heard.text
            self.scores.setdefault(heard.population, ObjectScore()).add(text, heard.truth)
        return heard


def printable(text: object) -> str:
    """Return a text without the control characters that would steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()


def _heard(narration: Narration, truth: CaptionTimeline) -> ReceivedNarration:
    said, frame_s = narration.said, float(narration.frame_s)
    stages_ms = latency_ms(narration.stamps)
    return ReceivedNarration(
        population=printable(narration.population),
        text=printable(said.text) or f"[{printable(said.reason) or 'no words'}]",
        status=said.status.value,
        window_stop_s=float(narration.window_stop_s),
        frame_s=frame_s,
        n_units=int(narration.n_units),
        n_gap_bins=int(narration.n_gap_bins),
        blind_streams=tuple(printable(name) for name in narration.blind_streams),
        latency_ms={stage: float(stages_ms[stage]) for stage in (*STAGES, "total")},
        truth=printable(truth.caption_at(second_to_ns(frame_s))) if math.isfinite(frame_s) else "",
    )


def _daemon_state(message: dict[str, Any]) -> DaemonState:
    counters, total = message["counters"], message["latency_ms"].get("total")
    return DaemonState(
        is_ready=bool(message["ready"]),
        reasons=tuple(printable(reason) for reason in message["reasons"]),
        streams={
            printable(name): printable(stream["state"])
            for name, stream in message["streams"].items()
        },
        dropped={
            printable(why): int(n) for why, n in counters["windows_dropped"].items() if int(n)
        },
        gap_bins=int(counters["gap_bins"]),
        batches_lost=int(counters["batches_lost"]),
        p95_ms=float(total["p95"]) if total else None,
    )
