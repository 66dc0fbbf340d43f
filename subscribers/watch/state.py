"""What a watcher knows: the newest narrations and the newest statistics. No socket, no drawing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from contracts.clock import second_to_ns
from contracts.narration import (
    MAX_FEATURES,
    STAGES,
    Narration,
    PartialNarration,
    Status,
    latency_ms,
)
from contracts.population import CONTROLS
from contracts.selection_text import shown
from contracts.spikes import Mark
from contracts.statistics import Statistics
from contracts.trigger import Trigger
from subscribers.watch.triggers import ReceivedTriggers
from subscribers.watch.truth import CaptionTimeline, ObjectScore

if TYPE_CHECKING:
    from subscribers.listener import Received

N_SHOWN = 4
"""Narrations kept for each population: the newest, and three before it."""

N_KEPT = 1000
"""Narrations kept for ``--json``."""

GROWING = "growing"
"""Status of a sentence that is still being generated."""

MAX_LABEL = 200
"""Letters of a label that are shown; names in recordings have a few tens."""

UNSURE_BELOW = 0.5
"""Confidence below which a narration is drawn as unsure: a wrong frame is likelier than a right
one."""

SILENCE_S = 5.0
"""The daemon publishes statistics every second; five seconds without any are not a hiccup."""


@dataclass(frozen=True, slots=True)
class ReceivedNarration:
    """A narration, in what a person reads of it.

    `label` is shown in place of the population's name, if it is not empty.
    """

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
    """True caption of the moment that it describes; empty where that is not known."""
    label: str = ""
    n_missing_units: int = 0
    confidence: float | None = None
    """None where the daemon gives none."""
    is_unsure: bool = False
    """Whether its confidence is below the watcher's limit."""
    features: str = ""
    """What stands out in the decoding; empty where the daemon names nothing."""

    @property
    def title(self) -> str:
        """What stands for the population in a view."""
        return self.label or self.population

    @property
    def line(self) -> str:
        """One line for a log or a pipe."""
        notes = [f"{self.latency_ms['total']:.0f} ms"]
        notes += [f"confidence {self.confidence:.2f}"] if self.confidence is not None else []
        notes += ["unsure"] if self.is_unsure else []
        notes += [self.features] if self.features else []
        notes += [self.status] if self.status != "ok" else []
        notes += [f"{self.n_gap_bins} gap bins"] if self.n_gap_bins else []
        notes += [f"{self.n_missing_units} units missing"] if self.n_missing_units else []
        notes += [f"blind {', '.join(self.blind_streams)}"] if self.blind_streams else []
        line = f"{self.window_stop_s:.3f} s  {self.title}: {self.text}  ({'; '.join(notes)})"
        return f"{line} | truth: {self.truth}" if self.truth else line


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
    order : tuple of str
        Populations in the order in which they are shown; others come after them, by name.
    kinds_of : callable, optional
        Returns the kinds of things that a text names. Without it nothing is scored.
    unsure_below : float
        Confidence below which a narration is unsure; 0 for none.
    newest : dict
        Newest first, by population.
    kept : deque
        The last thousand narrations, oldest first.
    scores : dict
        Of the narrations whose true caption is known, by population.
    growing : dict
        Unfinished sentences by population; only where the watcher subscribes to them.
    mark : Mark or None
        The newest that the daemon has passed on: what is on the screen.
    """

    endpoint: str
    started_ns: int
    order: tuple[str, ...] = ()
    kinds_of: Callable[[str], AbstractSet[str]] | None = None
    unsure_below: float = UNSURE_BELOW
    last_message_ns: int | None = None
    newest: dict[str, deque[ReceivedNarration]] = field(default_factory=dict)
    n_received: dict[str, int] = field(default_factory=dict)
    daemon: DaemonState | None = None
    n_unreadable: int = 0
    kept: deque[ReceivedNarration] = field(default_factory=lambda: deque(maxlen=N_KEPT))
    truth: CaptionTimeline = field(default_factory=CaptionTimeline)
    scores: dict[str, ObjectScore] = field(default_factory=dict)
    growing: dict[str, str] = field(default_factory=dict)
    fired: dict[str, ReceivedTriggers] = field(default_factory=dict)
    mark: Mark | None = None

    def take(self, received: Received) -> ReceivedNarration | ReceivedTriggers | None:
        """Take in a message of the daemon or of a source; return it if it is worth a line."""
        value = received.value
        if isinstance(value, Mark):
            if received.content:  # of the daemon: not what narrations are compared with
                self.mark = value
            else:
                self.truth.add(value)
            return None
        self.last_message_ns = received.host_ns
        match value:
            case Narration():
                return self._take_narration(value)
            case Trigger():
                return self._take_trigger(value)
            case PartialNarration():
                self.growing[printable(value.population)] = printable(value.text)
            case Statistics():
                self.daemon = _daemon_state(value)
            case _:  # a source's other messages
                pass
        return None

    @property
    def names(self) -> list[str]:
        """The populations received: everything, the parts, the controls."""
        rank = {name: at for at, name in enumerate(self.order)}

        def place(name: str) -> tuple[bool, int, bool, str]:
            return name in CONTROLS, rank.get(name, len(rank)), name != "all", name

        return sorted(self.newest, key=place)

    def now(self, name: str) -> ReceivedNarration:
        """Return a population's newest narration, with the text of the one that still grows."""
        newest = self.newest[name][0]
        if name not in self.growing:
            return newest
        text = f"{self.growing[name]} …"
        # The confidence is that of the narration before it.
        return replace(newest, text=text, status=GROWING, confidence=None, is_unsure=False)

    def silent_s(self, host_ns: int) -> float:
        """Return the seconds since the newest message, or since watching began."""
        since_ns = self.started_ns if self.last_message_ns is None else self.last_message_ns
        return (host_ns - since_ns) / 1e9

    def is_silent(self, host_ns: int) -> bool:
        """Whether nothing has arrived for so long that the daemon's state may have changed."""
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

    def _take_trigger(self, trigger: Trigger) -> ReceivedTriggers:
        trigger = replace(
            trigger, name=printable(trigger.name), population=printable(trigger.population)
        )
        before = self.fired.get(trigger.name)
        self.fired[trigger.name] = ReceivedTriggers(trigger, before.n + 1 if before else 1)
        return self.fired[trigger.name]

    def _take_narration(self, narration: Narration) -> ReceivedNarration:
        received = _received(narration, self.truth, self.unsure_below)
        population = received.population
        self.growing.pop(population, None)
        self.newest.setdefault(population, deque(maxlen=N_SHOWN)).appendleft(received)
        self.n_received[population] = self.n_received.get(population, 0) + 1
        self.kept.append(received)
        if received.truth and self.kinds_of is not None:
            # The reason of a failed narration is no description, whatever words it has.
            text = "" if received.status == Status.FAILED.value else received.text
            score = self.scores.setdefault(population, ObjectScore())
            score.add(self.kinds_of(text), self.kinds_of(received.truth))
        return received


