"""The wire format: there and back, and what is refused with which reason."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import MAX_SESSION_NS
from contracts.errors import UserError, WireError
from contracts.population import MAX_UNITS, Population, Unit
from contracts.spikes import MAX_SPIKES, Hello, SpikeBatch
from contracts.wire import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, pack, unpack
from contracts.wire_header import (
    COLUMNS,
    MAX_CHANNEL,
    MAX_TEXT,
    MAX_UM,
    NUMBER_COLUMNS,
    WIRE_VERSION,
)
from tests.support.wire_fuzz import LEGAL, RUN, fuzzed
from tests.support.wire_messages import MESSAGES, is_same, positions

SPIKES, EMPTY, HELLO, MARK, END, SITED = range(6)
"""Rows of `LEGAL`."""


def _changed(row: int, **changes: object) -> list[bytes]:
    """Return a legal message with other header fields; ... takes one away."""
    parts = list(LEGAL[row])
    fields = {**msgpack.unpackb(parts[1]), **changes}
    parts[1] = msgpack.packb({key: value for key, value in fields.items() if value is not ...})
    return parts


def _reason(parts: list[bytes]) -> str:
    with pytest.raises(WireError) as caught:
        unpack(parts)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_round_trip(kind, data):
    """What is packed is what is unpacked, to the dtype, under the kind's and stream's topic."""
    message = data.draw(MESSAGES[kind])
    parts = [bytes(part) for part in pack(message)]
    assert parts[0] == f"{kind}.{message.stream}".encode()
    assert is_same(unpack(parts), message)


@pytest.mark.parametrize("row", range(len(LEGAL)))
def test_unknown_keys_are_passed_over(row):
    """A later minor addition to a header does not disturb this version, whatever it holds."""
    extended = _changed(row, added={"a": [[], {}, [1, 2.5, b"raw", "text"]]}, units=[["0"]] * 9)
    assert is_same(unpack(extended), unpack(LEGAL[row]))


@pytest.mark.parametrize("row", range(len(LEGAL)))
@pytest.mark.parametrize("version", [0, 2, 2**64 - 1, -1, 1.0, True, "1", None, ...])
def test_other_version(row, version):
    """A message of another version, or of none, says so, even if its other fields changed too."""
    assert _reason(_changed(row, version=version)) == "version"
    if version == 2:
        odd = {"stream": 5, "unit_id": 3, "seq": [1], "run": {}, "start_ns": b"\x00" * 8}
        assert _reason(_changed(row, version=version, **odd)) == "version"


WRONG = {
    "no parts": ([], "parts"),
    "only a topic": ([b"spikes.probeA"], "parts"),
    "spikes without units": (LEGAL[SPIKES][:3], "parts"),
    "a part too many": ([*LEGAL[END], b""], "parts"),
    "unknown kind": ([b"spike.probeA", *LEGAL[SPIKES][1:]], "topic"),
    "empty topic": ([b"", LEGAL[END][1]], "topic"),
    "topic that is no text": ([b"\xff\xfe", LEGAL[END][1]], "topic"),
    "header too long": (_changed(END, added="x" * MAX_HEADER_BYTES), "size"),
    "hello too long": ([LEGAL[HELLO][0], b"\x80" * (MAX_MESSAGE_BYTES + 1)], "size"),
    "no header": ([LEGAL[END][0], b""], "header"),
    "header cut": ([LEGAL[END][0], LEGAL[END][1][:-1]], "header"),
    "header with a tail": ([LEGAL[END][0], LEGAL[END][1] + b"\x00"], "header"),
    "header a list": ([LEGAL[END][0], b"\x91\x01"], "header"),
    "header with number keys": ([LEGAL[END][0], b"\x81\x01\x01"], "header"),
    "header with list keys": ([LEGAL[END][0], b"\x81\x90\x01"], "header"),
    "too many keys": (_changed(END, **{f"key{k}": 0 for k in range(60)}), "header"),
    "text that is no UTF-8": ([LEGAL[END][0], b"\x81\xa3run\xa1\xff"], "header"),
    "extension for text": (_changed(END, stream=msgpack.ExtType(0, b"")), "field"),
    "bytes for text": (_changed(END, run=RUN.encode()), "header"),
    "list for a number": (_changed(SPIKES, seq=[1]), "header"),
    "number too low": (_changed(SPIKES, seq=-1), "field"),
    "number too high": (_changed(SPIKES, seq=2**63), "field"),
    "truth for a number": (_changed(END, n_spikes=True), "field"),
    "fraction for a number": (_changed(END, n_spikes=1.0), "field"),
    "missing number": (_changed(SPIKES, start_ns=...), "field"),
    "time beyond the clock": (_changed(MARK, stop_ns=MAX_SESSION_NS + 1), "field"),
    "too many spikes": (_changed(SPIKES, n_spikes=MAX_SPIKES + 1), "field"),
    "number for text": (_changed(MARK, stimulus=5), "field"),
    "text too long": (_changed(MARK, caption="x" * (MAX_TEXT + 1)), "field"),
    "text far too long": (_changed(MARK, caption="x" * (5 * MAX_TEXT)), "header"),
    "missing column": (_changed(HELLO, area=...), "field"),
    "column of numbers": (_changed(HELLO, area=[1] * 6), "field"),
    "column that is text": (_changed(HELLO, area="VISp"), "header"),
    "empty column": (_changed(HELLO, area=[]), "field"),
    "column with a long text": (_changed(HELLO, area=["x" * (MAX_TEXT + 1)] * 6), "field"),
    "column too long": (
        [LEGAL[HELLO][0], b"\x81\xa7unit_id\xdd" + (MAX_UNITS + 1).to_bytes(4, "big")],
        "field",
    ),
    "columns of two lengths": (_changed(HELLO, area=["VISp"] * 5), "length"),
    "channels that are texts": (_changed(SITED, channel=["17", "18"]), "field"),
    "channel below zero": (_changed(SITED, channel=[-1, 0]), "field"),
    "channel too high": (_changed(SITED, channel=[MAX_CHANNEL + 1, 0]), "field"),
    "channel with a fraction": (_changed(SITED, channel=[1.0, 0]), "field"),
    "channels that are one number": (_changed(SITED, channel=17), "header"),
    "depth that is true": (_changed(SITED, depth_um=[True, None]), "field"),
    "depth without end": (_changed(SITED, depth_um=[float("inf"), None]), "field"),
    "position too far away": (_changed(SITED, x_um=[2.0 * MAX_UM, None]), "field"),
    "position of lists": (_changed(SITED, y_um=[[1], None]), "header"),
    "positions of fewer units": (_changed(SITED, y_um=[1.0]), "length"),
    "positions of too many units": (
        [LEGAL[SITED][0], b"\x81\xa4y_um\xdd" + (MAX_UNITS + 1).to_bytes(4, "big")],
        "field",
    ),
    "start without a zone": (_changed(SITED, session_start_utc="2019-01-19T08:54:18"), "field"),
    "start that never was": (_changed(SITED, session_start_utc="2019-02-30T08:54:18Z"), "field"),
    "start that is a number": (_changed(SITED, session_start_utc=1547888058), "field"),
    "table that is too long": (_changed(SITED, table="x" * (MAX_TEXT + 1)), "field"),
    "more spikes than bytes": (_changed(SPIKES, n_spikes=13), "length"),
    "times cut": ([*LEGAL[SPIKES][:2], LEGAL[SPIKES][2][:-1], LEGAL[SPIKES][3]], "length"),
    "units cut": ([*LEGAL[SPIKES][:3], LEGAL[SPIKES][3][:-4]], "length"),
    "span backwards": (_changed(SPIKES, stop_ns=-6000), "span"),
    "span too long": (_changed(SPIKES, stop_ns=2_000_000_000), "span"),
    "spike outside its span": (_changed(SPIKES, start_ns=0), "span"),
    "two names": (_changed(END, stream="probeB"), "stream"),
    "name not allowed": ([b"end.a b", _changed(END, stream="a b")[1]], "stream"),
    "name too long": ([b"end." + b"x" * 65, _changed(END, stream="x" * 65)[1]], "stream"),
    "name missing": ([b"end", _changed(END, stream="")[1]], "stream"),
    "run in capitals": (_changed(END, run=RUN.upper()), "run"),
    "run too short": (_changed(END, run="abc"), "run"),
    "unit twice": (_changed(HELLO, unit_id=["0", "0", "2", "3", "4", "5"]), "population"),
    "other fingerprint": (_changed(HELLO, fingerprint="0" * 16), "population"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_message_is_refused_with_its_reason(name):
    """Each rule of the format, broken alone, gives its own reason."""
    parts, reason = WRONG[name]
    assert _reason(parts) == reason


def test_every_reason_is_known_to_the_document():
    """The reasons in `unpack`'s docstring are those that can be reached, no more and no less."""
    reached = {reason for _, reason in WRONG.values()} | {"version"}
    documented = (unpack.__doc__ or "").partition("is one of")[2].replace("\n", " ")
    assert {word.strip(" `.") for word in documented.split(",")} == reached


