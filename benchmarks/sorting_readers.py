"""Time, memory and results of SpikeInterface's reader of phy folders and of ours.

    python -m benchmarks.sorting_readers figures FOLDER [SPIKES]   (writes 1.2 GB at 10^8 spikes)
    python -m benchmarks.sorting_readers inputs FOLDER ...

Each reads the sample and the unit of each spike in a fresh process, imports included. ``inputs``
prints the rate, the number of spikes and the labels. The results are in decision 22.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SPIKES, UNITS, RATE_HZ = 100_000_000, 600, 30_000


def write_folder(folder: Path, n_spikes: int) -> Path:
    """Write a sorting of two hours whose units fire at random, with phy's tables."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    samples = np.linspace(0, 7200 * RATE_HZ, n_spikes).astype(np.int64)
    np.save(folder / "spike_times.npy", samples)
    np.save(folder / "spike_clusters.npy", rng.integers(0, UNITS, n_spikes, dtype=np.int32))
    (folder / "params.py").write_text(f"sample_rate = {RATE_HZ}.\n")
    for name, column in (("cluster_group.tsv", "group"), ("cluster_KSLabel.tsv", "KSLabel")):
        rows = "".join(f"{unit}\t{('good', 'mua')[unit % 2]}\n" for unit in range(UNITS))
        (folder / name).write_text(f"cluster_id\t{column}\n{rows}")
    return folder


def ours(folder: Path) -> tuple[float, int, Counter[str]]:
    """Read with our code."""
    from stream_sources.recordings.kilosort import read_kilosort

    output = read_kilosort(folder, None)
    return output.rate_hz, len(output.row), Counter(u.quality for u in output.units)


def read_phy(folder: Path) -> tuple[float, int, Counter[str]]:
    """Read with SpikeInterface, which runs ``params.py``."""
    from spikeinterface.extractors import read_phy as read

    warnings.simplefilter("ignore")
    sorting: Any = read(folder)
    labels = sorting.get_property("quality")
    if labels is None:
        labels = [""] * sorting.get_num_units()
    counted = Counter(str(label) for label in labels)
    return sorting.get_sampling_frequency(), len(sorting.to_spike_vector()), counted


def _measured(reader: Any, folder: Path, queue: Any) -> None:
    begin = time.perf_counter()
    try:
        found = reader(folder)
    except Exception as error:  # a refusal is a result
        found = f"{type(error).__name__}: {error}"
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    queue.put((time.perf_counter() - begin, memory_gb, found))


def main() -> None:
    """Run the command line."""
    what, first, *rest = sys.argv[1:]
    if what == "figures":
        folders = [write_folder(Path(first), int(rest[0]) if rest else SPIKES)]
    else:
        folders = [Path(first), *map(Path, rest)]
    context = multiprocessing.get_context("spawn")
    for folder in folders:
        for reader in (ours, read_phy):
            queue = context.Queue()
            process = context.Process(target=_measured, args=(reader, folder, queue))
            process.start()
            wall_s, memory_gb, found = queue.get()
            process.join()
            cost = f"{wall_s:.1f} s, {memory_gb:.1f} GB: " if what == "figures" else ""
            sys.stdout.write(f"{folder.name} {reader.__name__}: {cost}{found}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
