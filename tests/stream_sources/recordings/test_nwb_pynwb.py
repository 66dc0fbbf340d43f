"""What pynwb writes is read: the reference for links, regions, EnumData and references."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contracts.population import Unit
from stream_sources.recordings.nwb import NwbSource
from tests.support import spike_lists
from tests.support.nwb_files import random_trains

TRAINS = random_trains(4)[:1] + random_trains(4)[2:]


def write(path: Path) -> None:
    """Write three units whose electrodes, group and coded quality pynwb refers to."""
    from hdmf.common import EnumData
    from pynwb import NWBHDF5IO, NWBFile

    nwb = NWBFile("a session", "written by pynwb", datetime(2026, 1, 1, tzinfo=UTC))
    device = nwb.create_device("probe")
    groups = [
        nwb.create_electrode_group(name, "a shank", "cortex", device) for name in ("s0", "s1")
    ]
    for place, area in enumerate(["VISp", "VISl", "CA1"]):
        nwb.add_electrode(location=area, group=groups[place // 2])
    nwb.add_unit_column("quality", "by hand", col_cls=EnumData, enum=["good", "noise"])
    for place, train in enumerate(TRAINS):
        nwb.add_unit(
            spike_times=train,
            electrodes=[2 - place],
            electrode_group=groups[(2 - place) // 2],
            quality=("good", "noise")[place % 2],
        )
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def link(path: Path, source: Path) -> None:
    """Write a second file whose units are a link to those of the first."""
    from pynwb import NWBHDF5IO, NWBFile, get_manager

    manager = get_manager()
    with NWBHDF5IO(source, "r", manager=manager) as io:
        nwb = NWBFile("linked", "a link to units", datetime(2026, 1, 1, tzinfo=UTC))
        nwb.units = io.read().units
        with NWBHDF5IO(path, "w", manager=manager) as out:
            out.write(nwb, link_data=True)


@pytest.mark.filterwarnings("ignore:EnumData is experimental")
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_of_pynwb_is_read(tmp_path: Path, linked: bool) -> None:
    """Areas through the region, probes through references, labels through EnumData."""
    path = tmp_path / "first.nwb"
    write(path)
    if linked:
        link(tmp_path / "second.nwb", path)
        path = tmp_path / "second.nwb"
    source = NwbSource(str(path))
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)
    assert source.population.units == (
        Unit("0", "s1", "CA1", "", "good"),
        Unit("1", "s0", "VISl", "", "noise"),
        Unit("2", "s0", "VISp", "", "good"),
    )
    assert source.notes == ()
    assert np.isfinite(source.trains.times).all()
