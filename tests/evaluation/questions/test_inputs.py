"""What the page says of areas and cell types that are not there, or too small."""

from __future__ import annotations

from contracts.population import Population, Unit
from evaluation.questions.inputs import label_notes


def test_what_is_too_small_or_has_no_label_is_named():
    """A small area is left out by name; units without cell types say so, with areas nothing."""
    areas = ["VISp"] * 3 + ["ProS"]
    population = Population([Unit(str(at), area=area) for at, area in enumerate(areas)])
    small, no_types = label_notes(population, ["all", "area:VISp"])
    assert small == "left out, with fewer than 3 units: area:ProS (1)"
    assert no_types.startswith("no unit has a cell type")


def test_a_fully_labelled_population_needs_no_note():
    """Nothing is left out, and both labels are there."""
    units = [Unit(str(at), area="VISp", cell_type="PV") for at in range(3)]
    assert label_notes(Population(units), ["all", "area:VISp", "cell_type:PV"]) == []
