"""What a source sends, checked against ``docs/wire-format.md`` and packed. No socket here."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

VERSION = 1
MAX_SPIKES = 1 << 20
MAX_SPAN_NS = 1_000_000_000
MAX_UNITS = 100_000
MAX_TEXT = 1_024
MAX_CHANNEL = (1 << 31) - 1
MAX_UM = 1_000_000_000
MAX_MESSAGE_BYTES = 16 << 20
MAX_SESSION_NS = 1 << 62
MAX_SEQ = (1 << 63) - 1

STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)

LABELS = ("unit_id", "probe", "area", "cell_type", "quality")
POSITIONS = ("depth_um", "x_um", "y_um")

# Of buffers: native integers, and the same with their size or order spelled out.
_INTEGERS = re.compile(r"[@=]?[bBhHiIlLqQ]")


class InvalidMessageError(ValueError):
    """A message would break a rule of the wire format; it was not sent."""


class Unit(msgspec.Struct, frozen=True):
    """A sorted neuron, known by `probe` and `unit_id`; empty texts and None where unknown."""

    unit_id: str
    probe: str = ""
    area: str = ""
    cell_type: str = ""
    quality: str = ""
    channel: int | None = None
    depth_um: float | None = None
    x_um: float | None = None
    y_um: float | None = None


def unit_columns(units: Sequence[Unit]) -> dict[str, Any]:
    """Return the table of a hello, its fingerprint first.

    Raises
    ------
    InvalidMessageError
        If there are no units, too many, one twice, or a value is beyond its limits.
    """
    if not 1 <= len(units) <= MAX_UNITS:
        raise InvalidMessageError(f"a source has 1 to {MAX_UNITS:,} units, got {len(units):,}")
    columns: dict[str, Any] = {
        key: [text(key, getattr(unit, key)) for unit in units] for key in LABELS
    }
    pairs = list(zip(columns["probe"], columns["unit_id"], strict=True))
    if len(set(pairs)) != len(pairs):
        twice = next(pair for n, pair in enumerate(pairs) if pair in pairs[:n])
        raise InvalidMessageError(f"each (probe, unit_id) may stand once, {twice} stands twice")
    channels = [
        None if unit.channel is None else integer("channel", unit.channel, 0, MAX_CHANNEL)
        for unit in units
    ]
    numbers = {
        "channel": channels,
        **{key: [_micrometers(key, getattr(unit, key)) for unit in units] for key in POSITIONS},
    }
    known = {key: values for key, values in numbers.items() if values != [None] * len(units)}
    return {"fingerprint": _fingerprint(pairs), **columns, **known}


def utc(value: str) -> str:
    """Return a time of the form ``2019-01-19T08:54:18Z``.

    Raises
    ------
    InvalidMessageError
        If it is none.
    """
    try:
        is_time = UTC.fullmatch(value) is not None and datetime.fromisoformat(value) is not None
    except ValueError:
        is_time = False
    if not is_time:
        raise InvalidMessageError(f"session_start_utc is as 2019-01-19T08:54:18Z, got {value!r}")
    return value


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return an integer of any library as Python's own.

    Raises
    ------
    InvalidMessageError
        If it is none, or beyond its limits.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # a TypeError is the answer
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidMessageError(f"{name} is an integer from {low} to {high}, got {value!r:.64}")
    return number


def text(name: str, value: object) -> str:
    """Return a text.

    Raises
    ------
    InvalidMessageError
        If it is none, too long, or cannot be written as UTF-8.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise InvalidMessageError(
            f"{name} is text of at most {MAX_TEXT} characters, got {value!r:.64}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessageError(f"{name} is text in UTF-8: {error}") from error
    return value


def integers(name: str, values: object, code: str) -> array[int]:
    """Return integers as an array of code ``q`` (int64) or ``I`` (uint32).

    `values` is a list, an `array.array`, a NumPy array of integers, or anything like them.

    Raises
    ------
    InvalidMessageError
        If they are not integers, do not fit, or have more than one dimension.
    """
    wanted = "int64 nanoseconds" if code == "q" else "uint32 rows of the unit table"
    if isinstance(values, str | bytes | bytearray):
        raise InvalidMessageError(f"{name} are {wanted}, got {type(values).__name__}")
    try:
        view = memoryview(values)  # type: ignore[arg-type]  # a TypeError is the answer
    except (TypeError, ValueError):
        listed: Iterable[Any] = values  # type: ignore[assignment]  # the same
    else:
        if view.ndim != 1 or not _INTEGERS.fullmatch(view.format):
            raise InvalidMessageError(
                f"{name} are {wanted} in one dimension, got {view.ndim} of format {view.format!r}"
            )
        listed = view.tolist()
    try:
        return array(code, listed)
    except (TypeError, OverflowError) as error:
        raise InvalidMessageError(f"{name} are {wanted}: {error}") from error


def little_endian(values: array[int]) -> bytes:
    """Return the bytes of an array as they are sent."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def pack(fields: dict[str, Any]) -> bytes:
    """Return a header.

    Raises
    ------
    InvalidMessageError
        If it is larger than any receiver accepts.
    """
    packed = msgspec.msgpack.encode(fields)
    if len(packed) > MAX_MESSAGE_BYTES:
        raise InvalidMessageError(
            f"the unit table takes {len(packed):,} bytes, and a message may have at most "
            f"{MAX_MESSAGE_BYTES:,}. Send fewer units in one stream."
        )
    return packed


def _micrometers(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidMessageError(f"{name} is a number or None, got {value!r:.64}")
    if math.isnan(value):
        return None
    if not -MAX_UM <= value <= MAX_UM:
        raise InvalidMessageError(f"{name} is within {MAX_UM:,} micrometers, got {value!r:.64}")
    return float(value)


def _fingerprint(pairs: Sequence[tuple[str, str]]) -> str:
    listed = json.dumps([list(pair) for pair in pairs])
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
