"""What would not fit in the memory is refused before it is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from contracts.errors import SettingsError
from contracts.manifest import MAX_ENCODER_BATCH, Manifest
from contracts.population import Selection
from contracts.window import WindowSpec
from daemon.bin_ring import BinRing
from daemon.service.settings import Settings

BYTES_PER_COUNT = 2
"""The ring holds uint16."""

BYTES_PER_FLOAT = 4
"""Patches and what the encoder is given are float32."""

MAX_SHARE = 0.25
"""Of the machine's memory: the narrator's model needs the rest more."""

WINDOWS_BESIDE = 2
"""Windows that have patches beside those that wait: one is encoded, and one is narrated."""


def make_ring(spec: WindowSpec, n_units: int, capacity_bins: int) -> BinRing:
    """Make the ring, unless it would take the machine's memory.

    Raises
    ------
    SettingsError
        If it is larger than a quarter of it, with its size.
    """
    size_bytes = (capacity_bins + spec.n_bins) * n_units * BYTES_PER_COUNT
    too_large = SettingsError(
        [
            f"ring.capacity_s must fit in a quarter of the memory, {capacity_bins:,} bins of "
            f"{n_units:,} units are {size_bytes:,} bytes. Use a smaller one"
        ]
    )
    if size_bytes > _limit_bytes():
        raise too_large
    try:
        return BinRing(spec.rate, n_units, capacity_bins=capacity_bins, window_bins=spec.n_bins)
    except MemoryError as error:  # a process may be limited to less than the machine has
        raise too_large from error


def check_populations(settings: Settings, manifest: Manifest, chosen: Sequence[Selection]) -> None:
    """Refuse populations whose patches would take the machine's memory.

    Raises
    ------
    SettingsError
        If they are larger than a quarter of it, with their size.
    """
    is_sequential, keeps_all = settings.is_sequential, settings.encodes_every_window
    n_waiting = settings.handover.capacity if keeps_all else 1
    n_windows = (0 if is_sequential else n_waiting) + WINDOWS_BESIDE
    grid, n_bins = manifest.patch_grid, manifest.window_spec.n_bins
    n_chosen, n_units = len(chosen), len(manifest.population)
    n_at_once = n_chosen if keeps_all else min(n_chosen, settings.handover.populations)
    patch_bytes = n_at_once * grid.n_patches * grid.dim * BYTES_PER_FLOAT
    # Counts and mask of the largest batch, of all populations and of each turn, and the mask of
    # each population.
    n_turns = math.ceil(n_chosen / n_at_once) if n_at_once < n_chosen else 0
    n_rows = min(n_chosen, MAX_ENCODER_BATCH) + n_turns * min(n_at_once, MAX_ENCODER_BATCH)
    input_bytes = (n_rows * (n_bins + 1) + n_chosen) * n_units * BYTES_PER_FLOAT
    size_bytes = n_windows * patch_bytes + input_bytes
    if size_bytes <= _limit_bytes():
        return
    setting = "handover.capacity" if keeps_all else "handover.populations"
    remedy = "fewer" if is_sequential else f"fewer or a smaller {setting}"
    raise SettingsError(
        [
            f"populations must fit in a quarter of the memory, {_gb(_limit_bytes())}: the patches "
            f"of one window through {n_at_once:,} of them are {_gb(patch_bytes)}, up to "
            f"{n_windows} windows are held at once, and the encoder's input takes "
            f"{_gb(input_bytes)}; {_gb(size_bytes)} in all. Use {remedy}"
        ]
    )


def _limit_bytes() -> int:
    return int(MAX_SHARE * memory_bytes())


def memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB"