def test_arrays_are_views_of_the_parts():
    """Unpacking copies no spike: the arrays share memory with what came from the socket."""
    batch = unpack(LEGAL[SPIKES])
    assert isinstance(batch, SpikeBatch)
    assert np.shares_memory(batch.spike_time_ns, np.frombuffer(LEGAL[SPIKES][2], np.int64))
    assert np.shares_memory(batch.unit_index, np.frombuffer(LEGAL[SPIKES][3], np.uint32))


def test_memoryviews_are_as_good_as_bytes():
    """Parts may be buffers of another library, as ZeroMQ gives them without copying."""
    for parts in LEGAL:
        assert is_same(unpack([memoryview(part) for part in parts]), unpack(parts))


def test_largest_messages_fit():
    """A batch of the most spikes and a hello of the most units stay within the size limits."""
    times = np.zeros(MAX_SPIKES, dtype=np.int64)
    batch = SpikeBatch("probeA", RUN, 0, 0, 1, times, times.astype(np.uint32))
    assert is_same(unpack(pack(batch)), batch)
    assert max(len(part) for part in pack(batch)) <= MAX_MESSAGE_BYTES
    units = [
        Unit(str(950_000_000 + k), "probeA", "VISpm2/3", "Sst", "good", k, k / 7, k / 9, k / 11)
        for k in range(MAX_UNITS)
    ]
    hello = Hello("probeA", RUN, "test", Population(units))
    assert len(pack(hello)[1]) <= MAX_MESSAGE_BYTES
    assert unpack(pack(hello)) == hello


