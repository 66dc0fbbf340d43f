"""The recording of a simulated session, read back by every reader."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from contracts.errors import UserError
from simulation.captions import parse
from simulation.cortex import nwb
from simulation.cortex.drive import ResponseModel
from simulation.cortex.nwb import SessionTruth, movies_folder, write_session
from simulation.cortex.schedule import Schedule, allen_schedule
from simulation.cortex.units import CELL_TYPES, CortexUnits
from simulation.scenes.facts import Facts
from simulation.scenes.movie import random_movie
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.recording import describe
from tests.support import spike_lists


@pytest.fixture(scope="module")
def units(small_animal: CortexUnits) -> CortexUnits:
    """Return the animal that the tests of this folder share."""
    return small_animal


@pytest.fixture(scope="module")
def response(small_response: ResponseModel) -> ResponseModel:
    """Return its filters and rates."""
    return small_response


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    """Lay out a short session of every part."""
    return allen_schedule(
        random_movie("natural_movie_one", seed=61, n_scenes=6, frames_per_scene=20),
        [random_movie("natural_movie_three", seed=62, n_scenes=4, frames_per_scene=10)],
        repeats=2,
        spontaneous_s=2.0,
        between_s=2.0,
        pulses_each=10,
    )


@pytest.fixture(scope="module")
def truth(
    tmp_path_factory: pytest.TempPathFactory,
    units: CortexUnits,
    response: ResponseModel,
    schedule: Schedule,
) -> SessionTruth:
    """Write the session."""
    path = tmp_path_factory.mktemp("cortex") / "day.nwb"
    return write_session(path, units=units, schedule=schedule, session_seed=1, response=response)


def each(truth: SessionTruth) -> list[np.ndarray]:
    """Return the spike times of each unit, seconds."""
    return [truth.trains.of(unit) for unit in range(len(truth.units))]


def test_our_source_sends_exactly_these_spikes(truth: SessionTruth) -> None:
    """What is replayed are the spikes that were drawn, to the nanosecond."""
    source = NwbSource(str(truth.path))
    assert [unit.unit_id for unit in source.population.units] == [
        str(unit_id) for unit_id in truth.units.unit_id.tolist()
    ]
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(each(truth))


def test_our_source_finds_areas_types_and_quality(truth: SessionTruth) -> None:
    """Area and probe through the peak channel, the type as a column, noise as such."""
    units = truth.units
    for row, unit in enumerate(NwbSource(str(truth.path)).population.units):
        assert (unit.area, unit.probe) == (units.area[row], units.probe[row])
        assert (unit.cell_type, unit.quality) == (units.cell_type[row], units.quality[row])


def test_the_default_filter_leaves_out_what_fails(truth: SessionTruth) -> None:
    """Noise, units outside the brain and units that fail a metric are not replayed."""
    units = truth.units
    passes = (
        (units.quality == "good")
        & (units.area != "")
        & (units.amplitude_cutoff <= 0.1)
        & (units.presence_ratio >= 0.95)
        & (units.isi_violations <= 0.5)
    )
    kept = {unit.unit_id for unit in NwbSource(str(truth.path), units="allen").population.units}
    assert kept == set(units.unit_id[passes].astype(str).tolist())
    assert 0 < len(kept) < len(units)


def test_pynwb_reads_the_same(truth: SessionTruth) -> None:
    """Spikes, presentations and pulses through the reference library, without a complaint."""
    from pynwb import NWBHDF5IO, validate

    assert not validate(path=str(truth.path))
    with NWBHDF5IO(truth.path, "r") as io:
        file = io.read()
        for row, times in enumerate(each(truth)):
            np.testing.assert_array_equal(file.units["spike_times"][row], times)
        shown = file.intervals["natural_movie_one_presentations"].to_dataframe()
        pulses = file.processing["optotagging"]["optogenetic_stimulation"].to_dataframe()
    assert shown["frame"].tolist() == [float(f) for f in range(120)] * 4
    assert (np.diff(shown["start_time"]) > 0).all()
    assert sorted(set(pulses["cell_type"])) == sorted(CELL_TYPES)
    assert len(pulses) == 30


@pytest.mark.filterwarnings("ignore")
def test_spikeinterface_reads_the_same(truth: SessionTruth) -> None:
    """The same samples through SpikeInterface."""
    from spikeinterface.extractors import read_nwb_sorting

    sorting = read_nwb_sorting(str(truth.path), sampling_frequency=30_000.0, t_start=0.0)
    assert len(sorting.unit_ids) == len(truth.units)
    bounds = truth.trains.bounds
    for row, unit_id in enumerate(sorting.unit_ids):
        drawn = truth.trains.samples[bounds[row] : bounds[row + 1]]
        np.testing.assert_array_equal(sorting.get_unit_spike_train(unit_id), drawn)


@pytest.mark.filterwarnings("ignore")
def test_pynapple_reads_the_same(truth: SessionTruth) -> None:
    """The same spike times through pynapple, where it is installed."""
    pynapple: Any = pytest.importorskip("pynapple", reason="pynapple is not installed")
    file = pynapple.load_file(str(truth.path))
    groups = file["units"]
    for row, times in enumerate(each(truth)):
        found = groups[int(truth.units.unit_id[row])].index.values
        np.testing.assert_allclose(found, times, rtol=0, atol=1e-9)
    file.close()


def test_captions_tell_the_facts(truth: SessionTruth, schedule: Schedule) -> None:
    """Each presentation of a movie carries a sentence whose kinds are those of its frame."""
    movies = {movie.name: movie for movie in schedule.movies}
    marks = [mark for mark in NwbSource(str(truth.path)).marks() if mark.stimulus in movies]
    assert len(marks) == sum(len(b.frame) for b in schedule.blocks if b.movie is not None)
    for mark in marks:
        assert mark.frame is not None
        facts = movies[mark.stimulus].facts(mark.frame)
        assert parse(mark.caption or "").kinds == facts.kinds


def test_a_scene_keeps_its_caption(truth: SessionTruth) -> None:
    """The sentence changes at most once per scene."""
    marks = [m for m in NwbSource(str(truth.path)).marks() if m.stimulus == "natural_movie_one"]
    by_scene = [{mark.caption for mark in marks[s * 20 : s * 20 + 20]} for s in range(6)]
    assert all(len(captions) == 1 for captions in by_scene)


def test_frames_and_facts_lie_beside_it(truth: SessionTruth, schedule: Schedule) -> None:
    """Every frame of every movie, with its facts and several captions."""
    for movie in schedule.movies:
        with h5py.File(truth.movies / f"{movie.name}.h5") as file:
            np.testing.assert_array_equal(file["frames"][:], movie.frames(0, movie.n_frames))
        text = (truth.movies / f"{movie.name}_facts.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["frame"] for line in lines] == list(range(movie.n_frames))
        for line in lines:
            facts = movie.facts(line["frame"])
            assert Facts.from_json(line["facts"]) == facts
            assert 3 <= len(set(line["captions"])) == len(line["captions"])
            assert all(parse(text).kinds == facts.kinds for text in line["captions"])


def test_the_seeds_decide_every_number(
    truth: SessionTruth,
    units: CortexUnits,
    response: ResponseModel,
    schedule: Schedule,
    tmp_path: Path,
) -> None:
    """Written again the file holds the same numbers and texts, with or without frames."""
    again = tmp_path / "again.nwb"
    write_session(
        again, units=units, schedule=schedule, session_seed=1, response=response, with_frames=False
    )
    assert _contents(again) == _contents(truth.path)
    assert not list(movies_folder(again).glob("*.h5"))
    assert len(list(movies_folder(again).glob("*_facts.jsonl"))) == 2


def _contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is None:
            found[name] = np.asarray(item[()]).tolist()

    with h5py.File(path) as file:
        file.visititems(keep)
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(("specifications", "file_create_date"))
    }


def test_spike_times_can_be_mapped(truth: SessionTruth) -> None:
    """The long column is contiguous and not compressed, as in the public files."""
    with h5py.File(truth.path) as file:
        times = file["units/spike_times"]
        assert times.chunks is None
        assert times.compression is None


@pytest.mark.parametrize("what", ["file", "folder"])
def test_nothing_is_overwritten(
    what: str, units: CortexUnits, schedule: Schedule, tmp_path: Path
) -> None:
    """A file or a folder of that name is refused before anything is drawn."""
    path = tmp_path / "day.nwb"
    if what == "file":
        path.write_bytes(b"mine")
    else:
        movies_folder(path).mkdir()
    with pytest.raises(UserError, match="exist already"):
        write_session(path, units=units, schedule=schedule, session_seed=1)


def test_a_full_disk_leaves_nothing_behind(
    units: CortexUnits,
    response: ResponseModel,
    schedule: Schedule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error is the user's to solve, and no unfinished file or folder stays."""

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nwb, "_write_nwb", full)
    with pytest.raises(UserError, match="No space left"):
        write_session(
            tmp_path / "day.nwb", units=units, schedule=schedule, session_seed=1, response=response
        )
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_a_plausible_session(truth: SessionTruth) -> None:
    """The summary that `neurrate inspect` prints names every stimulus, area and type."""
    summary = describe(NwbSource(str(truth.path)))
    assert set(summary.presentations) == {
        "spontaneous",
        "natural_movie_one",
        "natural_movie_three",
    }
    assert {"LGd", "VISp", "CA1"} <= set(summary.areas)
    assert set(CELL_TYPES) <= set(summary.cell_types)
