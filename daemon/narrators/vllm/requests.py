"""Turns patches into requests, one population after the other in a thread, equal ones once.

So the first request is on its way to a server while the second is being made: torch does most of
its work without Python's lock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from daemon.narrators.vllm import chat
from daemon.narrators.vllm.projector import Projector


class NotNumbersError(Exception):
    """The projected patches are not all numbers; a server might not survive them."""


class RequestMaker:
    """Makes a request from the patches of one population."""

    def __init__(
        self, projector: Projector, *, model: str, prompt: str, max_new_tokens: int
    ) -> None:
        self._projector = projector
        self._model = model
        self._prompt = prompt
        self._max_new_tokens = max_new_tokens

    def __call__(self, grid: NDArray[np.float32]) -> chat.RequestBody:
        """Project patches, (n_patches, dim), and return the request.

        Raises
        ------
        NotNumbersError
            If the projected patches are not all finite.
        """
        tokens = self._projector.project(grid[None])[0]
        # A NaN is both minimum and maximum. On a CPU this takes 0.3 ms, isfinite 8 ms and more.
        if not all(math.isfinite(extreme) for extreme in tokens.aminmax()):
            raise NotNumbersError(
                "the projected patches are not numbers; use narrator.dtype float32 or bfloat16"
            )
        return chat.completion_request(
            tokens, model=self._model, prompt=self._prompt, max_new_tokens=self._max_new_tokens
        )


class SharedRequest:
    """A request that is made in a thread when it is first needed."""

    def __init__(self, make: Callable[[], chat.RequestBody], thread: Executor) -> None:
        self._make = make
        self._thread = thread
        self._future: asyncio.Future[chat.RequestBody] | None = None

    async def body(self) -> chat.RequestBody:
        """Return its body; raise what making it raised."""
        if self._future is None:
            self._future = asyncio.get_running_loop().run_in_executor(self._thread, self._make)
        return await asyncio.shield(self._future)  # others may wait for it when one is cancelled


def first_equals(grids: Sequence[NDArray[np.float32]]) -> Iterator[int]:
    """Yield for each grid the index of an equal one before it, or its own.

    It is compared with the first that has the same first row alone, so that different grids take
    microseconds. A missed one costs its encoding.
    """
    firsts: dict[bytes, int] = {}
    for index, grid in enumerate(grids):
        first = firsts.setdefault(grid[0].tobytes(), index)
        is_equal = first == index or np.array_equal(grid, grids[first])
        yield first if is_equal else index