def test_hello_that_no_receiver_would_take_is_not_packed():
    """A unit table too large for one message is the user's error, not a silent disconnection."""
    units = [Unit(f"{k:0300}") for k in range(60_000)]
    with pytest.raises(UserError, match="at most 16,777,216"):
        pack(Hello("probeA", RUN, "test", Population(units)))


def test_fuzz_never_crashes():
    """A hundred thousand mutated messages each give a value or a `WireError`."""
    outcomes: dict[str, int] = {}
    for parts in fuzzed(seed=20260618, n_messages=100_000):
        try:
            outcome = type(unpack(parts)).__name__
        except WireError as error:
            outcome = error.reason
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert sum(outcomes.values()) == 100_000
    reasons = {reason for _, reason in WRONG.values()} | {"version"}
    assert set(outcomes) == reasons | {"SpikeBatch", "Hello", "Mark", "StreamEnd"}


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_bytes_give_a_value_or_a_wire_error(parts):
    """Bytes that never were a message are a `WireError` too."""
    try:
        unpack(parts)
    except WireError:
        return


@given(st.sampled_from(["spikes", "hello", "mark", "end"]), st.binary(max_size=80))
def test_bytes_as_a_header_give_a_wire_error(kind, header):
    """So are bytes under a right topic, with the right number of parts."""
    buffers = [b"", b""] if kind == "spikes" else []
    with pytest.raises(WireError):
        unpack([f"{kind}.probeA".encode(), header, *buffers])


