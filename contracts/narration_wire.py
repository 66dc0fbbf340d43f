"""Narrations and statistics as UTF-8 JSON, for subscribers in any language.

The JSON Schema is ``docs/schemas/narration.schema.json``; a test holds every message to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from contracts.errors import WireError
from contracts.narration import (
    NARRATION_VERSION,
    Evidence,
    Narration,
    PartialNarration,
    Provenance,
    Stamps,
    Status,
    Utterance,
    age_ms,
    latency_ms,
)


def pack_narration(narration: Narration) -> list[bytes]:
    """Turn a narration into ``[topic, JSON]``."""
    said = narration.said
    message = {
        "version": NARRATION_VERSION,
        "repeat": False,
        "id": narration.id,
        "seq": narration.seq,
        "population": narration.population,
        "n_units": narration.n_units,
        "text": said.text,
        "status": said.status.value,
        "reason": said.reason,
        "window": {
            "seq": narration.window_seq,
            "start_s": narration.window_start_s,
            "stop_s": narration.window_stop_s,
            "frame_s": narration.frame_s,
            "n_gap_bins": narration.n_gap_bins,
            "blind_streams": list(narration.blind_streams),
        },
        "host_ns": asdict(narration.stamps),
        "latency_ms": latency_ms(narration.stamps),
        "age_ms": age_ms(narration.stamps),
        "mean_logprob": said.mean_logprob,
        "n_tokens": said.n_tokens,
        "evidence": asdict(said.evidence) if said.evidence else None,
        "provenance": asdict(narration.provenance),
    }
    return [narration.topic.encode(), dump(message)]


def as_repeat(payload: bytes) -> bytes:
    """Mark a packed narration as a repeat of the last value, sent because somebody joined."""
    return payload.replace(b'"repeat":false', b'"repeat":true', 1)


def unpack_narration(payload: bytes) -> Narration:
    """Read a narration back from its JSON.

    Raises
    ------
    WireError
        If it is not JSON, of another version, or lacks a field.
    """
    message = load(payload)
    version = message.get("version")
    if version != NARRATION_VERSION:
        raise WireError(
            "version", f"narration version {version!r:.32}, this build reads {NARRATION_VERSION}"
        )
    try:
        window, stamps = message["window"], Stamps(**message["host_ns"])
        evidence = message["evidence"]
        return Narration(
            id=message["id"],
            seq=message["seq"],
            population=message["population"],
            n_units=message["n_units"],
            window_seq=window["seq"],
            window_start_s=window["start_s"],
            window_stop_s=window["stop_s"],
            frame_s=window["frame_s"],
            n_gap_bins=window["n_gap_bins"],
            blind_streams=tuple(window["blind_streams"]),
            said=Utterance(
                text=message["text"],
                status=Status(message["status"]),
                reason=message["reason"],
                mean_logprob=message["mean_logprob"],
                n_tokens=message["n_tokens"],
                evidence=Evidence(**evidence) if evidence else None,
                start_host_ns=stamps.worker_start,
                first_token_host_ns=stamps.first_token,
                last_token_host_ns=stamps.last_token,
            ),
            stamps=stamps,
            provenance=Provenance(**message["provenance"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("field", f"a narration lacks or misspells a field: {error!r}") from error


def pack_partial(partial: PartialNarration) -> list[bytes]:
    """Turn a sentence that is still being said into ``[topic, JSON]``."""
    message = {
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


def dump(message: dict[str, Any]) -> bytes:
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
