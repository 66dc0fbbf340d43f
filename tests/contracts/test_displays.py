"""Messages for displays: written, read, bounded, and nothing made up."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from contracts.displays import (
    MAX_ENCODER_BYTES,
    MAX_RATE_POPULATIONS,
    MAX_RATE_UNITS,
    encoder_of,
    pack_probes,
    pack_rates,
    probes_of,
    rates_of,
)
from contracts.errors import WireError
from contracts.population import Unit
from tests.support.displays import encoder_parts, manifest_of, probes, rates


def encoder_message(units: Sequence[Unit] = ()) -> dict[str, object]:
    names = ("all", "shuffled", "silent")
    topic, payload = encoder_parts(manifest_of(units), names)
    assert topic == b"encoder"
    message: dict[str, object] = json.loads(payload)
    return message


def test_rates_and_probes_are_read_as_they_were_written():
    """Field by field."""
    assert rates_of(json.loads(pack_rates(rates())[1])) == rates()
    assert probes_of(json.loads(pack_probes(probes())[1])) == probes()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"unit_step": 0},
        {"stop_s": 1.0},
        {"unit_counts": "none"},
        {"populations_hz": None},
    ],
)
def test_rates_that_cannot_be_are_refused(change):
    """Another version, an interval without length, or a field of another type."""
    message = json.loads(pack_rates(rates())[1])
    with pytest.raises(WireError):
        rates_of({**message, **change})


def test_the_largest_rates_have_a_bound():
    """4,096 units with five digits each and 256 populations with the longest names: 54 kB."""
    largest = rates(
        unit_counts=[65_535] * MAX_RATE_UNITS,
        populations_hz={f"{n:064}": 12_345.678 for n in range(MAX_RATE_POPULATIONS)},
    )
    assert len(pack_rates(largest)[1]) < 54_000


def test_the_encoder_names_units_populations_and_controls():
    """In the order of the encoder; which are controls is said."""
    manifest = manifest_of()
    facts = encoder_of(encoder_message())
    assert facts.unit_id == tuple(unit.unit_id for unit in manifest.population.units)
    assert [one.kind for one in facts.populations] == ["units", "shuffled", "silent"]
    assert facts.populations[2].n_units == 0
    assert facts.fingerprint == manifest.population.fingerprint


def test_a_table_that_is_too_large_is_left_out():
    """The facts are sent all the same, with the number of units."""
    many = [Unit(f"{n:0200}") for n in range(MAX_ENCODER_BYTES // 200)]
    facts = encoder_of(encoder_message(many))
    assert (facts.unit_id, facts.n_units) == ((), len(many))


def test_columns_of_different_lengths_are_refused():
    """A table in which a unit has no area is none."""
    message = encoder_message()
    with pytest.raises(WireError):
        encoder_of({**message, "area": ["VISp"]})
