"""The simulated animal and its receptive fields."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from contracts.errors import UserError
from simulation.cortex.drive import (
    BACK,
    ResponseModel,
    build_response_model,
    grey_rates,
    movie_rates,
)
from simulation.cortex.units import (
    CELL_TYPES,
    CENTRE,
    CORTEX,
    MOTION,
    VISUAL,
    CortexUnits,
    draw_units,
)
from simulation.scenes.movie import SceneMovie, random_movie
from simulation.scenes.scene import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def units() -> CortexUnits:
    """Draw one animal of the usual size."""
    return draw_units(5)


@pytest.fixture(scope="module")
def response(units: CortexUnits) -> ResponseModel:
    """Build its filters and set its rates."""
    return build_response_model(units)


@pytest.fixture(scope="module")
def movie() -> SceneMovie:
    """Draw a movie that the rates were not set on."""
    return random_movie("unseen", seed=88, n_scenes=60, frames_per_scene=5)


@pytest.fixture(scope="module")
def rates(response: ResponseModel, movie: SceneMovie) -> np.ndarray:
    """Return the rates for the movie, shape (n_frames, n_units)."""
    return movie_rates(response, movie)


def test_the_seed_decides_every_unit(units: CortexUnits) -> None:
    """The same seed gives the same animal, and another seed another."""
    again, other = draw_units(5), draw_units(6)
    for field in dataclasses.fields(CortexUnits):
        assert np.array_equal(getattr(units, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(units.x_px, other.x_px)


def test_every_area_and_cell_type_has_units(units: CortexUnits) -> None:
    """More than 500 visual units in seven areas, CA1, three tagged types in cortex alone."""
    good = Counter(units.area[units.quality == "good"].tolist())
    assert sum(good[area] for area in VISUAL) == 515
    assert good["CA1"] >= 60
    assert all(good[area] >= 50 for area in VISUAL)
    types = Counter(units.cell_type.tolist())
    assert all(30 <= types[name] <= 45 for name in CELL_TYPES)
    assert set(units.area[units.cell_type != ""]) <= set(CORTEX)
    assert Counter(units.quality.tolist())["noise"] == 17


def test_some_good_units_fail_a_metric(units: CortexUnits) -> None:
    """About one good unit in twelve does not pass the default filter."""
    fails = (
        (units.amplitude_cutoff > 0.1)
        | (units.presence_ratio < 0.95)
        | (units.isi_violations > 0.5)
    )
    assert 0.04 < fails[units.quality == "good"].mean() < 0.13


@pytest.mark.parametrize("n_units", [59, 0, -1])
def test_too_few_units_are_refused(n_units: int) -> None:
    """The message says how many are needed."""
    with pytest.raises(UserError, match="60 units or more"):
        draw_units(1, n_units)


def test_a_small_animal_still_has_everything() -> None:
    """The fewest units allowed leave no area and no type empty."""
    small = draw_units(1, 60)
    assert len(small) == 60
    assert {*VISUAL, "CA1"} <= set(small.area)
    assert set(CELL_TYPES) <= set(small.cell_type)


@pytest.mark.parametrize("area", VISUAL)
def test_receptive_fields_cover_the_screen(units: CortexUnits, area: str) -> None:
    """Each eighth of the screen holds centres of every area."""
    mine = units.area == area
    counts, _, _ = np.histogram2d(
        units.x_px[mine], units.y_px[mine], bins=(4, 2), range=((0, WIDTH), (0, HEIGHT))
    )
    assert counts.min() >= 1


def test_fields_grow_along_the_hierarchy(units: CortexUnits) -> None:
    """The thalamus has the smallest fields and the shortest latency, VISam the largest."""
    plain = units.cell_type == ""
    sizes = [np.median(units.sigma_px[plain & (units.area == area)]) for area in VISUAL]
    latencies = [np.median(units.latency_s[units.area == area]) for area in VISUAL]
    assert min(sizes) == sizes[0]
    assert np.corrcoef(np.arange(len(sizes)), sizes)[0, 1] > 0.8
    assert np.corrcoef(np.arange(len(sizes)), latencies)[0, 1] > 0.8


def test_rates_are_those_that_were_drawn(units: CortexUnits, rates: np.ndarray) -> None:
    """Over an unseen movie the mean rate of most units is within a third of the one drawn."""
    ratio = rates.mean(axis=0) / units.rate_hz
    assert 0.9 < np.median(ratio) < 1.1
    assert np.mean(np.abs(ratio - 1) < 0.35) > 0.9


def test_peaks_stand_out_and_are_bounded(units: CortexUnits, rates: np.ndarray) -> None:
    """Visual units reach several times their mean, and no unit exceeds what a neuron can."""
    visual = units.is_visual
    peak = rates.max(axis=0)
    assert np.median(peak[visual] / units.rate_hz[visual]) > 3
    assert peak.max() < 120
    assert rates.min() > 0


def test_units_without_a_field_see_nothing(units: CortexUnits, rates: np.ndarray) -> None:
    """The rate of CA1 and of noise is the same for every frame."""
    blind = rates[:, ~units.is_visual]
    assert np.array_equal(blind, np.broadcast_to(blind[0], blind.shape))


def test_chunks_of_a_movie_make_no_difference(
    response: ResponseModel, movie: SceneMovie, rates: np.ndarray
) -> None:
    """Frames that are given with those before them have the rates of the whole movie."""
    cut = response.rates(movie.frames(40, 80), movie.frames(40 - BACK, 40))
    np.testing.assert_allclose(cut, rates[40:80], rtol=1e-6, atol=1e-6)


def test_luminance_units_see_light_itself(
    units: CortexUnits, movie: SceneMovie, rates: np.ndarray
) -> None:
    """VIP units of both signs tell night from day, in opposite ways."""
    is_night = np.array([movie.facts(frame).light == "night" for frame in range(movie.n_frames)])
    vip = units.cell_type == "VIP"
    change = rates[is_night].mean(axis=0) - rates[~is_night].mean(axis=0)
    assert (change[vip & (units.sign > 0)] < 0).all()
    assert (change[vip & (units.sign < 0)] > 0).all()


def test_grey_leaves_everyone_at_rest(units: CortexUnits, response: ResponseModel) -> None:
    """No contrast, no drive: all but the luminance units fire at their base."""
    others = units.cell_type != "VIP"
    np.testing.assert_allclose(grey_rates(response)[others], response.base_hz[others], rtol=1e-3)


def test_centre_surround_units_prefer_their_sign(
    units: CortexUnits, response: ResponseModel
) -> None:
    """A bright spot on the centre drives on units, a dark one off units."""
    chosen = np.flatnonzero(units.kind == CENTRE)[:20]
    for unit in chosen.tolist():
        x, y = int(units.x_px[unit]), int(units.y_px[unit])
        spots = np.full((2, HEIGHT, WIDTH), 127, dtype=np.uint8)
        for frame, value in enumerate((250, 20)):
            spots[frame, max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12] = value
        bright, dark = (response.rates(spots[frame : frame + 1])[0, unit] for frame in (0, 1))
        assert (bright > dark) == (units.sign[unit] > 0)


def test_motion_units_prefer_one_direction(units: CortexUnits, response: ResponseModel) -> None:
    """A grating that drifts one way drives them more than the same one drifting back."""
    x = np.arange(WIDTH)
    preferred = []
    for unit in np.flatnonzero(units.kind == MOTION)[:30].tolist():
        if abs(np.cos(units.orientation[unit])) < 0.7:
            continue  # these prefer motion up and down
        step = units.wavelength_px[unit] / 4 / BACK / abs(np.cos(units.orientation[unit]))
        wave = 2 * np.pi * np.abs(np.cos(units.orientation[unit])) / units.wavelength_px[unit]
        frames = [127 + 100 * np.sin(wave * (x - step * t)) for t in range(2 * BACK + 1)]
        right = np.repeat(np.array(frames, dtype=np.uint8)[:, None, :], HEIGHT, axis=1)
        there, back = response.rates(right)[-1, unit], response.rates(right[::-1].copy())[-1, unit]
        towards = np.sign(units.sign[unit] * np.cos(units.orientation[unit]))
        preferred.append((there - back) * towards > 0)
    assert len(preferred) >= 5
    assert len(set(preferred)) == 1  # the sign means one and the same direction for all
