"""The msgpack header of one message, read with limits. No socket here.

A header may come from anybody, so nothing in it is believed before it is measured: a tree of
empty lists, unpacked at once, would take sixty times its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgpack

from contracts.errors import WireError
from contracts.population import LABELS, MAX_UNITS
from contracts.spikes import RUN_ID, STREAM_NAME

WIRE_VERSION = 1
"""Version of the spike messages. Raised when a receiver of the version before would misread."""

MAX_TEXT = 1024
"""Longest text in a header, in characters: labels and captions are far shorter."""

MAX_FIELDS = 64
"""Most keys in a header, unknown ones included."""

SHORT_HEADER_BYTES = 512
"""Headers of spikes take about 150. So few bytes cannot fill the memory, however nested."""

HELLO_PEEK_BYTES = 256
"""Version, stream and run take at most 130 bytes."""

MAX_SEQ = (1 << 63) - 1

MAX_CHANNEL = (1 << 31) - 1
"""Largest number of a channel."""

MAX_UM = 1_000_000_000
"""Largest depth or coordinate of a unit, micrometers, either way: a kilometer is none."""

Part = bytes | bytearray | memoryview

T = TypeVar("T")

COLUMNS = LABELS

NUMBER_COLUMNS = ("channel", "depth_um", "x_um", "y_um")
"""Columns that may be absent, and hold nil where a value is unknown."""

_SCALARS = frozenset(
    {
        *("version", "stream", "run", "seq", "start_ns", "stop_ns", "n_spikes", "sent_host_ns"),
        *("next_seq", "source", "fingerprint", "stimulus", "presentation_id", "frame", "caption"),
        *("n_batches", "lossless", "session_start_utc", "table"),
        *("ping", "ping_host_ns", "clock_id"),
    }
)


class Header:
    """The msgpack header of one message, read field by field with limits.

    It may have `limit` bytes and tables of `max_units`, and must repeat `stream`, the one in the
    topic.

    Raises
    ------
    WireError
        Here and from every method: if something is not as it must be.
    """

    __slots__ = ("_fields", "run", "stream")

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        n_parts: int,
        limit: int,
        stream: bytes,
        max_units: int = MAX_UNITS,
    ) -> None:
        if len(parts) != n_parts:
            raise WireError("parts", f"this message has {n_parts} parts, got {len(parts)}")
        if len(parts[1]) > limit:
            raise WireError("size", f"a header may have {limit:,} bytes, got {len(parts[1]):,}")
        self._fields = _read_map(parts[1], max_units)
        _check_version(self._fields.get("version"))
        self.stream = self.text("stream")
        if not _is_stream(stream, self.stream):
            raise WireError(
                "stream",
                f"the topic's stream {stream[:64]!r} and the header's {self.stream[:64]!r} must be "
                "equal, 1 to 64 letters, digits, _ or -",
            )
        self.run = self.text("run")
        if not _is_run(self.run):
            raise WireError("run", f"run must be 16 hex digits, got {self.run[:32]!r}")

    def integer(self, key: str, low: int, high: int) -> int:
        """Return an integer within bounds.

        Raises
        ------
        WireError
            If it is not one.
        """
        value = self._fields.get(key)
        if type(value) is not int or not low <= value <= high:
            raise WireError(
                "field", f"{key} must be an integer from {low} to {high}, got {value!r:.64}"
            )
        return value

    def text(self, key: str) -> str:
        """Return a text.

        Raises
        ------
        WireError
            If it is not one.
        """
        value = self._fields.get(key)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise WireError(
                "field", f"{key} must be text of at most {MAX_TEXT} characters, got {value!r:.64}"
            )
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Return an integer within bounds, or None."""
        return None if self._fields.get(key) is None else self.integer(key, low, high)

    def optional_text(self, key: str) -> str | None:
        """Return a text, or None."""
        return None if self._fields.get(key) is None else self.text(key)

    def column(self, key: str) -> list[str]:
        """Return the texts of one column of the population.

        Raises
        ------
        WireError
            If it is not one.
        """
        values = self._fields.get(key)
        if not isinstance(values, list):
            raise WireError("field", f"{key} must list 1 to {MAX_UNITS:,} texts")
        return values

    def optional_column(self, key: str) -> list[Any] | None:
        """Return the numbers of one of `NUMBER_COLUMNS`, None where one is unknown.

        Raises
        ------
        WireError
            If it is there, and is none.
        """
        values = self._fields.get(key)
        if values is not None and not isinstance(values, list):
            raise WireError("field", f"{key} must list 1 to {MAX_UNITS:,} numbers")
        return values


@lru_cache(maxsize=256)
def _is_stream(topic: bytes, name: str) -> bool:
    """Whether a topic names the stream of the header, and the name is one that may be."""
    return name.encode(errors="replace") == topic and STREAM_NAME.fullmatch(name) is not None


