"""A window: the consecutive bins that the encoder sees at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.errors import MisuseError

MAX_WINDOW_BINS = 100_000
"""Bins in one window: 13 minutes at 120 Hz, far beyond any response."""


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """How the grid is cut: belongs to the encoder, travels in the bundle's manifest.

    Attributes
    ----------
    stride_bins : int
        Bins between the starts of two windows. Windows start at multiples of it on the absolute
        grid, so that a daemon that joins late cuts the same windows.
    lag_ns : int
        A window that ends at t describes the frame shown at ``t - lag``; retina to cortex.
    """

    rate: BinRate
    n_bins: int
    stride_bins: int
    lag_ns: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_bins <= MAX_WINDOW_BINS:
            raise MisuseError(f"n_bins must be 1 to {MAX_WINDOW_BINS:,}, got {self.n_bins}")
        if not 1 <= self.stride_bins <= MAX_WINDOW_BINS:
            raise MisuseError(
                f"stride_bins must be 1 to {MAX_WINDOW_BINS:,}, got {self.stride_bins}"
            )

    @property
    def duration_s(self) -> float:
        """Length of a window in seconds."""
        return self.n_bins / self.rate.bins_per_s

    @property
    def stride_s(self) -> float:
        """Seconds between two windows."""
        return self.stride_bins / self.rate.bins_per_s

    def first_start_at_or_after(self, bin_index: int) -> int:
        """Return the first bin at which a window may start, from `bin_index` on."""
        return -(-bin_index // self.stride_bins) * self.stride_bins


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A finished window: no spike that arrives later will change it.

    Attributes
    ----------
    first_bin : int
        Its first bin on the absolute grid.
    counts : array, shape (n_bins, n_units), uint16, spikes per bin
        Time first. A read-only view of the ring, good until the ring has moved on by its
        capacity less one window; `detached` copies it.
    absent_units : array, shape (n_units,), bool, or None
        Units that no stream sends, to be held at their mean; None if there are none.
    n_gap_bins : int
        Bins that at least one live stream did not cover: lost messages or a pause.
    newest_received_host_ns, complete_host_ns : int
        When the batch that finished it arrived, and when it was cut. Host clock.
    """

    spec: WindowSpec
    first_bin: int
    counts: NDArray[np.uint16]
    n_gap_bins: int = 0
    blind_streams: tuple[str, ...] = ()
    absent_units: NDArray[np.bool_] | None = None
    newest_received_host_ns: int = 0
    complete_host_ns: int = 0

    @property
    def seq(self) -> int:
        """Number of this window on the grid; the same in every replay of the session."""
        return self.first_bin // self.spec.stride_bins

    @property
    def start_ns(self) -> int:
        """First nanosecond of the window, session clock."""
        return self.spec.rate.start_ns(self.first_bin)

    @property
    def stop_ns(self) -> int:
        """First nanosecond after the window, session clock."""
        return self.spec.rate.start_ns(self.first_bin + self.spec.n_bins)

    @property
    def frame_ns(self) -> int:
        """When the frame that this window describes was on the screen, session clock."""
        return self.stop_ns - self.spec.lag_ns

    def detached(self) -> Window:
        """Return the same window with counts of its own, to be kept while the ring moves on."""
        return replace(self, counts=self.counts.copy())
