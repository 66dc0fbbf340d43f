"""NWB 2 files made with h5py, sound or broken in one chosen way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.population import Unit

WRITER = """
import os, sys, h5py
file = h5py.File(sys.argv[1], "a", libver=sys.argv[2])
file.attrs["changed"] = 1
file.flush()
print("open", flush=True)
sys.stdin.read(1) or os._exit(1)
"""


def random_trains(
    n_units: int = 5, *, seconds: float = 3.0, seed: int = 0, start_s: float = 0.0
) -> list[NDArray[np.float64]]:
    """Return sorted trains of some tens of spikes each; the second one is empty."""
    rng = np.random.default_rng(seed)
    trains = [start_s + np.sort(rng.random(20 + 10 * row) * seconds) for row in range(n_units)]
    trains[1] = np.empty(0)
    return trains


def label_columns(units: Sequence[Unit]) -> dict[str, list[str]]:
    """Return the columns of a units table that label the units."""
    return {
        "location": [unit.area for unit in units],
        "probe": [unit.probe for unit in units],
        "cell_type": [unit.cell_type for unit in units],
    }


def write_units(
    path: Path,
    trains: Sequence[NDArray[np.float64]],
    *,
    ids: Sequence[int] | None = None,
    columns: dict[str, Any] | None = None,
    electrodes: dict[str, Any] | None = None,
    version: str = "2.6.0",
    **storage: Any,
) -> Path:
    """Write a units table; `storage` goes to h5py, such as ``chunks`` and ``compression``."""
    flat = np.concatenate(trains) if trains else np.empty(0)
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = version
        file["identifier"] = "test"
        units = file.create_group("units")
        units["id"] = np.arange(len(trains)) if ids is None else np.array(ids)
        units["spike_times_index"] = np.cumsum([len(train) for train in trains], dtype=np.int64)
        units.create_dataset("spike_times", data=flat, **storage)
        _write_columns(units, columns)
        if electrodes is not None:
            table = file.create_group("general/extracellular_ephys/electrodes")
            _write_columns(table, electrodes)
    return path


def write_presentations(path: Path, name: str, **columns: Any) -> None:
    """Add a table to a file's intervals."""
    with h5py.File(path, "a") as file:
        _write_columns(file.require_group("intervals").create_group(name), columns)


def write_kilosort(
    folder: Path,
    trains_of: Mapping[int, Sequence[int]],
    *,
    sample_rate: float | None = 30_000.0,
    groups: dict[int, str] | None = None,
) -> Path:
    """Write a Kilosort folder from the sample numbers of each cluster."""
    folder.mkdir()
    pairs = sorted((sample, unit) for unit, samples in trains_of.items() for sample in samples)
    np.save(folder / "spike_times.npy", np.array([[sample] for sample, _ in pairs], np.uint64))
    np.save(folder / "spike_clusters.npy", np.array([unit for _, unit in pairs], np.uint32))
    if sample_rate is not None:
        (folder / "params.py").write_text(
            f"dat_path = 'none.dat'\nn_channels_dat = 4\nsample_rate = {sample_rate}\n"
            "hp_filtered = True\n"
        )
    if groups is not None:
        lines = ["cluster_id\tgroup", *(f"{unit}\t{group}" for unit, group in groups.items())]
        (folder / "cluster_group.tsv").write_text("\n".join(lines) + "\n")
    return folder


@contextmanager
def writer(path: Path, libver: str) -> Iterator[None]:
    """Hold a file open for writing in another process, which ends without closing it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), libver],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        assert process.stdin is not None
        process.stdin.close()


def _write_columns(group: h5py.Group, columns: dict[str, Any] | None) -> None:
    for name, values in (columns or {}).items():
        is_text = len(values) and isinstance(values[0], str)
        dtype = h5py.string_dtype() if is_text else None
        group.create_dataset(name, data=values, dtype=dtype)
