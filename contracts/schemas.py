"""The JSON Schema of every message that the daemon publishes, made from `contracts.messages`."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from contracts.daemon_json import DAEMON_VERSION
from contracts.display_messages import EncoderMessage, ProbesMessage, RatesMessage
from contracts.displays import DISPLAYS_VERSION
from contracts.journal import RECORDER_VERSION
from contracts.messages import (
    DaemonMessage,
    MarkMessage,
    NarrationMessage,
    PartialMessage,
    RecorderMessage,
    StatisticsMessage,
    TriggerMessage,
    UnitsMessage,
)
from contracts.narration import NARRATION_VERSION
from contracts.statistics import STATS_VERSION
from contracts.trigger import TRIGGER_VERSION
from contracts.wire_header import WIRE_VERSION

PUBLISHED: dict[str, tuple[str, int, Any]] = {
    "narration": ("narration.<population>", NARRATION_VERSION, NarrationMessage),
    "partial": ("partial.<population>", NARRATION_VERSION, PartialMessage),
    "trigger": ("trigger.<name>", TRIGGER_VERSION, TriggerMessage),
    "mark": ("mark.<stream>", WIRE_VERSION, MarkMessage),
    "units": ("units.<stream>", WIRE_VERSION, UnitsMessage),
    "stats": ("stats", STATS_VERSION, StatisticsMessage),
    "daemon": ("daemon", DAEMON_VERSION, DaemonMessage),
    "encoder": ("encoder", DISPLAYS_VERSION, EncoderMessage),
    "rates": ("rates", DISPLAYS_VERSION, RatesMessage),
    "probes": ("probes", DISPLAYS_VERSION, ProbesMessage),
}
"""Topic, version and type of each message, by the name of its schema."""

RECORDED: dict[str, tuple[str, int, Any]] = {
    "recorder": ("recorder", RECORDER_VERSION, RecorderMessage),
}
"""The same of messages that stand in journals alone."""


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of the names of properties."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of one of `PUBLISHED` or `RECORDED`."""
    topic, version, message = (PUBLISHED | RECORDED)[name]
    schema = TypeAdapter(message).json_schema(schema_generator=_WithoutTitles)
    text = " ".join(schema.pop("description").split())
    for inner in (schema, *schema.get("$defs", {}).values()):
        inner.pop("title", None)
        _join_lines(inner)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:neurrate:{name}:{version}",
        "title": name,
        "description": f"{text} Second part of a message on topic {topic}. Readers ignore "
        "properties that they do not know; a change of meaning raises version.",
        **schema,
    }


def _join_lines(schema: dict[str, Any]) -> None:
    """Write each description on one line."""
    for described in (schema, *schema.get("properties", {}).values()):
        if "description" in described:
            described["description"] = " ".join(described["description"].split())
