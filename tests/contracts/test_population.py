"""The unit table: order, fingerprint, and the words that select from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import UserError
from contracts.population import MAX_UNITS, Population, Unit
from tests.support.wire_messages import POPULATIONS

UNITS = (
    Unit("1", "probeA", "VISp", "PV"),
    Unit("2", "probeA", "VISp", "SST"),
    Unit("3", "probeA", "LGd", ""),
    Unit("3", "probeB", "CA1", "PV"),
    Unit("5", "probeB", "VISp", ""),
    Unit("6", "probeB", "", ""),
)
POPULATION = Population(UNITS)


def test_fingerprint_is_that_of_the_document():
    """The algorithm is part of the wire format, so its result for a known table never changes."""
    population = Population([Unit("950901", "probeA"), Unit("950902", "probeA", area="VISp")])
    assert population.fingerprint == "dd2bc80d2d14bdde"
    assert repr(population) == "Population(2 units, dd2bc80d2d14bdde)"


@given(POPULATIONS, st.randoms())
def test_fingerprint_names_units_in_order(population, random):
    """The same units in another order have another fingerprint; areas do not matter."""
    shuffled = list(population.units)
    random.shuffle(shuffled)
    other = Population(shuffled)
    is_same_order = [unit.key for unit in shuffled] == [unit.key for unit in population.units]
    assert (other.fingerprint == population.fingerprint) == is_same_order
    bare = Population([Unit(unit.unit_id, unit.probe) for unit in population.units])
    assert bare.fingerprint == population.fingerprint


def test_equal_tables_are_equal():
    """Populations compare and hash by their units."""
    again = Population(list(UNITS))
    assert again == POPULATION
    assert hash(again) == hash(POPULATION)
    assert Population(UNITS[::-1]) != POPULATION
    assert POPULATION != UNITS


def test_rows_are_found_by_probe_and_id():
    """Two probes may use one id; the pair names the row."""
    assert POPULATION.index_of["probeA", "3"] == 2
    assert POPULATION.index_of["probeB", "3"] == 3
    assert len(POPULATION) == 6
    assert POPULATION.areas == ("VISp", "CA1", "LGd")


@pytest.mark.parametrize("n_units", [0, MAX_UNITS + 1])
def test_too_few_or_too_many_units_are_refused(n_units):
    """A population has from one to a hundred thousand units."""
    with pytest.raises(UserError, match=f"needs 1 to 100,000 units, got {n_units:,}"):
        Population([Unit(str(k)) for k in range(n_units)])


def test_a_unit_that_stands_twice_is_refused():
    """The error names the ids that are not unique within their probe."""
    with pytest.raises(UserError, match="got 2, 3 more than once"):
        Population([Unit("1"), Unit("2"), Unit("2"), Unit("3"), Unit("3"), Unit("3", "probeB")])


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("area:VISp", [0, 1, 4]),
        ("cell_type:PV", [0, 3]),
        ("probe:probeB", [3, 4, 5]),
        ("unit:3", [2, 3]),
        ("ids:1,5", [0, 4]),
        ("ids: 1 | 5 ,", [0, 4]),
        ("ids:1|3,5", [0, 2, 3, 4]),
        ("VISp", [0, 1, 4]),
        ("PV", [0, 3]),
        ("probeA", [0, 1, 2]),
    ],
)
def test_select(expression, rows):
    """Each form of the expression hears its units, in the order of the table."""
    selection = POPULATION.select("mine", expression)
    assert selection.name == "mine"
    assert selection.kind == "units"
    assert np.flatnonzero(selection.mask).tolist() == rows
    assert selection.n_units == len(rows)
    assert selection.order().tolist() == list(range(6))


def test_the_name_is_the_expression_if_there_is_no_other():
    """A bare area needs to be written once."""
    assert POPULATION.select("LGd").mask.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("expression", ["ids:1,77,88", "ids:1|77|88", "unit:77,88,1"])
def test_unknown_ids_are_refused(expression):
    """A population that is not whole is refused with the ids that are not there."""
    with pytest.raises(UserError, match=r"2 units that are not among the 6 .* unit_id 77, 88"):
        POPULATION.select("mine", expression)


def test_unknown_names_beside_known_ones_are_refused():
    """Two quoted areas are both needed, as two ids are."""
    with pytest.raises(UserError, match=r"1 areas that are not among the \d .* area nowhere"):
        POPULATION.select("mine", 'area:"LGd"|"nowhere"')


@pytest.mark.parametrize(
    "expression",
    ["VISl", "area:PV", "probe:", "area:", "unit:", "ids:", "unit:99", "layer:4", "", "ALL"],
)
def test_nothing_selected_says_what_there_is(expression):
    """An expression that matches no unit is refused with what there is to choose from."""
    if expression in {"area:", "probe:", ""}:
        units = [Unit("1", "probeA", "VISp", "PV")]
        population = Population(units)
    else:
        population = POPULATION
    with pytest.raises(UserError) as caught:
        population.select("mine", expression)
    message = str(caught.value)
    assert repr(expression) in message
    assert f"{len(population)} units, areas VISp" in message
    assert "cell types PV" in message
    assert "cell_type:NAME" in message


def test_nothing_known_says_none():
    """A table without areas, cell types and probes says so."""
    with pytest.raises(UserError, match=r"areas \(none\), cell types \(none\), probes \(none\)"):
        Population([Unit("1")]).select("VISp")


def test_shuffled_is_the_same_wrong_order_for_ever():
    """The control hears every unit in a fixed wrong order; a change would change published runs."""
    selection = POPULATION.select("shuffled")
    assert selection.kind == "shuffled"
    assert selection.mask.all()
    assert selection.order().tolist() == [4, 5, 0, 2, 1, 3]
    assert np.array_equal(selection.order(), POPULATION.select("other", "shuffled").order())


@given(st.integers(2, 300))
def test_shuffled_leaves_no_unit_in_its_place(n_units):
    """Every unit's counts stand in exactly one row, and never in its own."""
    population = Population([Unit(str(k)) for k in range(n_units)])
    order = population.select("shuffled").order()
    assert sorted(order.tolist()) == list(range(n_units))
    assert not (order == np.arange(n_units)).any()


def test_one_unit_cannot_be_shuffled():
    """A single unit has no wrong place, so the control is refused."""
    with pytest.raises(UserError, match="shuffled needs two units or more, the population has 1"):
        Population([Unit("1")]).select("shuffled")


def test_silent_hears_nobody():
    """The other control masks every unit and leaves their order."""
    selection = POPULATION.select("silent")
    assert selection.kind == "silent"
    assert selection.n_units == 0
    assert selection.order().tolist() == list(range(6))
