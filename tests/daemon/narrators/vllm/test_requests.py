"""Requests are made one after the other in a thread, and equal ones once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch

from daemon.narrators.vllm import chat
from daemon.narrators.vllm.projector import Projector
from daemon.narrators.vllm.requests import (
    NotNumbersError,
    RequestMaker,
    SharedRequest,
    first_equals,
)

BODY = chat.RequestBody(b"{", memoryview(b""), b"}")


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """Return a thread for requests, which is ended."""
    with ThreadPoolExecutor(1) as made:
        yield made


def maker(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> RequestMaker:
    """Return one whose projector multiplies by a number."""

    class Scaler:
        def project(self, grids: Any) -> torch.Tensor:
            return (scale * torch.from_numpy(grids)).to(dtype)

    return RequestMaker(cast("Projector", Scaler()), model="m", prompt="<image>", max_new_tokens=7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_a_number_makes_no_request(value, dtype):
    """One number of all is enough, whichever it is."""
    grid = np.ones((3, 4), np.float32)
    assert len(maker(dtype)(grid)) > 0
    grid[1, 2] = value
    with pytest.raises(NotNumbersError, match="not numbers"):
        maker(dtype)(grid)


def test_what_is_too_large_for_its_format_makes_no_request():
    """Patches that are numbers may not be so once they are projected."""
    with pytest.raises(NotNumbersError, match="not numbers"):
        maker(torch.float16, scale=1e6)(np.ones((3, 4), np.float32))


def test_equal_grids_are_found():
    """Equal in the first row is not equal; a grid that is no numbers equals none."""
    one, other = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    other[1, 2] = 1
    broken = np.full((2, 3), np.nan, np.float32)
    grids = [one, other, one.copy(), other.copy(), broken, broken.copy()]
    assert list(first_equals(grids)) == [0, 1, 0, 3, 4, 5]


def test_a_request_is_made_once_for_all_who_wait(thread):
    """One who waits no more takes it from nobody else."""
    n_made = 0

    def make() -> chat.RequestBody:
        nonlocal n_made
        n_made += 1
        return BODY

    async def three() -> list[Any]:
        shared = SharedRequest(make, thread)
        waiting = [asyncio.ensure_future(shared.body()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    cancelled, *bodies = asyncio.run(three())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert bodies == [BODY, BODY]
    assert n_made == 1
