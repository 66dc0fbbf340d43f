"""The units that a rehearsal plants, and where."""

from __future__ import annotations

from collections import Counter

import numpy as np

from evaluation.rehearsal.world import AREAS_UP, QUICK, choose_units
from simulation.cortex.units import draw_units
from simulation.seeds import ANIMAL
from simulation.voltages import plant_units


def test_units_are_those_of_the_animal_in_the_order_of_the_probe():
    """From the tip up: thalamus, hippocampus, cortex; each unit once, and all its columns."""
    animal = draw_units(ANIMAL)
    chosen = choose_units(animal, 20, seed=3)
    assert Counter(chosen.area.tolist()) == {"LGd": 6, "CA1": 2, "VISp": 12}
    assert list(dict.fromkeys(chosen.area.tolist())) == list(AREAS_UP)
    assert len(set(chosen.unit_id.tolist())) == 20
    rows = np.searchsorted(animal.unit_id, chosen.unit_id)
    assert np.array_equal(chosen.rate_hz, animal.rate_hz[rows])
    assert np.array_equal(chosen.x_px, animal.x_px[rows])


def test_the_same_seed_plants_the_same_neurons():
    """Deepest first, beside the channels of the probe."""
    first = plant_units(QUICK.n_units, QUICK.n_channels, seed=2)
    again = plant_units(QUICK.n_units, QUICK.n_channels, seed=2)
    other = plant_units(QUICK.n_units, QUICK.n_channels, seed=3)
    assert np.array_equal(first.positions_um, again.positions_um)
    assert not np.array_equal(first.positions_um, other.positions_um)
    assert (np.diff(first.positions_um[:, 1]) >= 0).all()
    assert first.channel_positions_um.shape == (QUICK.n_channels, 2)
