"""What all tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.threads import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Keep small arrays on one core."""
    with one_thread():
        yield
