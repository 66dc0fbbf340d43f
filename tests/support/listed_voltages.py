"""Voltages from a list of chunks, so that a test decides how they are cut and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.spikes import Mark
from stream_sources.rigs.voltages import ProbeLayout, VoltageChunk
from stream_sources.source import new_run


class ListedVoltages:
    """A `VoltageSource` that gives what it was made with, at once."""

    def __init__(
        self,
        layout: ProbeLayout,
        items: Sequence[VoltageChunk | Mark | None],
        rate_hz: float = 30_000.0,
    ) -> None:
        self.label = "listed:test"
        self.layout = layout
        self.rate_hz = rate_hz
        self.n_samples: int | None = None
        self.session_start_utc = ""
        self.n_closed = 0
        self._items = items

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield the items, unless it was closed."""
        for item in self._items:
            if self.n_closed:
                return
            yield item

    def close(self) -> None:
        """Count."""
        self.n_closed += 1


def cut(
    voltages_uv: NDArray[np.float32], lengths: Sequence[int], *, run: str = "", first: int = 0
) -> list[VoltageChunk]:
    """Cut samples into chunks of these lengths, again and again until the end."""
    run = run or new_run()
    chunks, start, turn = [], 0, 0
    while start < len(voltages_uv):
        stop = start + lengths[turn % len(lengths)]
        chunks.append(VoltageChunk(run, first + start, voltages_uv[start:stop]))
        start, turn = stop, turn + 1
    return chunks
