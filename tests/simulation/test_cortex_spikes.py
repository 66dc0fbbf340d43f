"""Schedules, and the spikes of a simulated session."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.errors import MisuseError
from simulation.cortex.drive import ResponseModel
from simulation.cortex.schedule import (
    FRAME_S,
    MAX_JITTER_S,
    VSYNC_S,
    Block,
    Schedule,
    allen_schedule,
    build_schedule,
    movie_schedule,
)
from simulation.cortex.session import session_trains
from simulation.cortex.spikes import (
    REFRACTORY_SAMPLES,
    SMOOTHING_S,
    STEP_S,
    SimulatedTrains,
    draw_trains,
)
from simulation.cortex.units import CELL_TYPES, VISUAL, CortexUnits
from simulation.scenes.facts import Facts
from simulation.scenes.movie import SceneMovie, random_movie
from simulation.scenes.scene import HEIGHT, WIDTH

N_UNITS = 240


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
        random_movie("natural_movie_one", seed=61, n_scenes=12, frames_per_scene=20),
        [random_movie("natural_movie_three", seed=62, n_scenes=30, frames_per_scene=10)],
        repeats=5,
        spontaneous_s=5.0,
        between_s=5.0,
        pulses_each=30,
    )


@pytest.fixture(scope="module")
def trains(units: CortexUnits, response: ResponseModel, schedule: Schedule) -> SimulatedTrains:
    """Simulate the session."""
    return session_trains(units, schedule, 1, response=response)


def each(trains: SimulatedTrains) -> list[NDArray[np.int64]]:
    """Return one array of samples for each unit."""
    return np.split(trains.samples, trains.bounds[1:-1])


def shown(schedule: Schedule, stimulus: str) -> list[Block]:
    """Return the blocks of one stimulus."""
    return [block for block in schedule.blocks if block.stimulus == stimulus]


def test_blocks_follow_each_other_without_a_hole(schedule: Schedule) -> None:
    """Every moment of the session shows exactly one thing, in order."""
    starts = np.concatenate([block.start_s for block in schedule.blocks])
    stops = np.concatenate([block.stop_s for block in schedule.blocks])
    assert (np.diff(starts) > 0).all()
    np.testing.assert_array_equal(starts[1:], stops[:-1])
    assert starts[0] == 0.0
    assert stops[-1] == schedule.duration_s


def test_the_short_movie_runs_in_two_blocks(schedule: Schedule) -> None:
    """Both blocks repeat it from its first frame to its last; the long movie runs once."""
    blocks = shown(schedule, "natural_movie_one")
    assert len(blocks) == 2
    for block in blocks:
        assert block.frame.tolist() == list(range(240)) * 5
    assert [len(block.frame) for block in shown(schedule, "natural_movie_three")] == [300]


def test_some_frames_are_long(schedule: Schedule) -> None:
    """A dropped vsync makes a frame half as long again; the others keep to the period."""
    for block in shown(schedule, "natural_movie_one"):
        length_s = block.stop_s - block.start_s
        late = length_s - FRAME_S > VSYNC_S / 2
        assert 2 <= late.sum() < 0.02 * len(late)
        np.testing.assert_allclose(length_s[late], FRAME_S + VSYNC_S, atol=2 * MAX_JITTER_S)
        np.testing.assert_allclose(length_s[~late], FRAME_S, atol=2 * MAX_JITTER_S)
        assert length_s[~late].std() > 1e-6


def test_two_movies_of_one_name_are_refused() -> None:
    """The files beside a recording could not tell them apart."""
    one, two = (random_movie("same", seed=seed, n_scenes=1) for seed in (1, 2))
    schedule = build_schedule([(0.0, one, 1), (0.0, two, 1)])
    with pytest.raises(MisuseError, match="'same'"):
        _ = schedule.movies


def test_no_unit_fires_within_its_refractory_time(trains: SimulatedTrains) -> None:
    """Intervals are at least 1.5 ms in whole samples, so no spike stands there twice."""
    assert min(int(np.diff(train).min()) for train in each(trains)) >= REFRACTORY_SAMPLES
    assert trains.samples.min() >= 0
    assert trains.samples.max() < trains.schedule.duration_s * 30_000


def test_rates_are_those_of_mice(units: CortexUnits, trains: SimulatedTrains) -> None:
    """Each area's median is between 2 and 15 Hz, and no unit leaves 0.3 to 50 Hz."""
    rate_hz = np.diff(trains.bounds) / trains.schedule.duration_s
    for area in (*VISUAL, "CA1"):
        assert 2 < np.median(rate_hz[units.area == area]) < 15, area
    assert rate_hz.min() > 0.3
    assert rate_hz.max() < 50