def _peak_bytes(messages: list[list[bytes]]) -> int:
    """Return the most memory that unpacking takes beyond the messages themselves."""
    tracemalloc.start()
    try:
        for parts in messages:
            try:
                unpack(parts)
            except WireError:
                continue
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_fuzz_bounded_memory():
    """Unpacking twenty thousand mutated messages never takes more than a megabyte at a time."""
    messages = fuzzed(seed=7, n_messages=20_000)
    _peak_bytes(list(islice(messages, 100)))  # modules that are imported when first needed
    while chunk := list(islice(messages, 2000)):
        assert _peak_bytes(chunk) < 2**20


n_left = MAX_MESSAGE_BYTES - 32
BOMBS = {
    "a list of empty lists": b"\x81\xa1a\xdd" + n_left.to_bytes(4, "big") + b"\x90" * n_left,
    "a column of empty lists": b"\x81\xa4area\xdc\xff\xff" + b"\x90" * n_left,
    "a column of short texts": b"\x81\xa4area\xdc\xff\xff" + b"\xa2ab" * (n_left // 3),
    "a map of empty maps": b"\xdf" + n_left.to_bytes(4, "big") + b"\xa1a\x80" * (n_left // 3),
    "lists in lists": b"\x81\xa1a" + (b"\xdd" + n_left.to_bytes(4, "big")) * (n_left // 5),
    "one long text": b"\x81\xa6source\xdb" + n_left.to_bytes(4, "big") + b"x" * n_left,
    "a text that is not there": b"\x81\xa6source\xdb\xff\xff\xff\xff",
    "a column that is not there": b"\x81\xa4area\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", BOMBS)
def test_largest_hostile_hello_takes_little_more_than_itself(name):
    """The worst that fits in one message takes at most twice its size, not sixty times."""
    assert len(BOMBS[name]) <= MAX_MESSAGE_BYTES
    parts = [b"hello.probeA", BOMBS[name]]
    assert _reason(parts)
    assert _peak_bytes([parts]) < 2 * MAX_MESSAGE_BYTES


def test_hello_of_an_older_source_is_read_and_an_older_receiver_reads_ours():
    """What was added may be absent, is passed over by who does not know it, and is no identity."""
    fields = msgpack.unpackb(LEGAL[SITED][1])
    added = {*NUMBER_COLUMNS, "session_start_utc", "table"}
    older = unpack(_changed(SITED, **dict.fromkeys(added, ...)))
    ours = unpack(LEGAL[SITED])
    assert isinstance(older, Hello)
    assert isinstance(ours, Hello)
    assert older.population == ours.population
    assert older.population.fingerprint == ours.population.fingerprint
    assert positions(older.population) == [[None] * 4] * 2
    assert (older.session_start_utc, older.table) == ("", "")
    # An older receiver knows these keys, and skips others whatever they hold.
    known = {"version", "stream", "run", "next_seq", "source", "fingerprint", "lossless", *COLUMNS}
    assert fields.keys() - known == added
    # A source that knows none of it sends what it always sent.
    assert not added & msgpack.unpackb(LEGAL[HELLO][1]).keys()


def test_not_a_number_is_a_position_that_is_not_known():
    """Arrays of floats have no nil; whole numbers are numbers too."""
    hello = unpack(_changed(SITED, depth_um=[float("nan"), 3], channel=...))
    assert isinstance(hello, Hello)
    assert positions(hello.population) == [[None, None, 43.0, 340.0], [None, 3.0, None, -20.0]]


def test_version_is_one():
    """Raising the version is a decision: it belongs in docs/wire-format.md and the changelog."""
    assert WIRE_VERSION == 1


def test_key_that_stands_twice_is_refused():
    """A table repeated in one header would be read as often, each time at its full length."""
    column = msgpack.packb("unit_id") + msgpack.packb([f"{n}" for n in range(1000)])
    scalars = {"version": 1, "stream": "probeA", "run": RUN}
    header = b"\x85" + msgpack.packb(scalars)[1:] + column * 2
    assert _reason([b"hello.probeA", header]) == "header"


def test_table_beyond_a_receivers_limit_is_not_read():
    """A receiver may take fewer units than the format allows; their texts are never made."""
    units = [Unit(f"{n:060}") for n in range(20_000)]
    parts = [bytes(part) for part in pack(Hello("probeA", RUN, "test", Population(units)))]
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as caught:
            unpack(parts, max_units=10_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "size"
    assert peak_bytes < 2 * len(parts[1])
