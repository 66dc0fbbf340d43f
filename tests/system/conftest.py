"""What the system tests share: a bundle, and a recording of its units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.nwb_files import write_units
from tests.support.tiny_bundle import tiny_population

SECONDS = 20.0


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of the units that `tiny_bundle` expects: 12 units, 1,200 spikes."""
    rng = np.random.default_rng(0)
    units = tiny_population().units
    trains = [np.sort(rng.random(100) * SECONDS) for _ in units]
    return write_units(
        tmp_path_factory.mktemp("recording") / "session.nwb",
        trains,
        ids=[int(unit.unit_id) for unit in units],
        columns={
            "location": [unit.area for unit in units],
            "probe": [unit.probe for unit in units],
            "cell_type": [unit.cell_type for unit in units],
        },
    )
