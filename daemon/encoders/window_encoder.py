"""Windows through every selection of units, as batches of one compiled graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError
from contracts.manifest import MAX_ENCODER_BATCH, Manifest
from contracts.population import Selection
from contracts.window import Window
from daemon.encoders.protocol import Graph

MAX_TIMED_RUNS = 5
"""Of which the median is taken."""


class WindowEncoder:
    """Counts to patch grids, through every selection, as one batch.

    The graph is the bundle's, on a device that `daemon.encoders.auto` chooses.

    Raises
    ------
    MisuseError
        If a selection is of another population.
    """

    def __init__(self, manifest: Manifest, selections: Sequence[Selection], graph: Graph) -> None:
        self._manifest = manifest
        self._selections = tuple(selections)
        self._graph = graph
        self._grid = manifest.patch_grid
        n_bins, n_units = manifest.window_spec.n_bins, len(manifest.population)
        wrong = [item.name for item in self._selections if item.mask.shape != (n_units,)]
        if wrong:
            raise MisuseError(f"selections must have a mask of {n_units} units; not so: {wrong}")
        self._masks = [selection.mask.astype(np.float32) for selection in self._selections]
        self._shuffles = [
            _Shuffle.of(manifest, selection.order()) if selection.kind == "shuffled" else None
            for selection in self._selections
        ]
        # The operating system allocates only the pages that the largest batch touches.
        self._counts: NDArray[np.float32] = np.empty(
            (MAX_ENCODER_BATCH, n_bins, n_units), np.float32
        )
        self._mask: NDArray[np.float32] = np.empty((MAX_ENCODER_BATCH, n_units), np.float32)
        self._warm_up()

    @property
    def manifest(self) -> Manifest:
        """Of its bundle."""
        return self._manifest

    @property
    def selections(self) -> Sequence[Selection]:
        """The populations to narrate, in the order of the embeddings."""
        return self._selections

    @property
    def device(self) -> str:
        """Where it runs, for display."""
        return self._graph.device

    @property
    def is_on_cpu(self) -> bool:
        """Whether it runs on the CPU, where a larger batch gains nothing."""
        return self._graph.device.startswith("CPU")

    def encode(self, windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        """Encode each window through each selection, in that order.

        Called on the fast loop. Windows times selections run as one batch, or as several of 64.
        Windows are cut by the bundle's `WindowSpec`, but for the stride.

        Raises
        ------
        MisuseError
            If a window has another shape.
        """
        expected = self._counts.shape[1:]
        for window in windows:
            if window.counts.shape != expected:
                raise MisuseError(
                    f"the encoder takes windows of shape {expected}, got {window.counts.shape}"
                )
        return self._encode_pairs(list(product(windows, range(len(self._selections)))))

    def part(self, names: Collection[str]) -> WindowEncoder:
        """Return an encoder of the named populations, with the same graph and in the same order."""
        chosen = [selection for selection in self._selections if selection.name in names]
        return WindowEncoder(self._manifest, chosen, self._graph)

    def time_window(self, budget_s: float) -> float:
        """Measure how long one window takes through every selection, in seconds; 0 without any.

        A window of zeros is encoded several times; the median counts. Where all selections would
        take longer than `budget_s`, it is scaled up from as many as do not, at least one.
        """
        n = len(self._selections)
        if not n:
            return 0.0
        shape = self._counts.shape[1:]
        window = Window(self._manifest.window_spec, 0, np.zeros(shape, np.uint16))
        pairs = [(window, which) for which in range(n)]
        until_s = time.perf_counter() + budget_s
        n_timed, runs_s = 1, list[float]()
        while True:
            began_s = time.perf_counter()
            self._encode_pairs(pairs[:n_timed])
            now_s = time.perf_counter()
            runs_s.append(now_s - began_s)
            n_next = min(2 * n_timed, n)
            if n_next > n_timed and now_s + runs_s[-1] * n_next / n_timed < until_s:
                n_timed, runs_s = n_next, []
            elif len(runs_s) == MAX_TIMED_RUNS or now_s + runs_s[-1] > until_s:
                return statistics.median(runs_s) * n / n_timed

    def _warm_up(self) -> None:
        """Encode zeros once: the first run allocates memory and chooses kernels, which is slow."""
        n = min(len(self._selections), MAX_ENCODER_BATCH)
        self._counts[:n], self._mask[:n] = 0, 0
        if n:
            self._graph.run(self._counts[:n], self._mask[:n])

    def _encode_pairs(self, pairs: Sequence[tuple[Window, int]]) -> list[PatchEmbedding]:
        embeddings: list[PatchEmbedding] = []
        for first in range(0, len(pairs), MAX_ENCODER_BATCH):
            embeddings += self._encode_batch(pairs[first : first + MAX_ENCODER_BATCH])
        return embeddings

    def _encode_batch(self, pairs: Sequence[tuple[Window, int]]) -> list[PatchEmbedding]:
        n = len(pairs)
        for row, (window, which) in enumerate(pairs):
            shuffle = self._shuffles[which]
            self._counts[row] = shuffle.apply(window.counts) if shuffle else window.counts
            self._mask[row] = self._masks[which]
            if window.absent_units is not None:
                # A shuffled row holds another unit's spikes, and is absent with that unit.
                order = shuffle.order if shuffle else slice(None)
                self._mask[row, window.absent_units[order]] = 0
        grids = self._graph.run(self._counts[:n], self._mask[:n])
        encoded_host_ns = time.monotonic_ns()
        return [
            PatchEmbedding(
                window=window,
                population=self._selections[which].name,
                n_units=self._selections[which].n_units,
                grid=self._grid,
                patches=patches,
                encoded_host_ns=encoded_host_ns,
                n_absent=self._n_absent(window, which),
            )
            for (window, which), patches in zip(pairs, grids, strict=True)
        ]

    def _n_absent(self, window: Window, which: int) -> int:
        if window.absent_units is None:
            return 0
        selection = self._selections[which]
        return int(np.count_nonzero(selection.mask & window.absent_units))


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """Counts that give each unit the z-scores of another one.

    The graph z-scores counts with the mean and standard deviation of the row they are in. A fair
    control gives the network every unit's z-scores in other rows, rather than counts that are far
    from any that the row's unit ever has.
    """

    order: NDArray[np.intp]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def of(cls, manifest: Manifest, order: NDArray[np.intp]) -> _Shuffle:
        mean, std = manifest.unit_mean, manifest.unit_std
        scale = std / std[order]
        return cls(order, scale, mean - mean[order] * scale)

    def apply(self, counts: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return mean + std * z[order], row by row; shape (n_bins, n_units)."""
        return counts[:, self.order] * self.scale + self.offset
