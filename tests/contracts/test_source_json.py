"""Marks and unit tables as the daemon publishes them: there and back, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from contracts.errors import WireError
from contracts.narration_wire import as_repeat, load
from contracts.population import Population, Unit
from contracts.source_json import mark_of, pack_mark, pack_units, units_of
from contracts.spikes import Hello, Mark
from tests.support.wire_fuzz import ODD_VALUES, RUN, SITED
from tests.support.wire_messages import HELLOS, MARKS, is_same

MARK = Mark("probeA", RUN, -1, 2**53 + 1, "natural_movie_one", 3, 17, "A car.")
HELLO = Hello("probeA", RUN, "test", SITED, 0, False, "2019-01-19T08:54:18Z", "by hand")


@given(mark=MARKS)
def test_mark_there_and_back(mark):
    """Every field to the nanosecond, under the stream's topic, repeated or not."""
    topic, payload = pack_mark(mark)
    assert topic == f"mark.{mark.stream}".encode()
    assert b"\n" not in payload
    assert mark_of(load(payload)) == mark
    repeated = load(as_repeat(payload))
    assert (repeated["repeat"], mark_of(repeated)) == (True, mark)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(hello=HELLOS)
def test_unit_table_there_and_back(hello):
    """All that does not change within a run."""
    topic, payload = pack_units(hello)
    assert topic == f"units.{hello.stream}".encode()
    facts = replace(hello, next_seq=0, is_lossless=False, clock_id="")
    assert is_same(units_of(load(payload)), facts)
    assert load(as_repeat(payload))["repeat"] is True


def test_columns_of_nothing_are_left_out():
    """A display asks for a key, and finds none where nothing is known."""
    hello = Hello("probeA", RUN, "test", Population([Unit("1"), Unit("2", y_um=3.0)]))
    message = load(pack_units(hello)[1])
    assert message["y_um"] == [None, 3.0]
    assert not {"channel", "depth_um", "x_um", "session_start_utc", "table"} & message.keys()


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_odd_fields_give_a_value_or_a_wire_error(value):
    """Whatever stands under a key; no other error."""
    for parts, read in ((pack_mark(MARK), mark_of), (pack_units(HELLO), units_of)):
        message = load(parts[1])
        for key in message:
            with suppress(WireError):
                read({**message, key: value})


@pytest.mark.parametrize("key", ["stream", "run", "start_ns", "stimulus", "presentation_id"])
def test_mark_without_a_field_is_refused(key):
    """A field that every mark has."""
    message = load(pack_mark(MARK)[1])
    del message[key]
    with pytest.raises(WireError, match="mark"):
        mark_of(message)


@pytest.mark.parametrize("key", ["stream", "source", "unit_id", "quality"])
def test_table_without_a_field_is_refused(key):
    """A field that every table has."""
    message = load(pack_units(HELLO)[1])
    del message[key]
    with pytest.raises(WireError, match="unit table"):
        units_of(message)
