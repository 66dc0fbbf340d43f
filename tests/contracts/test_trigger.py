"""Triggers as values and as JSON: stages, the schema, the way back, and what is refused."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import WireError
from contracts.schemas import schema_of
from contracts.trigger import (
    STAGE_OF_STAMP,
    TRIGGER_STAGES,
    NarratorStamps,
    TriggerKind,
    TriggerStamps,
    pack_trigger,
    trigger_latency_ms,
    unpack_trigger,
)
from tests.support.triggers import trigger, triggers

VALIDATOR = jsonschema.Draft202012Validator(schema_of("trigger"))


@given(triggers())
def test_round_trip(said):
    """What is packed is what is unpacked, under the rule's topic."""
    topic, payload = pack_trigger(said)
    assert topic == f"trigger.{said.name}".encode()
    assert unpack_trigger(payload) == said


def test_every_property_is_sent():
    """A daemon sends also what older ones left out."""
    assert set(json.loads(pack_trigger(trigger())[1])) == set(schema_of("trigger")["properties"])


@given(triggers())
def test_stages_sum_to_the_total(said):
    """The parts of the latency are the whole, to a microsecond."""
    parts_ms = trigger_latency_ms(said.stamps)
    total_ms = parts_ms.pop("total")
    assert sum(parts_ms.values()) == pytest.approx(total_ms, rel=1e-12, abs=1e-3)


@given(triggers())
def test_stages_are_those_of_its_kind(said):
    """A probe has four stages; what is heard in a narration has the narration's as well."""
    found = tuple(trigger_latency_ms(said.stamps))
    stages = (
        ("cut", "encode", "decide", "publish") if said.kind is TriggerKind.PROBE else TRIGGER_STAGES
    )
    assert found == (*stages, "total")
    assert list(said.stamps.in_order().values()) == sorted(said.stamps.in_order().values())


@pytest.mark.parametrize("stamp", STAGE_OF_STAMP)
def test_each_stamp_ends_its_own_stage(stamp):
    """A pause before one stamp is the duration of the stage that ends with it, and of no other."""
    names = list(TriggerStamps(0, 0, 0, 0, 0, NarratorStamps(0, 0, 0, 0)).in_order())
    late = {name: 1_000_000 * (names.index(name) >= names.index(stamp)) for name in names}
    message = {**json.loads(pack_trigger(trigger())[1]), "host_ns": late}
    parts_ms = trigger_latency_ms(unpack_trigger(json.dumps(message).encode()).stamps)
    assert {stage for stage, ms in parts_ms.items() if ms} == {STAGE_OF_STAMP[stamp], "total"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"version": None}, "version"),
        ({"kind": "smell"}, "field"),
        ({"window": 3}, "field"),
        ({"window": {}}, "field"),
        ({"host_ns": {}}, "field"),
        ({"host_ns": {"narrated": 1}}, "field"),
        ({"host_ns": 5}, "field"),
        ({"scores": 5}, "field"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(change, reason):
    """Another version or a broken field is a `WireError` with its reason."""
    message = {**json.loads(pack_trigger(trigger())[1]), **change}
    with pytest.raises(WireError) as caught:
        unpack_trigger(json.dumps(message).encode())
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_bytes_give_a_trigger_or_a_wire_error(payload):
    """Whatever arrives, nothing but a `WireError` comes out."""
    with pytest.raises(WireError):
        unpack_trigger(payload)


def test_the_schema_refuses_what_we_refuse():
    """Another version, and words in a probe's trigger, are not legal by the schema."""
    message = json.loads(pack_trigger(trigger())[1])
    assert VALIDATOR.is_valid(message)
    assert not VALIDATOR.is_valid({**message, "version": 2})
    assert not VALIDATOR.is_valid({**message, "text": "A car."})
    assert not VALIDATOR.is_valid({**message, "kind": "word"})
