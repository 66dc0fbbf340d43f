"""One small animal for all tests."""

import pytest

from simulation.cortex.drive import ResponseModel, build_response_model
from simulation.cortex.units import CortexUnits, draw_units


@pytest.fixture(scope="package")
def small_animal() -> CortexUnits:
    """Draw an animal of 240 units."""
    return draw_units(3, 240)


@pytest.fixture(scope="package")
def small_response(small_animal: CortexUnits) -> ResponseModel:
    """Build its filters and set its rates."""
    return build_response_model(small_animal)
