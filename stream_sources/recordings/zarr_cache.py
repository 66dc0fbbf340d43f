"""The HDF5 copies of NWB in Zarr, kept in the cache: made once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.atomic_files import whole_file
from contracts.errors import RecordingError, listed
from stream_sources.recordings.nwb_zarr import SPIKE_TIMES, CopyPlan, plan_copy, write_copy
from stream_sources.recordings.remote_file import cache_problem
from stream_sources.recordings.zarr_store import ZarrStore

logger = logging.getLogger(__name__)

LAYOUT = 1
"""Raised when what is copied changes, so that no older copy is used."""


def copy_of(store: ZarrStore, cache_dir: Path, *, with_spikes: bool) -> Path:
    """Return an HDF5 file with what the reader needs of a Zarr, from the cache if it is there.

    A copy belongs to one state of the Zarr. One that lacks chunks is made anew each time.

    Raises
    ------
    RecordingError
        If the Zarr cannot be read, or the copy not be kept.
    """
    plan = plan_copy(store)
    for column, reason in plan.faults.items():
        logger.warning("part of the Zarr left out", extra={"column": column, "reason": reason})
    folder = cache_dir / "zarr"
    stem = hashlib.sha256(store.key.encode()).hexdigest()[:16]
    state = store.version([array.path for array in plan.arrays.values()])
    state = hashlib.sha256(f"{LAYOUT}|{state}".encode()).hexdigest()[:16]
    whole = folder / f"{stem}-{state}.h5"
    path = whole if with_spikes else whole.with_suffix(".tables.h5")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{stem}.lock"):
            if whole.exists():
                return whole
            if path.exists():
                return path
            for old in folder.glob(f"{stem}-*.h5"):
                if not old.name.startswith(f"{stem}-{state}"):
                    old.unlink()
            return _made(plan, path, with_spikes=with_spikes)
    except OSError as error:  # not of the Zarr, whose errors are RecordingError
        raise RecordingError(store.name, cache_problem(folder, error)) from error
    except ValueError as error:  # of h5py, such as a text that HDF5 does not hold
        raise RecordingError(store.name, f"it cannot be copied to HDF5: {error}") from error


def _made(plan: CopyPlan, path: Path, *, with_spikes: bool) -> Path:
    """Make a copy.

    Raises
    ------
    RecordingError
        If there is not enough room for it.
    """
    n_bytes = sum(
        array.n_bytes
        for target, array in plan.arrays.items()
        if with_spikes or target != SPIKE_TIMES
    )
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise RecordingError(
            plan.store.name,
            f"its tables have {n_bytes:,} bytes, and {free:,} are free in {path.parent}. Choose "
            "another folder with --cache-dir or XDG_CACHE_HOME.",
        )
    with whole_file(path) as partial:
        missing = write_copy(plan, partial, with_spikes=with_spikes)
    logger.info(
        "what is read of the Zarr was copied to HDF5",
        extra={"zarr": plan.store.name, "copy": str(path), "n_bytes": path.stat().st_size},
    )
    incomplete = path.with_name(f"{path.name.partition('-')[0]}.incomplete.h5")
    if not missing:
        incomplete.unlink(missing_ok=True)
        return path
    logger.warning(
        "chunks of the Zarr are missing or damaged",
        extra={"zarr": plan.store.name, "n": len(missing), "keys": listed(missing)},
    )
    return path.replace(incomplete)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make a copy, so that the others find it made."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
