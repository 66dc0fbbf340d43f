"""What the daemon publishes of its sources, as UTF-8 JSON: marks, and the tables of their units.

The keys are those of ``docs/wire-format.md``, so that a display needs one description. A message of
the daemon is JSON and one of a source is msgpack; the first byte tells which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from contracts.errors import UserError, WireError
from contracts.messages import MarkMessage, UnitsMessage
from contracts.narration_wire import check_version, dump, read_fields, read_message
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark
from contracts.wire import optional_columns, optional_facts
from contracts.wire_header import COLUMNS, NUMBER_COLUMNS, WIRE_VERSION

MAX_UNITS_BYTES = 1 << 19
"""Largest ``units`` message: some thousand units. Half of what a listener takes."""


def pack_mark(mark: Mark) -> list[bytes]:
    """Turn a mark into ``[topic, JSON]``."""
    facts = {"version": WIRE_VERSION, "repeat": False, **asdict(mark)}
    message = cast("MarkMessage", facts)
    return [f"mark.{mark.stream}".encode(), dump(message)]


def mark_of(message: Mapping[str, Any]) -> Mark:
    """Read a mark from its JSON object.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    return read_message(Mark, message, name="mark", version=WIRE_VERSION)


def pack_units(hello: Hello) -> list[bytes]:
    """Turn the facts of a hello that do not change within a run into ``[topic, JSON]``."""
    units = hello.population.units
    facts = {
        "version": WIRE_VERSION,
        "repeat": False,
        "stream": hello.stream,
        "run": hello.run,
        "source": hello.source,
        "fingerprint": hello.population.fingerprint,
        **optional_facts(hello),
        **{column: [getattr(unit, column) for unit in units] for column in COLUMNS},
        **optional_columns(hello.population),
    }
    message = cast("UnitsMessage", facts)
    return [f"units.{hello.stream}".encode(), dump(message)]


def units_of(message: Mapping[str, Any]) -> Hello:
    """Read the facts of a stream's units from their JSON object.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    check_version(message, "unit table", WIRE_VERSION)
    try:
        columns = [message[key] for key in COLUMNS]
        unknown = [None] * len(columns[0])
        columns += [message.get(key, unknown) for key in NUMBER_COLUMNS]
        names = (*COLUMNS, *NUMBER_COLUMNS)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        population = Population([read_fields(Unit, row) for row in rows])
        stream, run, source, session_start_utc, table = _texts(message)
        return Hello(
            stream, run, source, population, session_start_utc=session_start_utc, table=table
        )
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise WireError("field", f"a unit table lacks or misspells a field: {error!r}") from error


def _texts(message: Mapping[str, Any]) -> list[str]:
    """Return stream, run, source, start of the session and origin of the table.

    Raises
    ------
    KeyError
        If one is missing that is not optional.
    TypeError
        If one is no text.
    """
    texts = [message[key] for key in ("stream", "run", "source")]
    texts += [message.get(key, "") for key in ("session_start_utc", "table")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("stream, run, source, session_start_utc and table are texts")
    return texts
