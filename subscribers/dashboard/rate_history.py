"""An hour of rates, as tiles of a minute. No socket.

A *column* is a tenth of a second of the axis: one byte for each population and each unit. The byte
is a *level*, 16 times the square root of the spikes a second, so that a change looks as large at a
low rate as at a high one (the root makes the variance of counts the same); `NO_DATA` where nothing
is known. A *tile* is 600 columns, one after another. Tiles that are full are kept compressed: an
hour of 600 units takes some 10 MB, of 3,000 units 50 MB.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLUMNS_PER_S = 10
TILE_COLUMNS = 600
TILE_S = TILE_COLUMNS / COLUMNS_PER_S
MAX_TILES = 62
"""An hour, and the two minutes that are under way."""

MAX_BYTES = 128 << 20

STEP = 10
"""Columns that are one in the tiles of the overview."""

LEVELS_PER_ROOT_HZ = 16.0
NO_DATA = 255
MAX_LEVEL = 254

COMPRESSION = 1

Levels = NDArray[np.uint8]


def levels_of(hz: NDArray[np.float64]) -> Levels:
    """Return the level of each rate; NaN is no data."""
    with np.errstate(invalid="ignore"):
        levels = np.minimum(np.rint(LEVELS_PER_ROOT_HZ * np.sqrt(hz)), MAX_LEVEL)
    return np.where(np.isnan(hz), NO_DATA, levels).astype(np.uint8)


class RateHistory:
    """Columns of `n_rows` levels each, in tiles."""

    def __init__(self, n_rows: int, *, max_bytes: int = MAX_BYTES) -> None:
        self.n_rows = n_rows
        self.n_bytes = 0
        self._max_bytes = max_bytes
        self._open: dict[int, Levels] = {}
        # By tile, the oldest first: compressed, and likewise the overview's.
        self._closed: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()

    def add(self, start_x: float, stop_x: float, levels: Levels) -> None:
        """Put one column, or where an interval is longer several equal ones, in their tiles."""
        first = round(start_x * COLUMNS_PER_S)
        stop = max(first + 1, round(stop_x * COLUMNS_PER_S))
        for column in range(max(first, stop - TILE_COLUMNS), stop):
            number, at = divmod(column, TILE_COLUMNS)
            if number not in self._open:
                self._open[number] = self._opened(number)
            self._open[number][at] = levels
        for number in sorted(self._open)[:-2]:
            self._close(number)

    def tile(self, number: int, *, is_overview: bool = False) -> bytes | None:
        """Return a tile compressed with zlib, shape (columns, rows); None if there is none."""
        if number in self._open:
            tile = self._open[number]
            return _packed(_overview(tile) if is_overview else tile)
        packed = self._closed.get(number)
        return None if packed is None else packed[is_overview]

    @property
    def numbers(self) -> Sequence[int]:
        """The tiles that there are, oldest first."""
        return sorted({*self._closed, *self._open})

    def _opened(self, number: int) -> Levels:
        """Return a tile that can be written to: a new one, or one that was closed."""
        if number not in self._closed:
            return np.full((TILE_COLUMNS, self.n_rows), NO_DATA, dtype=np.uint8)
        packed = self._closed.pop(number)
        self.n_bytes -= sum(map(len, packed))
        levels = np.frombuffer(zlib.decompress(packed[0]), dtype=np.uint8)
        return levels.reshape(TILE_COLUMNS, self.n_rows).copy()

    def _close(self, number: int) -> None:
        tile = self._open.pop(number)
        packed = (_packed(tile), _packed(_overview(tile)))
        self._closed[number] = packed
        self.n_bytes += sum(map(len, packed))
        while len(self._closed) > MAX_TILES - 2 or self.n_bytes > self._max_bytes:
            _, dropped = self._closed.popitem(last=False)
            self.n_bytes -= sum(map(len, dropped))


def _packed(levels: Levels) -> bytes:
    return zlib.compress(levels.tobytes(), COMPRESSION)


def _overview(tile: Levels) -> Levels:
    """Return the mean of every `STEP` columns, of those that have data."""
    by_step = tile.reshape(TILE_COLUMNS // STEP, STEP, -1)
    is_known = by_step != NO_DATA
    n_known = is_known.sum(axis=1)
    sums = np.where(is_known, by_step, 0).sum(axis=1, dtype=np.uint32)
    means = sums // np.maximum(n_known, 1)
    return np.where(n_known > 0, means, NO_DATA).astype(np.uint8)
