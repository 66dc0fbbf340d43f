"""Cell types from pulses of light, by AllenSDK's rule."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from contracts.clock import NS_PER_S
from contracts.errors import RecordingError, UserError
from contracts.population import Population
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.optotagging import (
    MODULE,
    TABLE,
    answers,
    read_optotagging,
    with_tagged_cells,
)
from stream_sources.recordings.trains import SpikeTrains
from tests.support.nwb_files import write_units

N_UNITS, TAGGED = 6, (1, 4)
SST = "Sst-IRES-Cre/wt;Ai32(RCL-ChR2(H134R)_EYFP)/wt"
PULSES_S = 50 + 2 * np.arange(30.0)


def _trains(*, answers: tuple[int, ...], window_s: tuple[float, float] = (0.001, 0.009)):
    """Return background of 20 spikes/s, and a spike in half of the pulses of some units."""
    rng = np.random.default_rng(4)
    trains = []
    for unit in range(N_UNITS):
        train = rng.uniform(0, 120, 2400)
        if unit in answers:
            late = PULSES_S + rng.uniform(*window_s, len(PULSES_S))
            train = np.concatenate([train, late, late[::2] + 1e-4])
        trains.append(np.sort(train))
    return trains


def _write(path: Path, trains, *, genotype: str = SST, pulses=PULSES_S, width_s: float = 0.01):
    columns = {"cell_type": [b"guessed"] * N_UNITS}
    write_units(path, trains, columns=columns)
    with h5py.File(path, "a") as file:
        if genotype:
            file["general/subject/genotype"] = genotype
        if pulses is not None:
            table = file.create_group(f"{MODULE}/{TABLE}")
            # Others beside them: shorter pulses, and trains, which are not of the rule
            table["start_time"] = np.concatenate([pulses, pulses + 0.5, pulses + 1])
            widths = np.repeat([width_s, 0.005, 0.4], len(pulses))
            table["stop_time"] = table["start_time"][:] + widths
            table["id"] = np.arange(3 * len(pulses))
    return path


def _tagged(path: Path) -> tuple[Population, str]:
    source = NwbSource(str(path))
    return with_tagged_cells(source.population, source.trains, read_optotagging(str(path)))


def test_units_that_answer_are_of_the_line(tmp_path: Path):
    """Only these have a type, also where a column has another; the sentence counts them."""
    path = _write(tmp_path / "day.nwb", _trains(answers=TAGGED))
    population, note = _tagged(path)
    types = [unit.cell_type for unit in population.units]
    assert types == ["SST" if unit in TAGGED else "" for unit in range(N_UNITS)]
    assert [unit.key for unit in population.units] == [
        u.key for u in NwbSource(str(path)).population.units
    ]
    assert note.startswith("2 of 6 units answer 30 pulses of light")
    assert "30 ms before the pulses, in the dark, there are 0 of " in note


def test_the_rule_is_that_of_allensdk(tmp_path: Path):
    """Rates recounted in plain numpy."""
    trains = _trains(answers=TAGGED)
    path = _write(tmp_path / "day.nwb", trains)

    def rate(train, start_s: float, stop_s: float) -> float:
        inside = [
            np.count_nonzero((train >= pulse + start_s) & (train < pulse + stop_s))
            for pulse in PULSES_S
        ]
        return float(np.mean(inside)) / (stop_s - start_s)

    expected = [rate(t, 0.001, 0.009) / (rate(t, -0.010, -0.002) + 1) > 2 for t in trains]
    light = read_optotagging(str(path))
    assert light is not None
    assert answers(NwbSource(str(path)).trains, light.start_ns).by_ratio.tolist() == expected


def test_units_that_answer_by_accident_have_no_type():
    """At 3 spikes/s the ratio alone finds one of nine units that know nothing of the light."""
    rng = np.random.default_rng(0)
    n_units, n_spikes, seconds = 400, 750, 250
    times_ns = np.sort(rng.integers(0, seconds * NS_PER_S, (n_units, n_spikes)), axis=1)
    bounds = np.arange(n_units + 1) * n_spikes
    trains = SpikeTrains(times_ns.reshape(-1), bounds[:-1], bounds[1:])
    found = answers(trains, (20 + 2 * np.arange(100)) * NS_PER_S)
    assert 0.08 < found.by_ratio.mean() < 0.16
    assert not found.tagged.any()


def test_an_artefact_of_the_light_tags_nobody(tmp_path: Path):
    """Spikes of the first millisecond do not count."""
    trains = _trains(answers=TAGGED, window_s=(0.0, 0.0008))
    path = _write(tmp_path / "day.nwb", trains)
    with pytest.raises(UserError, match="no unit answers the 30 pulses"):
        _tagged(path)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"pulses": None}, "and the recording has 0"),
        ({"pulses": PULSES_S[:9]}, "and the recording has 9"),
        ({"width_s": 0.005}, "and the recording has 0"),
        ({"genotype": ""}, "it is not stated"),
        ({"genotype": "wt/wt"}, "it is wt/wt"),
        ({"genotype": "Vip-IRES-Cre/wt;Pvalb-IRES-Cre/wt"}, "must drive one cell type"),
    ],
)
def test_what_tells_no_cell_type_is_refused(tmp_path: Path, how, problem):
    """The sentence says what was found, and what to do without it."""
    path = _write(tmp_path / "day.nwb", _trains(answers=TAGGED), **how)
    with pytest.raises(UserError, match=r"eave (it )?out") as error:
        _tagged(path)
    assert problem in str(error.value)


def test_a_table_without_stops_is_refused(tmp_path: Path):
    """Where cell types are asked for; the recording is read all the same."""
    path = _write(tmp_path / "day.nwb", _trains(answers=()), pulses=None)
    with h5py.File(path, "a") as file:
        file.create_group(f"{MODULE}/{TABLE}")["start_time"] = PULSES_S
    assert NwbSource(str(path)).notes == ()
    with pytest.raises(RecordingError, match=f"{MODULE}/{TABLE}: it has no stop_time"):
        read_optotagging(str(path))


@pytest.mark.parametrize(
    ("column", "value", "row"),
    [
        ("start_time", np.nan, "from nan to 54.01 s"),
        ("stop_time", np.nan, "from 54 to nan s"),
        ("start_time", -np.inf, "from -inf to 54.01 s"),
        ("stop_time", np.inf, "from 54 to inf s"),
        ("stop_time", 53.9, "from 54 to 53.9 s"),
    ],
)
def test_a_pulse_without_start_and_stop_is_refused(tmp_path: Path, column, value, row):
    """It is not taken for one of another length; the sentence has the first such row."""
    path = _write(tmp_path / "day.nwb", _trains(answers=TAGGED))
    with h5py.File(path, "a") as file:
        file[f"{MODULE}/{TABLE}/{column}"][2] = value
    with pytest.raises(RecordingError, match=f"1 of 90 .* row 2 is {row}"):
        read_optotagging(str(path))


def test_a_file_of_the_allen_layout(real_recordings: Path):
    """Its three tagged units, and no other."""
    path = real_recordings / "allen_layout" / "allen_like_core2.2.2.nwb"
    truth = json.loads(path.with_suffix(".json").read_text())["units"]
    expected = {str(unit["id"]) for unit in truth if unit["tagged"]}
    population, _ = _tagged(path)
    assert {unit.unit_id for unit in population.units if unit.cell_type == "SST"} == expected
