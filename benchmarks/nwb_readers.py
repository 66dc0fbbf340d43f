"""Time pynwb, SpikeInterface and this reader on a large session, and compare what each reads.

    python -m benchmarks.nwb_readers figures LAYOUT.nwb FOLDER     (writes 1.4 GB to FOLDER)
    python -m benchmarks.nwb_readers inputs FILE.nwb ...

``figures`` enlarges a session of the Allen layout, such as ``neurrate simulate session`` writes, to
2,000 units and 87 million spikes, and times each reader in a fresh process: its imports, then the
file opened and the same columns read: ids, qualities and areas of the units, start, stop and frame
of each presentation. By URL each request waits 30 ms and no cache is kept. ``inputs`` prints what
each reader reads from small files. The results are in docs/decisions/0021-reading-nwb.md.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np

UNITS, SPIKES = 2_000, 87_000_000
PRESENTATION_ROWS = 18_000
REQUEST_S = 0.03


def enlarge(layout: Path, target: Path) -> None:
    """Repeat the rows of a session's units and presentations; spikes are uniform in time."""
    shutil.copy(layout, target)
    with h5py.File(target, "a") as file:
        units = file["units"]
        n_units = len(units["id"])
        n_each = SPIKES // UNITS
        for name, column in list(units.items()):
            index = units.get(f"{name}_index")
            if name in {"spike_times", "spike_amplitudes"}:
                values = np.tile(np.arange(n_each) * 0.2, UNITS)
            elif name in {"spike_times_index", "spike_amplitudes_index"}:
                values = (np.arange(UNITS) + 1) * n_each
            elif name == "id":
                values = np.arange(UNITS) + 950_000_000
            elif name.endswith("_index") and name.removesuffix("_index") in units:
                per_unit = len(units[name.removesuffix("_index")]) // UNITS
                values = (np.arange(UNITS) + 1) * per_unit
            else:
                values = _repeated(column, UNITS * (len(column) // n_units if index else 1))
            _replace(units, name, values)
        _point_to_new_targets(units)
        for table in file["intervals"].values():
            if len(table["id"]) < PRESENTATION_ROWS // 20:
                continue
            for name, column in list(table.items()):
                _replace(table, name, _repeated(column, PRESENTATION_ROWS))
            _point_to_new_targets(table)


def ours(path: str) -> dict[str, Any]:
    """Read the tables, check all spikes and map them."""
    from stream_sources.recordings.nwb import NwbSource
    from stream_sources.recordings.recording import describe

    with TemporaryDirectory() as cache:
        summary = describe(NwbSource(path, cache_dir=cache))
    return {
        "units": summary.n_units,
        "spikes": summary.n_spikes,
        "areas": summary.areas,
        "quality": summary.qualities,
        "shown": summary.presentations,
    }


def ours_tables(path: str) -> dict[str, Any]:
    """Read the tables alone."""
    from stream_sources.recordings import nwb, nwb_intervals, nwb_tables

    with TemporaryDirectory() as cache, nwb.open_nwb(path, cache) as file:
        ids = nwb_tables.read_unit_ids(file["units"], len(file["units/id"]))
        known = nwb_tables.read_units(file, file["units"], ids, [])
        shown = nwb_intervals.read_presentations(file, (), [])
    return {
        "units": len(ids),
        "areas": Counter(unit.area for unit in known.table.units),
        "shown": len(shown.start_ns),
    }


def pynwb_tables(path: str) -> dict[str, Any]:
    """Read the same columns through pynwb, as its documentation shows."""
    import pynwb

    with _file(path) as opened, pynwb.NWBHDF5IO(**opened, mode="r") as io:
        nwb = io.read()
        units = nwb.units
        names = set(units.colnames)
        quality = list(units["quality"][:]) if "quality" in names else []
        areas: list[str] = []
        if "peak_channel_id" in names and nwb.electrodes is not None:
            place_of = dict(zip(nwb.electrodes.id[:], nwb.electrodes["location"][:], strict=True))
            areas = [place_of.get(peak, "") for peak in units["peak_channel_id"][:]]
        elif "electrodes" in names:
            areas = list(units["electrodes"][0]["location"])
        elif "location" in names:
            areas = list(units["location"][:])
        shown = 0
        for name, table in (nwb.intervals or {}).items():
            if name.endswith("_presentations"):
                wanted = {"start_time", "stop_time", "frame"} & set(table.colnames)
                shown += max(len(table[column][:]) for column in wanted)
        column = units["spike_times"].target
        n_spikes = len(column.data)
        first = float(np.ravel(column.data[0])[0]) if n_spikes else 0.0
    return {
        "units": len(quality) or len(areas),
        "spikes": f"{n_spikes} from {first}",
        "areas": Counter(map(str, areas)),
        "quality": Counter(map(str, quality)),
        "shown": shown,
    }


def spikeinterface(path: str) -> dict[str, Any]:
    """Read a sorting and its properties."""
    from spikeinterface.extractors import read_nwb_sorting

    remote = {"stream_mode": "remfile"} if path.startswith("http") else {}
    sorting = read_nwb_sorting(path, sampling_frequency=30_000.0, t_start=0.0, **remote)
    spikes = [len(sorting.get_unit_spike_train(unit)) for unit in sorting.unit_ids[:6]]
    quality = sorting.get_property("quality")
    keys = [
        key
        for key in ("location", "brain_area", "electrodes")
        if key in sorting.get_property_keys()
    ]
    return {
        "units": len(sorting.unit_ids),
        "spikes": f"{sum(spikes)} of the first six",
        "quality": Counter(map(str, [] if quality is None else quality)),
        "area properties": keys,
    }


READERS = {reader.__name__: reader for reader in (ours, ours_tables, pynwb_tables, spikeinterface)}
IMPORTS = {
    "ours": "stream_sources.recordings.nwb",
    "ours_tables": "stream_sources.recordings.nwb",
    "pynwb_tables": "pynwb",
    "spikeinterface": "spikeinterface.extractors",
}


def measured(name: str, path: str) -> tuple[float, float, str]:
    """Return seconds of the imports and of the reading, in a fresh process, and the outcome."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (name, path))


def figures(layout: Path, folder: Path) -> None:
    """Print the durations."""
    large = folder / "large.nwb"
    if not large.exists():
        enlarge(layout, large)
    print(f"{large.stat().st_size / 1e9:.2f} GB, {UNITS} units, {SPIKES} spikes")
    with _server(folder) as server:
        for path in (str(large), f"http://127.0.0.1:{server.server_port}/large.nwb"):
            for name in READERS:
                server.requests.clear()
                import_s, read_s, outcome = measured(name, path)
                sent = f"{len(server.requests)} requests, {sum(server.requests) / 1e6:.1f} MB"
                print(
                    f"{path[:5]} {name:15} import {import_s:5.2f} s, read {read_s:6.2f} s; {sent}"
                )
                print(f"      {outcome[:160]}", flush=True)


def inputs(paths: list[str]) -> None:
    """Print what each reader reads from each file."""
    for path in paths:
        print(Path(path).name)
        for name in ("ours", "pynwb_tables", "spikeinterface"):
            print(f"  {name:15} {measured(name, path)[2][:300]}", flush=True)


def _measure(name: str, path: str) -> tuple[float, float, str]:
    import importlib
    import warnings

    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    importlib.import_module(IMPORTS[name])
    imported = time.perf_counter()
    try:
        outcome = json.dumps(READERS[name](path), ensure_ascii=False, default=str)
    except Exception as error:
        outcome = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return imported - begun, time.perf_counter() - imported, outcome


def _repeated(column: h5py.Dataset, n_rows: int) -> Any:
    values = column[:]
    repeats = -(-n_rows // len(values))
    return np.tile(values, (repeats, *[1] * (values.ndim - 1)))[:n_rows]


def _replace(group: h5py.Group, name: str, values: Any) -> None:
    old = group[name]
    attributes, dtype = dict(old.attrs), old.dtype
    del group[name]
    new = group.create_dataset(name, data=values, dtype=dtype)
    new.attrs.update(attributes)


def _point_to_new_targets(table: h5py.Group) -> None:
    for name, column in table.items():
        if "target" in column.attrs:
            column.attrs["target"] = table[name.removesuffix("_index")].ref


@contextmanager
def _file(path: str) -> Iterator[dict[str, Any]]:
    """Yield what pynwb opens."""
    if not path.startswith("http"):
        yield {"path": path}
        return
    import remfile

    with h5py.File(remfile.File(path)) as file:
        yield {"file": file}


class _RangeServer(ThreadingHTTPServer):
    folder: Path
    requests: list[int]


class _RangeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _RangeServer

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        n_bytes = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:  # remfile asks for the length in this way
            self.send_response(200)
            self.send_header("Content-Length", str(n_bytes))
            self.end_headers()
            self.close_connection = True
            return
        first, last = int(wanted[1]), min(int(wanted[2]), n_bytes - 1)
        time.sleep(REQUEST_S)
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        self.server.requests.append(len(body))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{n_bytes}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _server(folder: Path) -> Iterator[_RangeServer]:
    with _RangeServer(("127.0.0.1", 0), _RangeHandler) as server:
        server.folder, server.requests = folder, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["figures", layout, folder]:
            figures(Path(layout), Path(folder))
        case ["inputs", *paths]:
            inputs(paths)
        case _:
            sys.exit(__doc__)
