"""neurrate-client beside the daemon's own types: the same messages, read and written alike."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurrate_client import (
    Daemon,
    EncoderFacts,
    Mark,
    Narration,
    Partial,
    Probes,
    Rates,
    Reader,
    Statistics,
    Trigger,
    Units,
)
from neurrate_client import source_messages as theirs
from neurrate_client.host_clock import clock_id as client_clock_id
from neurrate_client.reader import UnreadableError, parse

from contracts import clock, population, spikes, wire, wire_header
from contracts.clock import host_clock_id
from contracts.daemon_json import pack_daemon
from contracts.displays import pack_probes, pack_rates
from contracts.narration import PartialNarration
from contracts.narration_wire import as_repeat, pack_narration, pack_partial
from contracts.population import Unit
from contracts.schemas import PUBLISHED, schema_of
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello
from contracts.trigger import pack_trigger
from tests.support.displays import encoder_parts, probes, rates
from tests.support.narrations import narration, narrations
from tests.support.triggers import trigger, triggers
from tests.support.wire_fuzz import RUN, SITED
from tests.support.wire_messages import HELLOS, MARKS

CLIENT = Path(__file__).parents[2] / "clients" / "python"
RECORDED = Path(__file__).parents[1] / "data" / "published.jsonl"

TYPES: dict[str, type[msgspec.Struct]] = {
    "narration": Narration,
    "partial": Partial,
    "trigger": Trigger,
    "mark": Mark,
    "units": Units,
    "stats": Statistics,
    "daemon": Daemon,
    "encoder": EncoderFacts,
    "rates": Rates,
    "probes": Probes,
}

PARTIAL = PartialNarration("all", 3, 1.0, 1.25, 1.2, "A car", 2, 1, 2)


def _known(message: Any) -> Any:
    """Return a message as JSON would hold it, without what is not known."""
    built = json.loads(msgspec.json.encode(message))

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if inner not in (None, "")}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return strip(built)


def _check(parts: list[bytes]) -> None:
    sent = json.loads(parts[1])
    message = parse(parts)
    assert message is not None
    assert message.topic.encode() == parts[0]
    assert _known(message) == _known(sent)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(narrations(), triggers(), MARKS, HELLOS)
def test_whatever_the_daemon_may_publish_is_read_field_by_field(one, fired, mark, hello):
    """Every legal narration, trigger, mark and unit table, and their repeats."""
    for parts in (pack_narration(one), pack_trigger(fired), pack_mark(mark), pack_units(hello)):
        _check(parts)
        _check([parts[0], as_repeat(parts[1])])


def test_recorded_messages_are_read_field_by_field():
    """What a real daemon sent over its socket, of every kind."""
    lines = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    reader = Reader()
    for topic, payload in lines:
        _check([topic.encode(), json.dumps(payload).encode()])
        assert len(reader.read([topic.encode(), json.dumps(payload).encode()])) == 1
    assert {topic.partition(".")[0] for topic, _ in lines} == set(TYPES)


def test_growing_sentences_are_read_field_by_field():
    """A partial narration too."""
    _check(pack_partial(PARTIAL))


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct in a type such as ``Evidence | None`` or ``dict[str, Stream]``."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if isinstance(kind, UnionType) or get_args(kind):
        found = [_struct_of(inner) for inner in get_args(kind)]
        return next((one for one in found if one is not None), None)
    return None


def _properties(schema: dict[str, Any], of: dict[str, Any]) -> dict[str, Any] | None:
    """Return the properties of an object, of one that may be null, or of a dictionary's values."""
    if "$ref" in of:
        of = schema["$defs"][of["$ref"].rpartition("/")[2]]
    if "properties" in of:
        return dict(of["properties"])
    inner = [*of.get("anyOf", []), *[of[k] for k in ("additionalProperties", "items") if k in of]]
    found = [_properties(schema, one) for one in inner if isinstance(one, dict)]
    return next((one for one in found if one is not None), None)


def _compare(
    schema: dict[str, Any], properties: dict[str, Any], kind: type[msgspec.Struct]
) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    assert set(fields) == set(properties), kind
    for name, field in fields.items():
        inner, struct = _properties(schema, properties[name]), _struct_of(field)
        assert (inner is None) == (struct is None), name
        if inner is not None and struct is not None:
            _compare(schema, inner, struct)


