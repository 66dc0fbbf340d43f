"""What a page gets of each message: the fields that it draws, as compact JSON. No socket.

Every event has ``k``, its kind, ``x``, its place on the axis, and ``at``, when it was received, in
milliseconds of UTC. Times of the session stay in seconds of the session.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from contracts.displays import EncoderFacts, ProbeScores
from contracts.narration import MAX_FEATURES, Narration, latency_ms
from contracts.population import CONTROLS
from contracts.selection_text import shown
from contracts.spikes import Hello
from contracts.statistics import Statistics
from contracts.trigger import Trigger, trigger_latency_ms

MAX_TEXT = 2_000
"""Letters of a text that a page draws; narrations have some hundred."""

MAX_NAME = 200

Event = dict[str, Any]


def dumped(event: Mapping[str, Any]) -> bytes:
    """Write an event on one line; what is no number becomes null."""
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        finite = _finite(event)
        text = json.dumps(finite, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def narration_event(narration: Narration, *, truth: str) -> Event:
    """Return a narration, with the caption of the moment that it describes, if that is known."""
    utterance = narration.utterance
    return {
        "k": "narration",
        "id": narration.id,
        "seq": narration.seq,
        "population": narration.population,
        "label": text_of(narration.label or narration.population, MAX_NAME),
        "is_control": narration.population in CONTROLS,
        "text": text_of(utterance.text),
        "status": utterance.status.value,
        "reason": text_of(utterance.reason),
        "confidence": narration.confidence,
        "features": [
            {"name": text_of(one.name, MAX_NAME), "z": one.z}
            for one in (utterance.features or ())[:MAX_FEATURES]
            if math.isfinite(one.z)
        ],
        "n_units": narration.n_units,
        "n_missing_units": narration.n_missing_units,
        "start_s": narration.window_start_s,
        "stop_s": narration.window_stop_s,
        "frame_s": narration.frame_s,
        "n_gap_bins": narration.n_gap_bins,
        "blind": [text_of(name, MAX_NAME) for name in narration.blind_streams],
        "latency_ms": {name: round(ms, 2) for name, ms in latency_ms(narration.stamps).items()},
        "truth": text_of(truth),
    }


def trigger_event(trigger: Trigger) -> Event:
    """Return a trigger."""
    return {
        "k": "trigger",
        "id": trigger.id,
        "name": trigger.name,
        "kind": trigger.kind.value,
        "rule": text_of(trigger.rule),
        "population": trigger.population,
        "dry_run": trigger.dry_run,
        "score": trigger.score,
        "threshold": trigger.threshold,
        "stop_s": trigger.window.stop_s,
        "total_ms": round(trigger_latency_ms(trigger.stamps)["total"], 2),
    }


def probes_event(probes: ProbeScores) -> Event:
    """Return the score of each rule on a probe; the other concepts are not drawn."""
    return {
        "k": "probes",
        "rules": {
            name: {**asdict(rule), "concept": text_of(rule.concept, MAX_NAME)}
            for name, rule in probes.rules.items()
        },
    }


def latency_event(statistics: Statistics) -> Event | None:
    """Return the percentiles of the whole latency; None before the first narration."""
    total = statistics.latency_ms.get("total")
    if not total:
        return None
    return {"k": "latency", **{name: total.get(name) for name in ("p50", "p95", "p99")}}


def statistics_event(statistics: Statistics, notes: list[str]) -> Event:
    """Return the daemon's account of itself, in the words of ``/readyz``."""
    return {
        "k": "stats",
        "ready": statistics.ready,
        "reasons": [text_of(reason) for reason in statistics.reasons],
        "notes": [text_of(note) for note in notes],
        "uptime_s": statistics.uptime_s,
        "session_s": statistics.session_s,
        "counters": statistics.counters,
        "latency_ms": statistics.latency_ms,
        "streams": {
            text_of(name, MAX_NAME): {
                "state": text_of(stream.get("state", ""), MAX_NAME),
                "covered_until_s": stream.get("covered_until_s"),
            }
            for name, stream in statistics.streams.items()
        },
        "queue": statistics.queue,
    }


def encoder_event(facts: EncoderFacts) -> Event:
    """Return what the encoder is: the facts, the populations, and the rows of its units."""
    return {
        "k": "encoder",
        "bundle": facts.bundle,
        "trained": facts.trained,
        "recording": text_of(facts.recording, MAX_NAME),
        "session_id": text_of(facts.session_id, MAX_NAME),
        "scores": {text_of(name, MAX_NAME): value for name, value in facts.scores.items()},
        "language_model": text_of(facts.language_model, MAX_NAME),
        "has_confidence": facts.has_confidence,
        "concepts": [text_of(name, MAX_NAME) for name in facts.concepts],
        "window": facts.window,
        "populations": [
            {**asdict(one), "label": text_of(one.label, MAX_NAME)} for one in facts.populations
        ],
        "fingerprint": facts.fingerprint,
        "n_units": facts.n_units,
    }


def units_table(facts: EncoderFacts, unit_step: int, streams: Mapping[str, Hello]) -> Event:
    """Return the units that have a row each, with their depths where a stream states them."""
    rows = range(0, facts.n_units, unit_step)
    if not facts.unit_id:  # the table was too large to be sent
        return {"unit_id": [str(row) for row in rows], "area": [""] * len(rows), "depth_um": []}
    depths = {
        unit.key: unit.depth_um if unit.depth_um is not None else unit.y_um
        for hello in streams.values()
        for unit in hello.population.units
    }
    return {
        "unit_id": [text_of(facts.unit_id[row], MAX_NAME) for row in rows],
        "probe": [text_of(facts.probe[row], MAX_NAME) for row in rows],
        "area": [text_of(facts.area[row], MAX_NAME) for row in rows],
        "cell_type": [text_of(facts.cell_type[row], MAX_NAME) for row in rows],
        "depth_um": [depths.get((facts.probe[row], facts.unit_id[row])) for row in rows],
    }


def text_of(text: object, longest: int = MAX_TEXT) -> str:
    """Return a text for display: what is not printable escaped, and not longer than it may be."""
    found = str(text)
    cut = found if len(found) <= longest else found[: longest - 1] + "…"
    return shown(cut)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
