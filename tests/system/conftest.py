"""What the system tests share: a bundle, and a recording of its units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.nwb_files import write_units
from tests.support.processes import DEADLINE_S
from tests.support.tiny_bundle import tiny_population

SECONDS = 20.0

LIMIT_S = 2 * DEADLINE_S
"""For a whole test. Processes start one after another, and most of them import large libraries."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder a limit that they keep on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_S))


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
