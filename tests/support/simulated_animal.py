"""The simulated animal, as far as a test needs it without a recording."""

import numpy as np

from contracts.population import Population, Unit
from simulation.cortex.units import CortexUnits, draw_units
from simulation.seeds import ANIMAL
from stream_sources.recordings.unit_filter import UnitTable, choose_units


def passing_units(units: CortexUnits) -> Population:
    """Return the units that ``--units allen`` lets through."""
    columns = zip(
        units.unit_id.tolist(), units.probe, units.area, units.cell_type, units.quality, strict=True
    )
    labels_of_units: list[tuple[str, str, str, str, str]] = [
        (str(unit_id), str(probe), str(area), str(cell_type), str(quality))
        for unit_id, probe, area, cell_type, quality in columns
    ]
    table = UnitTable(
        tuple(Unit(*labels) for labels in labels_of_units),
        {
            "amplitude_cutoff": units.amplitude_cutoff,
            "presence_ratio": units.presence_ratio,
            "isi_violations": units.isi_violations,
            "valid_data": np.ones(len(units)),  # no unit is on a broken channel
        },
    )
    rows = choose_units(table, "allen", None, path="simulated")
    return Population([table.units[row] for row in rows.tolist()])


def animal_population() -> Population:
    """Return the units that the shipped encoder takes."""
    return passing_units(draw_units(ANIMAL))