def test_the_seeds_decide_every_spike(
    units: CortexUnits, response: ResponseModel, schedule: Schedule
) -> None:
    """The same day twice is the same; another day of the same animal is not."""
    small = movie_schedule(schedule.movies[1])
    one, again = (session_trains(units, small, 4, response=response) for _ in range(2))
    other = session_trains(units, small, 5, response=response)
    assert np.array_equal(one.samples, again.samples)
    assert np.array_equal(one.bounds, again.bounds)
    assert not np.array_equal(one.bounds, other.bounds)


def test_no_movie_reaches_ca1(units: CortexUnits, response: ResponseModel) -> None:
    """Another movie changes no spike of CA1 or of the noise, but nearly every visual unit."""
    movies = [random_movie("m", seed=seed, n_scenes=20, frames_per_scene=10) for seed in (7, 8)]
    one, other = (
        each(session_trains(units, movie_schedule(movie), 2, response=response)) for movie in movies
    )
    same = np.array([np.array_equal(a, b) for a, b in zip(one, other, strict=True)])
    assert same[~units.is_visual].all()
    assert same[units.is_visual].mean() < 0.02


def test_repeats_agree_where_the_movie_is_seen(
    units: CortexUnits, trains: SimulatedTrains, schedule: Schedule
) -> None:
    """Counts by frame in one half of the repeats follow the other half in VISp, not in CA1."""
    both = [_by_frame(trains, block) for block in shown(schedule, "natural_movie_one")]
    agree = np.array([np.corrcoef(both[0][u], both[1][u])[0, 1] for u in range(len(units))])
    assert np.median(agree[units.area == "VISp"]) > 0.4
    assert np.median(agree[units.area == "LGd"]) > 0.4
    assert abs(np.median(agree[units.area == "CA1"])) < 0.1