def test_every_message_on_the_socket_has_a_type():
    """What the daemon publishes is read by the client too; a recorder's is in its journal."""
    assert set(TYPES) == set(PUBLISHED) - {"recorder"}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_the_types_have_the_fields_of_the_schema(name):
    """At every depth: a field that the daemon adds is added here."""
    schema = schema_of(name)
    _compare(schema, schema["properties"], TYPES[name])


SENT = [
    pack_narration(narration()),
    pack_trigger(trigger()),
    pack_mark(spikes.Mark("probeA", RUN, 0, 1, "movie", 3, None, None)),
    pack_units(Hello("probeA", RUN, "test", SITED)),
    pack_partial(PARTIAL),
    pack_daemon(bundle="0" * 64, settings={"http": {"port": 0}}, host_ns=2**60),
    encoder_parts(),
    pack_rates(rates()),
    pack_probes(probes()),
]


@pytest.mark.parametrize("parts", SENT, ids=lambda parts: parts[0].decode())
def test_another_version_and_missing_fields_are_unreadable(parts):
    """Nothing is made up: every field that the schema requires must be there."""
    message = json.loads(parts[1])
    kind = parts[0].decode().partition(".")[0]
    for wrong in (
        {**message, "version": 2},
        *({k: v for k, v in message.items() if k != name} for name in schema_of(kind)["required"]),
    ):
        with pytest.raises(UnreadableError):
            parse([parts[0], json.dumps(wrong).encode()])


def test_messages_of_older_and_later_daemons_are_read():
    """Without what was added within the version, and with what will be."""
    for parts in SENT:
        message = json.loads(parts[1])
        kind = parts[0].decode().partition(".")[0]
        older = {key: message[key] for key in schema_of(kind)["required"]}
        later = {**message, "brand_new": [{"deep": None}]}
        assert parse([parts[0], json.dumps(older).encode()]) is not None
        assert parse([parts[0], json.dumps(later).encode()]) is not None


BYTES = st.binary(max_size=60)
NESTED = b'{"x":' + b"[" * 100_000
HUGE = b'{"seq":' + b"9" * 10_000 + b"}"


@given(
    st.one_of(
        st.lists(BYTES, max_size=4),
        st.tuples(st.sampled_from([parts[0] for parts in SENT]), BYTES | st.just(NESTED)).map(list),
        st.sampled_from(SENT).flatmap(
            lambda parts: st.tuples(
                st.just(parts[0]),
                st.integers(0, len(parts[1])).flatmap(
                    lambda at: BYTES.map(lambda junk: parts[1][:at] + junk + parts[1][at + 1 :])
                ),
            ).map(list)
        ),
        st.sampled_from(SENT).map(lambda parts: [parts[0], HUGE]),
    )
)
def test_hostile_bytes_give_a_message_or_are_counted(parts):
    """No other error, whatever a publisher sends."""
    reader = Reader()
    events = reader.read(parts)
    assert len(events) + reader.n_unreadable + reader.n_ignored == 1


def test_a_message_under_another_topic_is_unreadable():
    """A subscriber to one population is not given the narration of another."""
    payload = pack_narration(narration(population="VISp"))[1]
    with pytest.raises(UnreadableError, match=r"narration\.VISp"):
        parse([b"narration.CA1", payload])


# ---- what a source sends


