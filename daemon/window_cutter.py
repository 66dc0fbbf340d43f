"""Yields each window once all its bins are complete. No socket, no waiting.

Theory of operation
-------------------
Windows start at multiples of the stride on the absolute grid, from the first bin that every stream
has covered, and leave when the watermark has passed their end. Data time alone decides, so that a
replay at any speed, cut into any batches, yields the same windows, with the same numbers, as the
training set.

The cutter only remembers where its next window starts. It never waits for a bin: what the ring
has lost, or no stream saw, is skipped and counted.

Invariants (``tests/daemon/test_window_cutter.py``):

1. Each window of the grid leaves once, in order, or is counted as skipped:
   ``test_every_window_leaves_once_or_is_counted``
2. A window that no live stream saw at all is skipped: ``test_unseen_windows_are_skipped``
"""

from __future__ import annotations

from collections.abc import Iterator

from contracts.clock import Clock
from contracts.window import Window, WindowSpec
from daemon.bin_ring import BinRing


class WindowCutter:
    """Cuts the complete windows out of a ring.

    Its clock gives the stamp "window complete" and decides nothing.
    """

    def __init__(self, spec: WindowSpec, clock: Clock) -> None:
        self.spec = spec
        self.n_unseen = 0  # skipped: no live stream covered any of their bins
        self.n_overrun = 0  # skipped: the ring had lost some of their bins
        self._clock = clock
        self._next_bin: int | None = None
        self._generation = 0

    def is_due(self, ring: BinRing) -> bool:
        """Whether `ready` has something to do: most batches complete no window."""
        return (
            self._next_bin is None
            or ring.generation != self._generation
            or self._next_bin + self.spec.n_bins <= ring.complete_until
        )

    def ready(self, ring: BinRing, *, received_host_ns: int = 0) -> Iterator[Window]:
        """Yield the windows that have become complete.

        Called on the fast loop after every `BinRing.add`; must not block. The windows are views
        of the ring. `received_host_ns` is when the newest batch arrived.
        """
        # A restarted session has its own beginning, which may lie before the old end.
        if ring.generation != self._generation:
            self._generation, self._next_bin = ring.generation, None
        if ring.begin_bin is None:
            return
        if self._next_bin is None:
            # On the grid's multiples, not at the first bin: a daemon that joins in the middle
            # of a session cuts the windows that the training set has.
            self._next_bin = self.spec.first_start_at_or_after(ring.begin_bin)
        self._skip_lost(ring)
        while self._next_bin + self.spec.n_bins <= ring.complete_until:
            first_bin = self._next_bin
            self._next_bin += self.spec.stride_bins
            n_gap_bins, is_unseen = ring.gaps(first_bin, self.spec.n_bins)
            if is_unseen:
                # Zero counts that nobody measured look like a silent brain, so they are not
                # encoded. A window with some gaps is, and says how many.
                self.n_unseen += 1
                continue
            yield Window(
                spec=self.spec,
                first_bin=first_bin,
                counts=ring.counts(first_bin, self.spec.n_bins),
                n_gap_bins=n_gap_bins,
                blind_streams=ring.blind_streams,
                newest_received_host_ns=received_host_ns,
                complete_host_ns=self._clock.now_ns(),
            )

    def _skip_lost(self, ring: BinRing) -> None:
        """Continue with the first window that the ring still holds whole."""
        if self._next_bin is None or self._next_bin >= ring.oldest_bin:
            return
        # The number of skipped windows follows from the grid: none of them is looked at.
        first_held = self.spec.first_start_at_or_after(ring.oldest_bin)
        self.n_overrun += (first_held - self._next_bin) // self.spec.stride_bins
        self._next_bin = first_held
