"""Narrations as JSON: the schema, the way back, and what is refused."""

import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import WireError
from contracts.narration import STAGES, NamedFeature, Status, latency_ms
from contracts.narration_wire import (
    as_repeat,
    load,
    pack_narration,
    unpack_narration,
)
from contracts.schemas import schema_of
from tests.support.narrations import narration, narrations

VALIDATOR = jsonschema.Draft202012Validator(schema_of("narration"))


@given(narrations())
def test_round_trip(said):
    """What is packed is what is unpacked, under the population's topic."""
    topic, payload = pack_narration(said)
    assert topic == f"narration.{said.population}".encode()
    assert unpack_narration(payload) == said


def test_every_property_is_sent():
    """A daemon sends also what older ones left out."""
    message = json.loads(pack_narration(narration())[1])
    assert set(message) == set(schema_of("narration")["properties"])


@given(narrations())
def test_a_repeat_differs_in_one_property(said):
    """A last value that is sent again says so, whatever its text holds, and has the same id."""
    payload = pack_narration(said)[1]
    before, after = json.loads(payload), json.loads(as_repeat(payload))
    assert before.pop("repeat") is False
    assert after.pop("repeat") is True
    assert before == after


@pytest.mark.parametrize(
    ("confidence", "published"),
    [(0.123456, 0.123), (1.0, 1.0), (None, None), (float("nan"), None), (float("inf"), None)],
)
def test_confidence_is_rounded_and_never_no_number(confidence, published):
    """Three digits; what is no number is null, which is what JSON can hold."""
    payload = pack_narration(narration(confidence=confidence))[1]
    assert json.loads(payload)["confidence"] == published
    assert unpack_narration(payload).confidence == published


def test_a_daemon_of_before_gives_no_confidence():
    """A message without the field is read as one whose confidence is not known."""
    message = json.loads(pack_narration(narration(confidence=0.5))[1])
    del message["confidence"]
    assert unpack_narration(json.dumps(message).encode()).confidence is None


def test_features_are_rounded_and_older_daemons_send_none():
    """Two digits of the height; a message without the field is one of which nothing is known."""
    said = narration()
    found = (NamedFeature(48, "night", 1.23456), NamedFeature(3, "car", 0.5))
    said = replace(said, utterance=replace(said.utterance, features=found))
    message = json.loads(pack_narration(said)[1])
    assert message["features"][0] == {"feature": 48, "name": "night", "z": 1.23}
    read = unpack_narration(json.dumps(message).encode()).utterance.features
    assert read == (NamedFeature(48, "night", 1.23), NamedFeature(3, "car", 0.5))
    del message["features"]
    assert unpack_narration(json.dumps(message).encode()).utterance.features is None


@given(narrations())
def test_stages_sum_to_the_total(said):
    """The parts of the latency are the whole, to a microsecond."""
    parts_ms = latency_ms(said.stamps)
    total_ms = parts_ms["total"]
    assert sum(parts_ms[stage] for stage in STAGES) == pytest.approx(total_ms, rel=1e-12, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"version": None}, "version"),
        ({"status": "fine"}, "field"),
        ({"window": 3}, "field"),
        ({"host_ns": {}}, "field"),
        ({"evidence": {"frame": "1"}}, "field"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(change, reason):
    """Another version or a broken field is a `WireError` with its reason."""
    message = {**json.loads(pack_narration(narration())[1]), **change}
    with pytest.raises(WireError) as caught:
        unpack_narration(json.dumps(message).encode())
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_bytes_give_an_object_or_a_wire_error(payload):
    """Whatever arrives, nothing but a `WireError` comes out."""
    try:
        message = load(payload)
    except WireError as error:
        assert error.reason == "json"  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(message, dict)


def test_the_schema_refuses_what_we_refuse():
    """A message of another version or without its text is not legal by the schema."""
    message = json.loads(pack_narration(narration(status=Status.FAILED, text=""))[1])
    assert VALIDATOR.is_valid(message)
    assert not VALIDATOR.is_valid({**message, "version": 2})
    del message["text"]
    assert not VALIDATOR.is_valid(message)
