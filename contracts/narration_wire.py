"""Narrations and statistics as UTF-8 JSON, for subscribers in any language.

The types of the messages are in `contracts.messages`, and JSON Schemas made of them in
``docs/schemas/``; tests hold every message to them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from contracts.errors import WireError
from contracts.messages import (
    EvidenceMessage,
    FeatureMessage,
    NarrationAgeMs,
    NarrationHostNs,
    NarrationLatencyMs,
    NarrationMessage,
    PartialMessage,
    ProvenanceMessage,
)
from contracts.narration import (
    NARRATION_VERSION,
    NamedFeature,
    Narration,
    PartialNarration,
    age_ms,
    latency_ms,
)

T = TypeVar("T")

CONFIDENCE_DIGITS = 3
"""Of a published confidence: its own error is in the second."""

Z_DIGITS = 2
"""Of the published height of a feature."""


def pack_narration(narration: Narration) -> list[bytes]:
    """Turn a narration into ``[topic, JSON]``."""
    utterance = narration.utterance
    evidence = asdict(utterance.evidence) if utterance.evidence else None
    message: NarrationMessage = {
        "version": NARRATION_VERSION,
        "repeat": False,
        "id": narration.id,
        "seq": narration.seq,
        "population": narration.population,
        "label": narration.label,
        "n_units": narration.n_units,
        "n_missing_units": narration.n_missing_units,
        "confidence": rounded_confidence(narration.confidence),
        "text": utterance.text,
        "status": utterance.status.value,
        "reason": utterance.reason,
        "window": {
            "seq": narration.window_seq,
            "start_s": narration.window_start_s,
            "stop_s": narration.window_stop_s,
            "frame_s": narration.frame_s,
            "n_gap_bins": narration.n_gap_bins,
            "blind_streams": list(narration.blind_streams),
        },
        "host_ns": cast("NarrationHostNs", asdict(narration.stamps)),
        "latency_ms": cast("NarrationLatencyMs", latency_ms(narration.stamps)),
        "age_ms": cast("NarrationAgeMs", age_ms(narration.stamps)),
        "mean_logprob": utterance.mean_logprob,
        "n_tokens": utterance.n_tokens,
        "evidence": cast("EvidenceMessage | None", evidence),
        "features": _features(utterance.features),
        "provenance": cast("ProvenanceMessage", asdict(narration.provenance)),
    }
    return [narration.topic.encode(), dump(message)]


def _features(features: Sequence[NamedFeature] | None) -> list[FeatureMessage] | None:
    if features is None:
        return None
    return [
        {"feature": one.feature, "name": one.name, "z": round(one.z, Z_DIGITS)} for one in features
    ]


def rounded_confidence(confidence: float | None) -> float | None:
    """Round a probability; None for one that is no number, which JSON cannot hold."""
    if confidence is None or not math.isfinite(confidence):
        return None
    return round(confidence, CONFIDENCE_DIGITS)


def as_repeat(payload: bytes) -> bytes:
    """Mark a packed narration as a repeat of the last value, sent because somebody joined."""
    return payload.replace(b'"repeat":false', b'"repeat":true', 1)


def unpack_narration(payload: bytes) -> Narration:
    """Read a narration back from its JSON.

    Raises
    ------
    WireError
        If it is not JSON, of another version, or a field is missing or of another type.
    """
    return narration_of(load(payload))


def narration_of(message: Mapping[str, Any]) -> Narration:
    """Read a narration from its JSON object.

    Raises
    ------
    WireError
        As `unpack_narration`.
    """
    check_version(message, "narration", NARRATION_VERSION)
    try:
        window, stamps = message["window"], message["host_ns"]
        return read_fields(
            Narration,
            {
                **message,
                **_window_fields(window),
                "n_gap_bins": window["n_gap_bins"],
                "blind_streams": window["blind_streams"],
                "utterance": {
                    **message,
                    "start_host_ns": stamps["worker_start"],
                    "first_token_host_ns": stamps["first_token"],
                    "last_token_host_ns": stamps["last_token"],
                },
                "stamps": stamps,
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("field", f"a narration lacks or misspells a field: {error!r}") from error


def pack_partial(partial: PartialNarration) -> list[bytes]:
    """Turn an unfinished sentence into ``[topic, JSON]``."""
    message: PartialMessage = {
        "version": NARRATION_VERSION,
        "population": partial.population,
        "text": partial.text,
        "n_tokens": partial.n_tokens,
        "window": {
            "seq": partial.window_seq,
            "start_s": partial.window_start_s,
            "stop_s": partial.window_stop_s,
            "frame_s": partial.frame_s,
        },
        "host_ns": {
            "newest_spike_received": partial.newest_spike_received,
            "published": partial.published,
        },
    }
    return [partial.topic.encode(), dump(message)]


def partial_of(message: Mapping[str, Any]) -> PartialNarration:
    """Read a sentence that is still being generated from its JSON object.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    check_version(message, "partial narration", NARRATION_VERSION)
    try:
        fields = {**message, **_window_fields(message["window"]), **message["host_ns"]}
        return read_fields(PartialNarration, fields)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(
            "field", f"a partial narration lacks or misspells a field: {error!r}"
        ) from error


def check_version(message: Mapping[str, Any], kind: str, version: int) -> None:
    """Refuse a message of another version: its fields may mean something else.

    Raises
    ------
    WireError
        With the reason ``version``.
    """
    sent = message.get("version")
    if sent != version:
        raise WireError("version", f"{kind} version {sent!r:.32}, this build reads {version}")


def read_fields(kind: Callable[..., T], fields: Mapping[str, Any]) -> T:
    """Make a value of a dataclass from JSON, its types checked; others are a `ValueError`."""
    value: T = _adapter(kind).validate_python(fields)
    return value


def read_message(
    kind: Callable[..., T], message: Mapping[str, Any], *, name: str, version: int
) -> T:
    """Make a value of a dataclass from a message whose keys are its fields.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    check_version(message, name, version)
    try:
        return read_fields(kind, message)
    except (TypeError, ValueError) as error:
        raise WireError("field", f"a {name} lacks or misspells a field: {error!r}") from error


# Built on first use: an adapter takes milliseconds, and most programs never read a narration.
@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _window_fields(window: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "window_seq": window["seq"],
        "window_start_s": window["start_s"],
        "window_stop_s": window["stop_s"],
        "frame_s": window["frame_s"],
    }


def dump(message: Mapping[str, object]) -> bytes:
    """Write a message as UTF-8 JSON on one line; not-a-number is refused by JSON itself."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def load(payload: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    WireError
        If it is anything else.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError("json", f"a narration message is UTF-8 JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError("json", f"a message is a JSON object, got {type(message).__name__}")
    return message