def _by_frame(trains: SimulatedTrains, block: Block) -> NDArray[np.float64]:
    """Return counts of each unit at each frame over the repeats, in pieces of five frames."""
    edges = np.append(block.start_s, block.stop_s[-1])
    counts = np.stack([np.histogram(train / 30_000, edges)[0] for train in each(trains)])
    n_frames = int(block.frame.max()) + 1
    summed = counts.reshape(len(counts), -1, n_frames // 5, 5).sum(axis=(1, 3))
    return np.asarray(summed, dtype=np.float64)


def test_tagged_units_answer_their_light(
    units: CortexUnits, trains: SimulatedTrains, schedule: Schedule
) -> None:
    """A unit of the line fires within 3 ms of nearly every pulse, the others by chance."""
    pulses = schedule.pulses
    first = (pulses.start_s * 30_000).astype(np.int64)
    answered = np.stack(
        [
            np.searchsorted(train, first + 90, side="right") > np.searchsorted(train, first + 45)
            for train in each(trains)
        ]
    )
    tagged = np.array(pulses.cell_type)
    for name in CELL_TYPES:
        mine = answered[:, tagged == name]
        assert mine[units.cell_type == name].mean() > 0.8
        assert mine[units.cell_type != name].mean() < 0.1


class Flicker:
    """A picture that comes out of grey and goes, as a movie."""

    name = "flicker"
    n_frames = 24

    def __init__(self) -> None:
        self._scene = random_movie("picture", seed=9, n_scenes=1)

    def frames(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return grey for the first half and the picture for the second."""
        every = np.full((self.n_frames, HEIGHT, WIDTH), 127, dtype=np.uint8)
        every[12:] = self._scene.frames(0, 1)
        return every[first:stop]

    def facts(self, frame: int) -> Facts:
        """Return the facts of the picture."""
        return self._scene.facts(0)


def test_latencies_can_be_recovered(units: CortexUnits, response: ResponseModel) -> None:
    """The time that a step of the picture takes to arrive is each unit's latency, within 10 ms.

    What a step's response lacks of its final height, summed over time, is the latency plus the
    membrane's mean delay.
    """
    flicker = Flicker()
    block_s = 250 * flicker.n_frames * FRAME_S
    trains = session_trains(units, build_schedule([(0.0, flicker, 250)]), 6, response=response)
    rates = response.rates(flicker.frames(0, 24))
    step_hz = rates[23] - rates[0]
    strong = np.flatnonzero(np.abs(step_hz) > 25)
    assert len(strong) >= 10
    block = trains.schedule.blocks[0]
    onsets = block.start_s[block.frame == 12]
    window_s = 0.3
    errors = []
    for unit in strong.tolist():
        times = trains.of(unit)
        after = [np.searchsorted(times, onsets + window_s) - np.searchsorted(times, onsets)]
        rate = np.sum(after) / len(onsets)
        lacking_s = (rates[23, unit] * window_s - rate) / step_hz[unit]
        kernel = np.exp(-np.arange(16) * STEP_S / SMOOTHING_S)
        delay_s = float((kernel * np.arange(16)).sum() / kernel.sum() * STEP_S)
        errors.append(lacking_s - delay_s - units.latency_s[unit])
    assert block_s > 100
    assert abs(np.median(errors)) < 0.010
    assert np.mean(np.abs(errors) < 0.025) > 0.8


def test_a_constant_rate_comes_out_as_drawn(units: CortexUnits) -> None:
    """Without a movie the number of spikes is the rate times the time, for every kind of train."""
    schedule = build_schedule([(400.0, None, 0)])
    rates = np.full((1, len(units)), 12.0, dtype=np.float32)
    trains = draw_trains(units, schedule, rates, np.zeros(1), np.zeros(1, dtype=np.int64), 3)
    rate_hz = np.diff(trains.bounds) / 400.0
    for area in ("LGd", "VISp", "CA1"):
        assert np.mean(rate_hz[units.area == area]) == pytest.approx(12.0, rel=0.05)


def test_thalamic_spikes_come_most_evenly(units: CortexUnits) -> None:
    """The variance of counts is smallest in the thalamus, and below a Poisson process in VISp."""
    schedule = build_schedule([(400.0, None, 0)])
    rates = np.full((1, len(units)), 12.0, dtype=np.float32)
    trains = draw_trains(units, schedule, rates, np.zeros(1), np.zeros(1, dtype=np.int64), 3)
    edges = np.arange(0, 400.0, 0.167)
    counts = np.stack([np.histogram(train / 30_000, edges)[0] for train in each(trains)])
    fano = counts.var(axis=1) / counts.mean(axis=1)
    medians = [float(np.median(fano[units.area == area])) for area in ("LGd", "VISp", "CA1")]
    assert medians == sorted(medians)
    assert medians[1] < 0.9


def test_movie_one_is_a_movie(schedule: Schedule) -> None:
    """A schedule's movies are the ones that were given, each once."""
    assert [movie.name for movie in schedule.movies] == ["natural_movie_one", "natural_movie_three"]
    assert all(isinstance(movie, SceneMovie) for movie in schedule.movies)
