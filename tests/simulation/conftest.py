"""One small animal for all tests, and one thread: pools of threads wait for each other."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from simulation.cortex.drive import ResponseModel, build_response_model
from simulation.cortex.units import CortexUnits, draw_units


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch and BLAS to one thread while the tests of this folder run."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="package")
def small_animal() -> CortexUnits:
    """Draw an animal of 240 units."""
    return draw_units(3, 240)


@pytest.fixture(scope="package")
def small_response(small_animal: CortexUnits) -> ResponseModel:
    """Build its filters and set its rates."""
    return build_response_model(small_animal)
