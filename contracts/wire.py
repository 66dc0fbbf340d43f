"""Spikes on the wire: values to ZeroMQ parts and back. No socket here.

Theory of operation
-------------------
Every message is ``[topic, header, ...]``. The topic is ``<kind>.<stream>``, so that a receiver
can subscribe to a kind, a stream, or both. The header is a msgpack map with string keys; keys
that this version does not know are ignored. Only ``spikes`` has more parts: the times and the
unit indices as raw little-endian buffers, read in place.

===========  ================================================================================
kind         parts after the topic
===========  ================================================================================
``spikes``   header, int64 absolute session ns, uint32 unit index
``hello``    header with the population, column by column
``mark``     header: one stimulus presentation
``end``      header: totals of the run
===========  ================================================================================

Invariants (``tests/contracts/test_wire.py``):

1. ``unpack(pack(value))`` equals ``value``                       ``test_round_trip``
2. bytes of any kind give a value or a `WireError`, no more       ``test_fuzz_never_crashes``
3. a legal message of another version gives reason ``version``    ``test_other_version``
4. memory is bounded by the message: arrays are views of its parts, every count in a header is
   checked before anything is made of it, and what stands under an unknown key is passed over
   without being made                                             ``test_fuzz_bounded_memory``

The byte-by-byte description for other languages is ``docs/wire-format.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS
from contracts.errors import MisuseError, UserError, WireError
from contracts.population import MAX_UNITS, Population, Unit
from contracts.spikes import (
    CLOCK_ID,
    MAX_SPIKES,
    ClockEcho,
    Hello,
    Mark,
    SourceMessage,
    SpikeBatch,
    StreamEnd,
    is_utc,
)
from contracts.wire_header import COLUMNS, MAX_SEQ, NUMBER_COLUMNS, WIRE_VERSION, Header, Part

MAX_MESSAGE_BYTES = 16 << 20
"""Largest part that a receiver accepts; a batch of `MAX_SPIKES` and a hello of `MAX_UNITS` fit."""

MAX_HEADER_BYTES = 16 << 10
"""Largest header of any message but ``hello``: two texts of `MAX_TEXT` in any script fit."""

TIME_DTYPE = np.dtype("<i8")
UNIT_DTYPE = np.dtype("<u4")

_LITTLE_ENDIAN_HOST = sys.byteorder == "little"


def pack(message: SourceMessage) -> list[Part]:
    """Turn a source's message into the parts of a ZeroMQ message.

    They are topic, header, and for spikes two buffers that share memory with the batch.

    Raises
    ------
    UserError
        If a hello's unit table is larger than any receiver accepts.
    """
    match message:
        case SpikeBatch():
            return [
                f"spikes.{message.stream}".encode(),
                _header(
                    message,
                    seq=message.seq,
                    start_ns=message.start_ns,
                    stop_ns=message.stop_ns,
                    n_spikes=message.n_spikes,
                    sent_host_ns=message.sent_host_ns,
                    **_echo_fields(message.echo),
                ),
                _buffer(message.spike_time_ns, TIME_DTYPE),
                _buffer(message.unit_index, UNIT_DTYPE),
            ]
        case Hello():
            units = message.population.units
            return [
                f"hello.{message.stream}".encode(),
                _header(
                    message,
                    next_seq=message.next_seq,
                    source=message.source,
                    fingerprint=message.population.fingerprint,
                    **({"lossless": 1} if message.is_lossless else {}),
                    **({"clock_id": message.clock_id} if message.clock_id else {}),
                    **optional_facts(message),
                    **{column: [getattr(unit, column) for unit in units] for column in COLUMNS},
                    **optional_columns(message.population),
                ),
            ]
        case Mark():
            return [
                f"mark.{message.stream}".encode(),
                _header(
                    message,
                    start_ns=message.start_ns,
                    stop_ns=message.stop_ns,
                    stimulus=message.stimulus,
                    presentation_id=message.presentation_id,
                    frame=message.frame,
                    caption=message.caption,
                ),
            ]
        case StreamEnd():
            return [
                f"end.{message.stream}".encode(),
                _header(message, n_batches=message.n_batches, n_spikes=message.n_spikes),
            ]


def optional_facts(hello: Hello) -> dict[str, str]:
    """Return when the session began and how the table was made, as far as they are known."""
    facts = {"session_start_utc": hello.session_start_utc, "table": hello.table}
    return {key: text for key, text in facts.items() if text}


def _echo_fields(echo: ClockEcho | None) -> dict[str, int]:
    return {} if echo is None else {"ping": echo.ping, "ping_host_ns": echo.received_host_ns}


def optional_columns(population: Population) -> dict[str, list[Any]]:
    """Return those of `NUMBER_COLUMNS` in which some number is known."""
    columns = {key: [getattr(unit, key) for unit in population.units] for key in NUMBER_COLUMNS}
    return {
        key: values for key, values in columns.items() if any(value is not None for value in values)
    }


def unpack(
    parts: Sequence[Part], *, received_host_ns: int = 0, max_units: int = MAX_UNITS
) -> SourceMessage:
    """Turn the parts of a ZeroMQ message into a value, or raise with the reason.

    The arrays of a `SpikeBatch` are views of `parts`. A hello of more than `max_units` is refused
    before its table is read.

    Raises
    ------
    WireError
        If the message does not follow the format. Nothing else is ever raised.
        ``reason`` is one of ``parts``, ``topic``, ``size``, ``header``, ``version``, ``field``,
        ``stream``, ``run``, ``length``, ``span``, ``population``.
    """
    if len(parts) < 2:
        raise WireError("parts", f"a message has 2 or 4 parts, got {len(parts)}")
    # Cut first: a topic of megabytes is not copied to find out that it is none of ours.
    kind, _, stream = bytes(parts[0][:128]).partition(b".")
    if kind == b"spikes":
        reader = Header(parts, n_parts=4, limit=MAX_HEADER_BYTES, stream=stream)
        return _unpack_spikes(reader, parts, received_host_ns)
    if kind == b"hello":
        reader = Header(
            parts, n_parts=2, limit=MAX_MESSAGE_BYTES, stream=stream, max_units=max_units
        )
        return _unpack_hello(reader)
    if kind == b"mark":
        return _unpack_mark(Header(parts, n_parts=2, limit=MAX_HEADER_BYTES, stream=stream))
    if kind == b"end":
        reader = Header(parts, n_parts=2, limit=MAX_HEADER_BYTES, stream=stream)
        return StreamEnd(
            stream=reader.stream,
            run=reader.run,
            n_batches=reader.integer("n_batches", 0, MAX_SEQ),
            n_spikes=reader.integer("n_spikes", 0, MAX_SEQ),
        )
    raise WireError("topic", f"a topic starts with spikes, hello, mark or end, got {kind[:32]!r}")


def _unpack_spikes(header: Header, parts: Sequence[Part], received_host_ns: int) -> SpikeBatch:
    n_spikes = header.integer("n_spikes", 0, MAX_SPIKES)
    times, units = parts[2], parts[3]
    # Before anything is made of them: `np.frombuffer` would take a shorter or longer part too.
    if len(times) != n_spikes * TIME_DTYPE.itemsize or len(units) != n_spikes * UNIT_DTYPE.itemsize:
        raise WireError(
            "length",
            f"{n_spikes} spikes take {8 * n_spikes} and {4 * n_spikes} bytes, "
            f"got {len(times)} and {len(units)}",
        )
    spike_time_ns = np.frombuffer(times, TIME_DTYPE)
    unit_index = np.frombuffer(units, UNIT_DTYPE)
    if not _LITTLE_ENDIAN_HOST:  # the wire is little-endian, and so is nearly every host: no copy
        spike_time_ns = spike_time_ns.astype(np.int64)
        unit_index = unit_index.astype(np.uint32)
    try:
        return SpikeBatch(
            stream=header.stream,
            run=header.run,
            seq=header.integer("seq", 0, MAX_SEQ),
            start_ns=header.integer("start_ns", -MAX_SESSION_NS, MAX_SESSION_NS),
            stop_ns=header.integer("stop_ns", -MAX_SESSION_NS, MAX_SESSION_NS),
            spike_time_ns=spike_time_ns,
            unit_index=unit_index,
            sent_host_ns=header.integer("sent_host_ns", 0, MAX_SEQ),
            received_host_ns=received_host_ns,
            echo=_echo(header),
        )
    except MisuseError as error:  # the peer broke the rule, not we
        raise WireError("span", str(error)) from error


def _echo(header: Header) -> ClockEcho | None:
    ping = header.optional_integer("ping", 0, MAX_SEQ)
    if ping is None:
        return None
    return ClockEcho(ping, header.integer("ping_host_ns", 0, MAX_SEQ))


def _unpack_hello(header: Header) -> Hello:
    columns: list[list[Any]] = [header.column(key) for key in COLUMNS]
    # Left out by older sources, and by those that know none.
    unknown = [None] * len(columns[0])
    columns += [header.optional_column(key) or unknown for key in NUMBER_COLUMNS]
    if len({len(column) for column in columns}) != 1:
        raise WireError("length", "the population's columns must have the same length")
    session_start_utc = header.optional_text("session_start_utc") or ""
    if session_start_utc and not is_utc(session_start_utc):
        raise WireError(
            "field",
            "session_start_utc must be a time such as 2019-01-19T08:54:18Z, "
            f"got {session_start_utc!r:.64}",
        )
    clock_id = header.optional_text("clock_id") or ""
    if clock_id and not CLOCK_ID.fullmatch(clock_id):
        raise WireError("field", f"clock_id must be 16 hex digits, got {clock_id!r:.64}")
    try:
        population = Population([Unit(*values) for values in zip(*columns, strict=True)])
    except UserError as error:
        raise WireError("population", str(error)) from error
    # A receiver compares populations by fingerprint alone, so a wrong one must not get in.
    fingerprint = header.text("fingerprint")
    if fingerprint != population.fingerprint:
        raise WireError(
            "population",
            f"the population's fingerprint is {population.fingerprint}, "
            f"the hello says {fingerprint[:32]!r}",
        )
    return Hello(
        stream=header.stream,
        run=header.run,
        source=header.text("source"),
        population=population,
        next_seq=header.integer("next_seq", 0, MAX_SEQ),
        is_lossless=bool(header.optional_integer("lossless", 0, 1)),
        session_start_utc=session_start_utc,
        table=header.optional_text("table") or "",
        clock_id=clock_id,
    )


def _unpack_mark(header: Header) -> Mark:
    return Mark(
        stream=header.stream,
        run=header.run,
        start_ns=header.integer("start_ns", -MAX_SESSION_NS, MAX_SESSION_NS),
        stop_ns=header.integer("stop_ns", -MAX_SESSION_NS, MAX_SESSION_NS),
        stimulus=header.text("stimulus"),
        presentation_id=header.integer("presentation_id", -MAX_SEQ, MAX_SEQ),
        frame=header.optional_integer("frame", -MAX_SEQ, MAX_SEQ),
        caption=header.optional_text("caption"),
    )


def _header(message: SourceMessage, **fields: object) -> bytes:
    packed: bytes = msgpack.packb(
        {"version": WIRE_VERSION, "stream": message.stream, "run": message.run, **fields}
    )
    if len(packed) > MAX_MESSAGE_BYTES:  # receivers would hang up, again and again
        raise UserError(
            f"the unit table of stream {message.stream!r} takes {len(packed):,} bytes in a hello, "
            f"which may have at most {MAX_MESSAGE_BYTES:,}. Send fewer units in one stream."
        )
    return packed


def _buffer(values: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    if not values.size:
        return memoryview(b"")  # a view of shape (0,) cannot be cast
    return memoryview(np.ascontiguousarray(values, dtype=dtype).data).cast("B")
