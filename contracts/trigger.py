"""Triggers: a rule's condition became true, and how late it is published.

The stages of a trigger are laid end to end, each from the stamp before it to its own, so that they
sum to the whole. A probe's trigger has ``cut`` + ``encode`` + ``decide`` + ``publish``. One that
was found in a narration has the narration's stages between ``encode`` and ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, cast

from contracts.clock import ns_to_second
from contracts.errors import WireError
from contracts.messages import (
    TriggerHostNs,
    TriggerLatencyMs,
    TriggerMessage,
    WindowMessage,
)
from contracts.narration import Narration, Stamps
from contracts.narration_wire import (
    check_version,
    dump,
    load,
    read_fields,
    rounded_confidence,
)
from contracts.window import Window

TRIGGER_VERSION: Final = 1
"""Version of the trigger message. Raised when a field changes meaning or goes."""


class TriggerKind(StrEnum):
    """What a rule listens to."""

    PROBE = "probe"
    """The probability that a concept probe gives a window."""
    WORD = "word"
    """A word of a narration."""
    LIKENESS = "likeness"
    """How near a narration is to a sentence, in meaning."""


@dataclass(frozen=True, slots=True)
class NarratorStamps:
    """The narration's part of a trigger's life, host clock, nanoseconds.

    `narrated` is when the narration was published; the others are as in
    `contracts.narration.Stamps`.
    """

    worker_start: int
    first_token: int
    last_token: int
    narrated: int

    @classmethod
    def of(cls, stamps: Stamps) -> NarratorStamps:
        """Return the part of a narration's stamps."""
        return cls(
            stamps.worker_start, stamps.first_token, stamps.last_token, narrated=stamps.published
        )


@dataclass(frozen=True, slots=True)
class TriggerStamps:
    """The life of a trigger, host clock, nanoseconds.

    `decided` is when the rule was found to be true; `narrator` is None for a probe, which waits for
    no words. The others are as in `contracts.narration.Stamps`.
    """

    newest_spike_received: int
    window_complete: int
    encoded: int
    decided: int
    published: int
    narrator: NarratorStamps | None = None

    def in_order(self) -> dict[str, int]:
        """Return the stamps by name, from the first to the last."""
        return {
            "newest_spike_received": self.newest_spike_received,
            "window_complete": self.window_complete,
            "encoded": self.encoded,
            **(asdict(self.narrator) if self.narrator else {}),
            "decided": self.decided,
            "published": self.published,
        }


STAGE_OF_STAMP = {
    "window_complete": "cut",
    "encoded": "encode",
    "worker_start": "wait",
    "first_token": "prefill",
    "last_token": "decode",
    "narrated": "say",
    "decided": "decide",
    "published": "publish",
}
"""The stage that ends with each stamp."""

TRIGGER_STAGES = tuple(STAGE_OF_STAMP.values())
"""All stages, in their order."""


def trigger_latency_ms(stamps: TriggerStamps) -> dict[str, float]:
    """Return the duration of each stage, and ``total``, in milliseconds.

    >>> trigger_latency_ms(TriggerStamps(0, 1_000_000, 3_000_000, 3_500_000, 4_000_000))
    {'cut': 1.0, 'encode': 2.0, 'decide': 0.5, 'publish': 0.5, 'total': 4.0}
    """
    ordered = stamps.in_order()
    stages = {
        STAGE_OF_STAMP[later]: (ordered[later] - ordered[earlier]) / 1e6
        for earlier, later in pairwise(ordered)
    }
    return {**stages, "total": (stamps.published - stamps.newest_spike_received) / 1e6}


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """Which interval of the recording a trigger is about; session clock, seconds.

    Attributes
    ----------
    seq : int
        The window's number on the absolute grid, the same in every replay.
    start_s, stop_s, frame_s : float
        The window, and when the frame that it describes was shown.
    """

    seq: int
    start_s: float
    stop_s: float
    frame_s: float
    n_gap_bins: int = 0
    blind_streams: tuple[str, ...] = ()

    @classmethod
    def of(cls, window: Window) -> WindowFacts:
        """Return the facts of a window."""
        return cls(
            seq=window.seq,
            start_s=ns_to_second(window.start_ns),
            stop_s=ns_to_second(window.stop_ns),
            frame_s=ns_to_second(window.frame_ns),
            n_gap_bins=window.n_gap_bins,
            blind_streams=window.blind_streams,
        )

    @classmethod
    def of_narration(cls, narration: Narration) -> WindowFacts:
        """Return the facts of the window that a narration is about."""
        return cls(
            seq=narration.window_seq,
            start_s=narration.window_start_s,
            stop_s=narration.window_stop_s,
            frame_s=narration.frame_s,
            n_gap_bins=narration.n_gap_bins,
            blind_streams=narration.blind_streams,
        )


