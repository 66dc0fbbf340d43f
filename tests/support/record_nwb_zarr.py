"""Write the sessions of ``tests/data/nwb_zarr`` anew; it needs hdmf-zarr, which no test does.

``python -m tests.support.record_nwb_zarr FOLDER`` writes ``session.nwb`` and, by the hdmf-zarr that
is installed, ``session.nwb.zarr.zip``. `ZARR_CHUNK` spikes are in a chunk if its version can do so.
"""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.epoch import TimeIntervals

N_UNITS = 6
ZARR_CHUNK = 64
AREAS = ("VISp", "CA1", "LGd")


def session() -> NWBFile:
    """Return a session of two probes with every kind of column that the reader looks for."""
    rng = np.random.default_rng(7)
    start = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    file = NWBFile("for tests", "zarr-twin", start)
    groups = []
    for name in ("probeA", "probeB"):
        device = file.create_device(name)
        groups.append(file.create_electrode_group(name, "of 3", "V1", device))
    for row in range(6):
        area, group = AREAS[row % 3], groups[row // 3]
        file.add_electrode(
            x=0.0, y=0.0, z=0.0, imp=1.0, location=area, filtering="none", group=group,
            id=100 + row, rel_x=8.0 * row, rel_y=20.0 * row,
        )  # fmt: skip
    file.add_unit_column("quality", "phy's label")
    file.add_unit_column("peak_channel_id", "id of an electrode")
    file.add_unit_column("isi_violations", "share")
    for unit in range(N_UNITS):
        file.add_unit(
            id=20 + unit, spike_times=np.sort(rng.random(30 + 10 * unit) * 5.0),
            electrodes=[unit], electrode_group=groups[unit // 3], quality=("good", "mua")[unit % 2],
            peak_channel_id=100 + unit, isi_violations=0.1 * unit,
        )  # fmt: skip
    file.units.add_column("cell_type", "coded", data=[0, 1, 0, 1, 1, 0], enum=["PV", "SST"])
    table = TimeIntervals(name="movie_presentations", description="a movie")
    for name in ("frame", "stimulus_block", "caption"):
        table.add_column(name, name)
    for row in range(9):
        table.add_row(
            start_time=row * 0.5, stop_time=row * 0.5 + 0.4, frame=float(row), stimulus_block=1.0,
            caption=f"a café, frame {row}",
        )  # fmt: skip
    file.add_time_intervals(table)
    file.add_invalid_time_interval(start_time=4.0, stop_time=4.5)
    return file


def main(folder: Path) -> None:
    """Write both."""
    from hdmf_zarr import NWBZarrIO, ZarrDataIO

    with NWBHDF5IO(str(folder / "session.nwb"), "w") as io:
        io.write(session(), cache_spec=False)
    file = session()
    spikes = file.units["spike_times"].target
    if hasattr(spikes, "set_data_io"):
        spikes.set_data_io(ZarrDataIO, {"chunks": (ZARR_CHUNK,)})
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "session.nwb.zarr"
        with NWBZarrIO(str(path), "w") as io:
            io.write(file)
        shutil.make_archive(str(folder / path.name), "zip", path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