def test_limits_are_those_of_the_daemon():
    """Each constant of the wire format."""
    assert (theirs.VERSION, theirs.MAX_TEXT) == (wire_header.WIRE_VERSION, wire_header.MAX_TEXT)
    assert (theirs.MAX_SPIKES, theirs.MAX_SPAN_NS) == (spikes.MAX_SPIKES, spikes.MAX_SPAN_NS)
    assert theirs.MAX_UNITS == population.MAX_UNITS
    assert (theirs.MAX_CHANNEL, theirs.MAX_UM) == (wire_header.MAX_CHANNEL, wire_header.MAX_UM)
    assert theirs.MAX_MESSAGE_BYTES == wire.MAX_MESSAGE_BYTES
    assert theirs.MAX_SESSION_NS == clock.MAX_SESSION_NS
    assert theirs.MAX_SEQ == wire_header.MAX_SEQ
    assert theirs.STREAM.pattern == spikes.STREAM_NAME.pattern
    assert theirs.UTC.pattern == spikes.UTC_TIME.pattern
    assert (theirs.LABELS, theirs.POSITIONS) == (
        population.LABELS,
        wire_header.NUMBER_COLUMNS[1:],
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(HELLOS)
def test_a_unit_table_is_that_of_the_daemons_sources(hello):
    """Columns, positions and fingerprint are those that the daemon's own sources send."""
    units = [theirs.Unit(**asdict(unit)) for unit in hello.population.units]
    mine = wire.pack(replace(hello, next_seq=0, is_lossless=False))[1]
    sent = msgspec.msgpack.decode(mine)
    wanted = {key: sent[key] for key in sent if key in ("fingerprint", *theirs.LABELS)}
    numbers = {key: sent[key] for key in wire_header.NUMBER_COLUMNS if key in sent}
    assert theirs.unit_columns(units) == {**wanted, **numbers}
    if hello.session_start_utc:
        assert theirs.utc(hello.session_start_utc) == hello.session_start_utc


TABLES = st.lists(
    st.tuples(st.text(max_size=3) | st.just("x" * 1025), st.sampled_from(["", "A"])), max_size=4
)


@given(TABLES, st.sampled_from([None, -1, 0, 2**31, 1.5, True]), st.floats() | st.just(2e9))
def test_a_unit_table_is_refused_if_the_daemon_would_refuse_it(labels, channel, depth_um):
    """And only then: what the client packs, the daemon's reader takes."""
    units = [
        theirs.Unit(unit_id=unit_id, probe=probe, channel=channel, depth_um=depth_um)
        for unit_id, probe in labels
    ]
    try:
        columns = theirs.unit_columns(units)
    except theirs.InvalidMessageError:
        is_legal = (
            1 <= len(labels)
            and len(set(labels)) == len(labels)
            and all(len(unit_id) <= 1024 and unit_id.isprintable() for unit_id, _ in labels)
            and channel in (None, 0)
            and channel is not False
            and (abs(depth_um) <= 1e9 or depth_um != depth_um)
        )
        assert not is_legal
        return
    header = {"version": 1, "stream": "p", "run": "0" * 16, "next_seq": 0, "source": ""}
    read = wire.unpack([b"hello.p", theirs.pack({**header, **columns})])
    assert isinstance(read, Hello)
    assert [unit.key for unit in read.population.units] == [(p, u) for u, p in labels]


@pytest.mark.parametrize(
    ("values", "code", "wanted"),
    [
        ([1, -2], "q", [1, -2]),
        ((), "q", []),
        (np.array([5, 6]), "q", [5, 6]),
        (np.array([5, 6], np.uint8), "I", [5, 6]),
        (np.arange(10)[::3], "q", [0, 3, 6, 9]),
        (np.array([], np.int64), "q", []),
        ([np.int32(7)], "I", [7]),
        (iter([1, 2]), "I", [1, 2]),
    ],
)
def test_integers_of_any_library_are_taken(values, code, wanted):
    """Lists, strided arrays, other widths."""
    assert list(theirs.integers("times_ns", values, code)) == wanted


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([1.0], "q"),
        (np.array([1.0]), "q"),
        (np.array([[1]]), "q"),
        (np.array([2**63], np.uint64), "q"),
        ([2**63], "q"),
        ([-1], "I"),
        ([2**32], "I"),
        (np.array([True]), "q"),
        (np.array([1], ">i8"), "q"),
        (b"12345678", "q"),
        ("12", "q"),
        (None, "q"),
        (5, "q"),
        (["1"], "q"),
    ],
    ids=repr,
)
def test_what_are_no_integers_is_refused(values, code):
    """Nothing is rounded, cut or reinterpreted."""
    with pytest.raises(theirs.InvalidMessageError, match="times_ns are"):
        theirs.integers("times_ns", values, code)


def test_the_clock_has_the_daemons_name_for_it():
    """Else a daemon on this machine would ask how far off its own clock is."""
    assert client_clock_id() == host_clock_id() != ""


def test_the_wheel_needs_two_packages_and_nothing_of_ours():
    """No torch, no NumPy; its sources import nothing from this project."""
    import ast
    import tomllib

    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [one.partition(">")[0] for one in project["dependencies"]] == ["msgspec", "pyzmq"]
    imported = set()
    for path in (CLIENT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported |= {name.partition(".")[0] for name in names}
    import sys

    assert imported - set(sys.stdlib_module_names) == {"msgspec", "neurrate_client", "zmq"}


def test_units_are_those_of_the_daemon():
    """The same fields with the same defaults, in the same order."""
    mine = {name: field.default for name, field in Unit.__dataclass_fields__.items()}
    required = msgspec.structs.fields(theirs.Unit)[0]
    assert {field.name: field.default for field in msgspec.structs.fields(theirs.Unit)[1:]} == {
        name: default for name, default in mine.items() if name != required.name
    }