@dataclass(frozen=True, slots=True)
class Trigger:
    """The condition of one rule became true.

    Attributes
    ----------
    id : str
        ``<daemon run>-<name>-<seq>``.
    seq : int
        Counts the triggers of this rule in this daemon's life, from 0.
    rule : str
        Its condition, as it was written.
    dry_run : bool
        True where the rule is only being tried: it reaches no sink but the publish socket.
    score, threshold : float
        What was found, and what it had to cross. A word's score is 1 or 0.
    bundle : str
        sha256 of the bundle's manifest.
    calibration : str or None
        The population by which a probe's probability was calibrated; None for narrations.
    scores : dict
        Every concept's probability in this window and population; empty for narrations.
    narration_id, text : str or None
        The narration that it was found in; None for probes.
    confidence : float or None
        Of the window's decoding, as in `Narration`; None where it is not known, or a rule on a
        probe does not ask for it.
    """

    id: str
    seq: int
    name: str
    kind: TriggerKind
    rule: str
    population: str
    dry_run: bool
    score: float
    threshold: float
    window: WindowFacts
    stamps: TriggerStamps
    bundle: str
    calibration: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    narration_id: str | None = None
    text: str | None = None
    confidence: float | None = None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"trigger.{self.name}"


def pack_trigger(trigger: Trigger) -> list[bytes]:
    """Turn a trigger into ``[topic, JSON]``."""
    message: TriggerMessage = {
        "version": TRIGGER_VERSION,
        "id": trigger.id,
        "seq": trigger.seq,
        "name": trigger.name,
        "kind": trigger.kind.value,
        "rule": trigger.rule,
        "population": trigger.population,
        "calibration": trigger.calibration,
        "dry_run": trigger.dry_run,
        "score": trigger.score,
        "threshold": trigger.threshold,
        "scores": trigger.scores,
        "confidence": rounded_confidence(trigger.confidence),
        "window": cast("WindowMessage", asdict(trigger.window)),
        "narration_id": trigger.narration_id,
        "text": trigger.text,
        "host_ns": cast("TriggerHostNs", trigger.stamps.in_order()),
        "latency_ms": cast("TriggerLatencyMs", trigger_latency_ms(trigger.stamps)),
        "provenance": {"bundle": trigger.bundle},
    }
    return [trigger.topic.encode(), dump(message)]


def unpack_trigger(payload: bytes) -> Trigger:
    """Read a trigger back from its JSON.

    Raises
    ------
    WireError
        If it is not JSON, of another version, or a field is missing or of another type.
    """
    return trigger_of(load(payload))


def trigger_of(message: Mapping[str, Any]) -> Trigger:
    """Read a trigger from its JSON object.

    Raises
    ------
    WireError
        As `unpack_trigger`.
    """
    check_version(message, "trigger", TRIGGER_VERSION)
    try:
        host_ns = message["host_ns"]
        has_words = "narrated" in host_ns
        return read_fields(
            Trigger,
            {
                **message,
                "stamps": {**host_ns, "narrator": host_ns if has_words else None},
                "bundle": message["provenance"]["bundle"],
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("field", f"a trigger lacks or misspells a field: {error!r}") from error
