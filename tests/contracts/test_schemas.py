"""The JSON Schemas: legal ones, true of every message at every depth, and versioned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from contracts.daemon_json import pack_daemon
from contracts.displays import pack_probes, pack_rates
from contracts.narration import PartialNarration
from contracts.narration_wire import as_repeat, pack_narration, pack_partial
from contracts.schemas import PUBLISHED, schema_of
from contracts.source_json import pack_mark, pack_units
from contracts.trigger import pack_trigger
from daemon.counters import Counters
from daemon.service.settings import Settings
from daemon.service.stats import StreamStats, stats_message
from tests.support.displays import encoder_parts, probes, rates
from tests.support.narrations import narrations
from tests.support.triggers import triggers
from tests.support.wire_messages import HELLOS, MARKS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "narration-format.md").read_text(encoding="utf-8")


def _exact(schema: Any) -> Any:
    """Return a schema in which no property may stand that it does not name."""
    if isinstance(schema, list):
        return [_exact(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _exact(value) for key, value in schema.items()}
    is_object = inner.get("type") == "object" and "properties" in inner
    return {"additionalProperties": False, **inner} if is_object else inner


EXACT = {name: jsonschema.Draft202012Validator(_exact(schema_of(name))) for name in PUBLISHED}


def _check(parts: list[bytes]) -> None:
    kind = parts[0].decode().partition(".")[0]
    EXACT[kind].validate(json.loads(parts[1]))
    EXACT[kind].validate(json.loads(as_repeat(parts[1])))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_schema_is_a_schema(name):
    """Legal by draft 2020-12, its version in its id and in the messages."""
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    version = schema["properties"]["version"]["const"]
    assert schema["$id"] == f"urn:neurrate:{name}:{version}"


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(narrations(), triggers(), MARKS, HELLOS)
def test_every_message_follows_its_schema(narration, trigger, mark, hello):
    """Whatever is legal to publish is legal by its schema, and nothing is sent beside it."""
    stamps, utterance = narration.stamps, narration.utterance
    partial = PartialNarration(
        narration.population,
        narration.window_seq,
        narration.window_start_s,
        narration.window_stop_s,
        narration.frame_s,
        utterance.text,
        utterance.n_tokens,
        stamps.newest_spike_received,
        stamps.published,
    )
    for parts in (
        pack_narration(narration),
        pack_partial(partial),
        pack_trigger(trigger),
        pack_mark(mark),
        pack_units(hello),
    ):
        _check(parts)


def test_what_a_daemon_is_follows_its_schema():
    """With the settings of a daemon."""
    values = Settings().model_dump(mode="json")
    _check(pack_daemon(bundle="0" * 64, settings=values, host_ns=2**60))


def test_what_is_made_for_displays_follows_its_schema():
    """Rates, probes, and what the encoder is."""
    for parts in (pack_rates(rates()), pack_probes(probes()), encoder_parts()):
        _check(parts)


@pytest.mark.parametrize("session_s", [None, 1.5])
def test_statistics_follow_their_schema(session_s):
    """With and without narrations, streams and reasons."""
    summary = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "n": 5}
    _check(
        stats_message(
            host_ns=2**60,
            uptime_s=1.0,
            session_s=session_s,
            counters=Counters(),
            latency_ms={} if session_s is None else {"total": summary},
            reasons=["no source"],
            notes=["no captions"],
            streams={"probeA": StreamStats(0.5, "live")},
            queue={"waiting": 1, "unfinished": 2},
        )
    )


def test_a_daemon_always_sends_what_older_ones_left_out():
    """Optional in the schema for the readers' sake, and never missing from this daemon."""
    optional = {
        name: set(schema_of(name)["properties"]) - set(schema_of(name)["required"])
        for name in ("narration", "trigger", "stats")
    }
    assert optional == {
        "narration": {"label", "n_missing_units", "confidence", "features"},
        "trigger": {"confidence"},
        "stats": {"notes"},
    }


def test_the_document_names_every_schema():
    """Each topic's row of the table links to its schema."""
    rows = re.findall(r"^\| `(.+?)` \| .*? \| \[.*?\]\((schemas/.*?)\)", DOCUMENT, flags=re.M)
    assert dict(rows) == {
        topic: f"schemas/{name}.schema.json" for name, (topic, _, _) in PUBLISHED.items()
    }