@lru_cache(maxsize=256)
def _is_run(run: str) -> bool:
    return RUN_ID.fullmatch(run) is not None


def hello_run(header: Part) -> str:
    """Return the run in a hello's header without reading its table.

    A hello comes once a second, and a table of thousands of units takes milliseconds to read.
    Empty if it does not stand among the first three fields, where `pack` puts it.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=HELLO_PEEK_BYTES)
    unpacker.feed(bytes(header[:HELLO_PEEK_BYTES]))
    try:
        for _ in range(min(3, unpacker.read_map_header())):
            key, value = unpacker.unpack(), unpacker.unpack()
            if key == "run":
                return value if isinstance(value, str) else ""
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        pass  # `unpack` will say what is wrong with it
    return ""


def _read_map(part: Part, max_units: int) -> Mapping[str, Any]:
    """Read a header: in one go where it is short and as it should be, else with care."""
    if len(part) <= SHORT_HEADER_BYTES:
        try:
            fields = msgpack.unpackb(
                part, max_array_len=0, max_map_len=MAX_FIELDS, max_bin_len=0, max_ext_len=0
            )
        except (ValueError, TypeError, msgpack.UnpackException):
            return _read_carefully(part, max_units)
        if type(fields) is dict and fields.get("version") == WIRE_VERSION:
            _check_version(fields["version"])
            return fields
    return _read_carefully(part, max_units)


def _read_carefully(part: Part, max_units: int) -> Mapping[str, Any]:
    # Step by step: unpacked at once, a tree of empty lists takes sixty times its bytes.
    fields: dict[str, Any] = {}
    try:
        reader = msgpack.Unpacker(
            max_buffer_size=max(1, len(part)),  # 0 would mean no limit
            max_str_len=4 * MAX_TEXT,
            max_array_len=0,
            max_map_len=0,
            max_bin_len=0,
            max_ext_len=0,
        )
        reader.feed(part)
        n_fields = reader.read_map_header()
        if n_fields > MAX_FIELDS:
            raise WireError("header", f"a header may have {MAX_FIELDS} keys, got {n_fields:,}")
        for _ in range(n_fields):
            key = reader.unpack()
            if not isinstance(key, str):
                raise WireError("header", f"a header's keys must be texts, got {key!r:.32}")
            if key in fields:  # or one header would be read many times over
                raise WireError(
                    "header", f"a key may stand once in a header, got {key!r:.32} twice"
                )
            if key in COLUMNS:
                fields[key] = _read_column(reader, key, max_units, _label)
            elif key in NUMBER_COLUMNS:
                read = _channel if key == "channel" else _micrometers
                fields[key] = _read_column(reader, key, max_units, read)
            elif key in _SCALARS:
                fields[key] = reader.unpack()
            else:
                reader.skip()
            if key == "version":  # before a later version's other fields are misread
                _check_version(fields[key])
        n_left = len(part) - reader.tell()
    # msgpack's errors are ValueErrors, but for the one that says that the map is cut.
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("header", f"the header is not a msgpack map of ours: {error}") from error
    if n_left:
        raise WireError("header", f"{n_left:,} bytes follow the header's map")
    return fields


def _read_column(
    reader: msgpack.Unpacker, key: str, max_units: int, read: Callable[[str, object], T]
) -> list[T]:
    n_values = reader.read_array_header()
    if not 1 <= n_values <= max_units:
        reason = "field" if n_values > MAX_UNITS or not n_values else "size"
        raise WireError(reason, f"{key} must list 1 to {max_units:,} values, got {n_values:,}")
    return [read(key, reader.unpack()) for _ in range(n_values)]


def _label(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise WireError("field", f"{key} must hold texts of at most {MAX_TEXT} characters")
    return value


def _channel(key: str, value: object) -> int | None:
    if value is not None and not (type(value) is int and 0 <= value <= MAX_CHANNEL):
        raise WireError("field", f"{key} must hold integers from 0 to {MAX_CHANNEL:,}, or nil")
    return value


def _micrometers(key: str, value: object) -> float | None:
    if value is None:
        return None
    if type(value) is not int and type(value) is not float:
        raise WireError("field", f"{key} must hold numbers, NaN or nil")
    if math.isnan(value):
        return None
    if not -MAX_UM <= value <= MAX_UM:
        raise WireError("field", f"{key} must be within {MAX_UM:,} micrometers, got {value!r:.64}")
    return float(value)


def _check_version(version: object) -> None:
    if type(version) is not int or version != WIRE_VERSION:
        raise WireError(
            "version", f"header version {version!r:.32}, this build reads {WIRE_VERSION}"
        )
