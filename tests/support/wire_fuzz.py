"""Messages that are wrong in every way we could think of, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np

from contracts.population import Population, Unit
from contracts.spikes import MAX_SPIKES, Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from contracts.wire import pack

RUN = "0123456789abcdef"
STREAM = "probeA"
POPULATION = Population([Unit(f"{row}", "probeA", "VISp", "", "good") for row in range(6)])

SITED = Population(
    [
        Unit("0", "probeA", "VISp", "", "good", 17, 1200.5, 43.0, 340.0),
        Unit("1", "probeA", y_um=-20.0),
    ]
)
"""Units of which channel, depth and position are known, or some of them."""

Parts = list[bytes]


def _legal() -> list[Parts]:
    n_spikes = 12
    times = np.arange(n_spikes, dtype=np.int64) * 1000 - 5000
    rows = np.arange(n_spikes, dtype=np.uint32) % len(POPULATION)
    empty = slice(0, 0)
    messages: list[SourceMessage] = [
        SpikeBatch(STREAM, RUN, 7, -5000, 10_000_000, times, rows, 123),
        SpikeBatch(STREAM, RUN, 8, 10_000_000, 20_000_000, times[empty], rows[empty], 124),
        Hello(STREAM, RUN, "test", POPULATION, 7),
        Mark(STREAM, RUN, -1, 33_000_000, "natural_movie_one", 3, 17, "A car drives away."),
        StreamEnd(STREAM, RUN, 9, 12),
        Hello(STREAM, RUN, "test", SITED, 7, True, "2019-01-19T08:54:18Z", "by hand"),
    ]
    return [[bytes(part) for part in pack(message)] for message in messages]


LEGAL = _legal()

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 2**31, 2**32, MAX_SPIKES, MAX_SPIKES + 1, 2**62, 2**62 + 1),
    *(2**63 - 1, 2**63, 2**64 - 1, -(2**62), -(2**62) - 1, -(2**63), 0.5, 1e300),
    *(float("nan"), float("inf"), "", "x", "é\u0000\u202e", "x" * 1024, "x" * 1025, "x" * 5000),
    *(b"", b"probeA", b"\xff" * 90, [], [[]], [1, 2], ["0"], ["0"] * 6, [None] * 6, [["a"]] * 6),
    *(["x" * 2000] * 6, [str(n) for n in range(6)], {}, {"a": {}}, {"version": 1}),
    *([17, None], [1.5, float("nan")], [1e12, 0], [2**31, 0], "2019-02-30T08:54:18Z"),
    *(msgpack.Timestamp(1, 2), msgpack.ExtType(5, b""), msgpack.ExtType(5, b"ab")),
]

HUGE_LENGTHS = [
    head + size
    for head in (
        b"\xdd",
        b"\xdf",
        b"\xdb",
        b"\xc6",
        b"\xc9",
    )  # array, map, str, bin, ext of 32 bits
    for size in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x01\x86\xa1", b"\x00\x00\x00\x41")
]


def fuzzed(seed: int, n_messages: int) -> Iterator[Parts]:
    """Yield messages, most of them illegal."""
    rng = random.Random(seed)
    for _ in range(n_messages):
        parts = list(rng.choice(LEGAL))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(MUTATIONS)(rng, parts)
        yield parts


def _position(rng: random.Random, parts: Parts) -> int:
    if not parts:
        parts.append(b"")
    return rng.randrange(len(parts))


def _flip_bits(rng: random.Random, parts: Parts) -> None:
    k = _position(rng, parts)
    changed = bytearray(parts[k] or b"\x00")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    parts[k] = bytes(changed)


def _cut(rng: random.Random, parts: Parts) -> None:
    k = _position(rng, parts)
    parts[k] = parts[k][: rng.randrange(len(parts[k]) + 1)]


def _extend(rng: random.Random, parts: Parts) -> None:
    parts[_position(rng, parts)] += rng.randbytes(rng.choice((1, 4, 8, 100)))


def _drop_part(rng: random.Random, parts: Parts) -> None:
    del parts[_position(rng, parts)]


def _double_part(rng: random.Random, parts: Parts) -> None:
    k = _position(rng, parts)
    parts.insert(k, parts[k])


def _swap_parts(rng: random.Random, parts: Parts) -> None:
    k, m = _position(rng, parts), _position(rng, parts)
    parts[k], parts[m] = parts[m], parts[k]


def _random_part(rng: random.Random, parts: Parts) -> None:
    parts[_position(rng, parts)] = rng.randbytes(rng.choice((0, 1, 8, 40, 300)))


def _other_header(rng: random.Random, parts: Parts) -> None:
    if len(parts) > 1:
        parts[1] = rng.choice(LEGAL)[1]


def _change_field(rng: random.Random, parts: Parts) -> None:
    fields = _fields(parts)
    if fields:
        fields[rng.choice(list(fields))] = rng.choice(ODD_VALUES)
        parts[1] = msgpack.packb(fields)


def _lose_field(rng: random.Random, parts: Parts) -> None:
    fields = _fields(parts)
    if fields:
        del fields[rng.choice(list(fields))]
        parts[1] = msgpack.packb(fields)


def _odd_key(rng: random.Random, parts: Parts) -> None:
    fields = _fields(parts)
    fields[rng.choice(("new", "", 1, None, b"seq", 2.5, "x" * 6000))] = rng.choice(ODD_VALUES)
    parts[1:2] = [msgpack.packb(fields)]


def _nested(rng: random.Random, parts: Parts) -> None:
    level = rng.choice((b"\x91", b"\x81\xa1a", b"\xdc\x10\x00", b"\xdd\x00\x01\x86\xa0"))
    key = rng.choice((b"", b"\x81\xa1a", b"\x81\xa7unit_id", b"\x81\xa6stream"))
    parts[1:2] = [key + level * rng.choice((1, 10, 500, 2000))]


def _huge_length(rng: random.Random, parts: Parts) -> None:
    key = rng.choice((b"", b"\x81\xa1a", b"\x81\xa7unit_id", b"\x81\xa6stream", b"\x81\xa3run"))
    parts[1:2] = [key + rng.choice(HUGE_LENGTHS) + rng.randbytes(rng.choice((0, 5, 70)))]


MUTATIONS: list[Callable[[random.Random, Parts], None]] = [
    _flip_bits, _flip_bits, _cut, _extend, _drop_part, _double_part, _swap_parts, _random_part,
    _other_header, _change_field, _change_field, _change_field, _lose_field, _odd_key, _nested,
    _huge_length,
]  # fmt: skip


def _fields(parts: Parts) -> dict[Any, Any]:
    """Read the header if there still is one."""
    if len(parts) < 2:
        return {}
    try:
        fields = msgpack.unpackb(parts[1], strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}
    return fields if isinstance(fields, dict) else {}
