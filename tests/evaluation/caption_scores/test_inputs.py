"""What is drawn together in the bootstrap, and which populations are narrated."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.population import Population, Unit
from evaluation.caption_scores.inputs import _bootstrap_groups, selections_of
from tests.support.tiny_bundle import tiny_population


def test_whichever_are_fewer_are_drawn():
    """A caption that lasts for three runs is one case; a run with three captions is one too."""
    run = np.array([0, 0, 1, 1, 2, 2])
    group, drawn = _bootstrap_groups(run, ["a"] * 5 + ["b"], "runs")
    assert (group.tolist(), drawn) == ([0, 0, 0, 0, 0, 1], "captions")
    group, drawn = _bootstrap_groups(run, list("abcdef"), "runs")
    assert (group.tolist(), drawn) == (run.tolist(), "runs")


def test_default_populations_are_all_areas_of_enough_units_and_controls():
    """An area of two units is left out; a control that is named stands at the end, once."""
    units = [*tiny_population().units, Unit("1", area="LP"), Unit("2", area="LP")]
    population = Population(units)
    names = [selection.name for selection in selections_of(population, "")]
    assert names == ["all", "area:CA1", "area:LGd", "area:VISp", "shuffled", "silent"]
    names = [selection.name for selection in selections_of(population, "silent, LP,LP")]
    assert names == ["LP", "shuffled", "silent"]
    with pytest.raises(UserError, match="no unit matches"):
        selections_of(population, "area:V9")


def test_one_unit_has_no_shuffled_control():
    """Nothing can be permuted; ``silent`` remains."""
    names = [selection.name for selection in selections_of(Population([Unit("1")]), "")]
    assert names == ["all", "silent"]
