"""What the system tests share: a recording of the tiny bundle's units, and a larger bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.manifest import Manifest, load_manifest
from contracts.window import WindowSpec
from tests.support.nwb_files import label_columns, write_units
from tests.support.once import made_once
from tests.support.processes import DEADLINE_S
from tests.support.simulated_animal import animal_population
from tests.support.tiny_bundle import TINY_GRID, shallow_encoders, tiny_population

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
        columns=label_columns(units),
    )


@pytest.fixture(scope="session")
def animal_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_llava: Path) -> Manifest:
    """Return a bundle for the units of the simulated animal that has learned nothing."""

    @shallow_encoders()
    def make(folder: Path) -> None:
        from encoder_export.random_bundle import make_random_bundle

        population = animal_population()
        make_random_bundle(
            folder,
            population=population,
            unit_mean=np.full(len(population), 0.05),
            unit_std=np.full(len(population), 0.22),
            window=WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=60, lag_ns=100_000_000),
            grid=TINY_GRID,
            language_model_id=str(tiny_llava),
            recording_label="tests",
            command="tests/system/conftest.py",
        )

    return load_manifest(made_once(tmp_path_factory, "animal_bundle", make))