def printable(text: object) -> str:
    """Return a text without the control characters that would steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()


def _received(
    narration: Narration, truth: CaptionTimeline, unsure_below: float
) -> ReceivedNarration:
    utterance, frame_s = narration.utterance, narration.frame_s
    confidence = narration.confidence
    stages_ms = latency_ms(narration.stamps)
    return ReceivedNarration(
        population=printable(narration.population),
        text=printable(utterance.text) or f"[{printable(utterance.reason) or 'no words'}]",
        status=utterance.status.value,
        window_stop_s=narration.window_stop_s,
        frame_s=frame_s,
        n_units=narration.n_units,
        n_gap_bins=narration.n_gap_bins,
        blind_streams=tuple(printable(name) for name in narration.blind_streams),
        latency_ms={stage: stages_ms[stage] for stage in (*STAGES, "total")},
        truth=printable(truth.caption_at(second_to_ns(frame_s))) if math.isfinite(frame_s) else "",
        label=shown(narration.label)[:MAX_LABEL],
        n_missing_units=narration.n_missing_units,
        confidence=confidence,
        is_unsure=confidence is not None and confidence < unsure_below,
        features=", ".join(
            f"{shown(one.name)[:MAX_LABEL]} {one.z:+.1f} sd"
            for one in (utterance.features or ())[:MAX_FEATURES]
        ),
    )


def _daemon_state(statistics: Statistics) -> DaemonState:
    dropped = statistics.by_label("windows_dropped")
    return DaemonState(
        is_ready=statistics.ready,
        reasons=tuple(printable(reason) for reason in statistics.reasons),
        streams={
            printable(name): printable(stream.get("state", ""))
            for name, stream in statistics.streams.items()
        },
        dropped={printable(reason): n for reason, n in dropped.items() if n},
        gap_bins=statistics.count("gap_bins"),
        batches_lost=statistics.count("batches_lost"),
        p95_ms=statistics.latency_ms.get("total", {}).get("p95"),
    )
