"""Scenes are what their facts say, move, and can be told from their seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from contracts.errors import MisuseError
from simulation.scenes.facts import KINDS, Facts, Heading, Thing, headings_of
from simulation.scenes.movie import random_movie
from simulation.scenes.pairs import FEATURES, controlled_pair
from simulation.scenes.render import render
from simulation.scenes.scene import (
    HEIGHT,
    SCENE_FRAMES,
    WIDTH,
    actor_box,
    all_visible,
    random_scene,
    scene_of,
)
from simulation.seeds import MAX_SCENES, scene_seed


def differing(one: Facts, other: Facts) -> set[str]:
    """Return the features in which two facts differ."""
    found = {"light"} if one.light != other.light else set()
    if len(one.things) != len(other.things):
        return found | {"second"}
    for first, second in zip(one.things, other.things, strict=True):
        found |= {
            name
            for name in ("kind", "count", "heading", "distance")
            if getattr(first, name) != getattr(second, name)
        }
    return found


def test_frames_have_the_shape_of_the_allen_movies():
    """A scene is two seconds of 304 x 608 grey frames."""
    frames = render(random_scene(3))
    assert frames.shape == (SCENE_FRAMES, 304, 608)
    assert frames.dtype == np.uint8
    assert frames.std() > 5


def test_same_seed_gives_the_same_frames_and_another_gives_others():
    """Everything is drawn from the seed."""
    assert np.array_equal(render(random_scene(5), 7, 9), render(random_scene(5), 7, 9))
    assert not np.array_equal(render(random_scene(5), 7, 9), render(random_scene(6), 7, 9))


def test_frame_range_is_a_part_of_the_scene():
    """Frames drawn alone equal the same frames drawn with the others."""
    scene = random_scene(8)
    assert np.array_equal(render(scene)[20:23], render(scene, 20, 23))


def test_frames_out_of_range_are_refused():
    """A scene has sixty frames."""
    with pytest.raises(MisuseError, match="frames 0 to 60"):
        render(random_scene(0), 0, 61)


def test_every_thing_stays_on_the_screen():
    """No actor leaves the frame while its scene lasts."""
    for seed in range(400):
        scene = random_scene(seed)
        for actor in scene.actors:
            for frame in (0, SCENE_FRAMES - 1):
                left, top, right, bottom = actor_box(actor, frame)
                assert left >= 0, scene
                assert right <= WIDTH, scene
                assert 0 <= top < bottom <= HEIGHT, scene


def test_actors_are_what_the_facts_say():
    """Each scene holds as many of each kind as its facts count."""
    for seed in range(200):
        scene = random_scene(seed)
        assert Counter(actor.kind for actor in scene.actors) == {
            thing.kind: thing.count for thing in scene.facts.things
        }


def test_headings_move_as_they_say():
    """Left goes left over the street, towards grows, away shrinks."""
    signs: dict[Heading, int] = {"left": -1, "right": 1}
    for heading, sign in signs.items():
        for seed in range(50):
            facts = Facts("day", (Thing("dog", 1, heading, "near"),))
            scene = scene_of(facts, seed)
            assert np.sign(scene.actors[0].speed - scene.pan) == sign
    near = Facts("day", (Thing("car", 1, "towards", "near"),))
    away = Facts("day", (Thing("car", 1, "away", "near"),))
    assert scene_of(near, 1).actors[0].growth > 0 > scene_of(away, 1).actors[0].growth


@pytest.mark.parametrize("kind", KINDS)
def test_every_fact_shows_in_a_single_frame(kind):
    """Any two facts of one layout give clearly different pictures, frame for frame."""
    pictures = {}
    for light in ("day", "shadow", "night"):
        for heading in headings_of(kind):
            for distance in ("near", "far"):
                facts = Facts(light, (Thing(kind, 2, heading, distance),))
                frame = render(scene_of(facts, 11), 30, 31)[0].astype(float)
                pictures[light, heading, distance] = frame
    keys = list(pictures)
    for at, one in enumerate(keys):
        for two in keys[at + 1 :]:
            changed = np.abs(pictures[one] - pictures[two]) > 25
            assert changed.sum() > 400, (one, two)


def test_light_orders_the_brightness():
    """Day is brighter than shadow, and shadow than night."""
    thing = Thing("tree", 1, "", "near")
    day, shadow, night = (
        render(scene_of(Facts(light, (thing,)), 4), 0, 1).mean()
        for light in ("day", "shadow", "night")
    )
    assert day > 1.2 * shadow
    assert shadow > 2 * night


def test_each_kind_is_in_about_a_fifth_of_the_scenes():
    """No kind is so frequent that saying it always would be a good guess."""
    kinds = Counter(kind for seed in range(2000) for kind in random_scene(seed).facts.kinds)
    assert set(kinds) == set(KINDS)
    assert all(0.12 < kinds[kind] / 2000 < 0.3 for kind in KINDS), kinds


def test_movie_frames_are_those_of_its_scenes():
    """A span over a cut holds the end of one scene and the start of the next."""
    movie = random_movie("natural_movie_one", seed=5, n_scenes=3, frames_per_scene=10)
    frames = movie.frames(8, 13)
    assert np.array_equal(frames[:2], render(movie.scenes[0], 8, 10))
    assert np.array_equal(frames[2:], render(movie.scenes[1], 0, 3))
    assert movie.facts(9) == movie.scenes[0].facts
    assert movie.facts(10) == movie.scenes[1].facts


def test_movies_of_different_seeds_share_no_scene():
    """What is tested was not learned."""
    one = random_movie("a", seed=1, n_scenes=50)
    two = random_movie("b", seed=2, n_scenes=50)
    assert not {scene.seed for scene in one.scenes} & {scene.seed for scene in two.scenes}
    assert scene_seed(1, MAX_SCENES - 1) < scene_seed(2, 0)
    with pytest.raises(MisuseError, match="scenes 0 to 999,999"):
        scene_seed(1, MAX_SCENES)


@pytest.mark.parametrize("feature", FEATURES)
def test_controlled_pair_differs_in_its_feature_alone(feature):
    """Two scenes of a pair have one layout, and facts that differ in one place."""
    for seed in range(20):
        one, other = controlled_pair(feature, seed)
        assert differing(one.facts, other.facts) == {feature}
        assert (one.seed, one.pan, one.shadow) == (other.seed, other.pan, other.shadow)
        assert all_visible(one)
        assert all_visible(other)


@pytest.mark.parametrize(
    "thing",
    [("unicorn", 1, "", "near"), ("car", 4, "left", "near"), ("tree", 1, "left", "near")],
)
def test_impossible_things_are_refused(thing):
    """A thing that cannot be drawn is our own mistake."""
    with pytest.raises(MisuseError):
        Thing(*thing)


def test_facts_survive_json():
    """What is written beside a recording is read back."""
    facts = random_scene(12).facts
    assert Facts.from_json(facts.to_json()) == facts
