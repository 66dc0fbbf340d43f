"""What is held out: the same in every repeat, or whole repeats, and never nothing."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import UserError
from encoder_training.data_set.prepared import Role
from encoder_training.data_set.splits import SplitOptions, split_presentations
from encoder_training.data_set.stimulus import StimulusTable, read_presented
from tests.support.prepared import presentations

FRAME_NS = 33_361_193


def shown(**repeats_of: tuple[int, int]) -> StimulusTable:
    """Return movies, each given as (frames, repeats), one after another."""
    numbers = [np.tile(np.arange(n), repeats) for n, repeats in repeats_of.values()]
    number = np.concatenate(numbers).astype(float)
    start_ns = np.arange(len(number)) * FRAME_NS
    table = presentations(
        names=tuple(repeats_of),
        start_ns=start_ns,
        stop_ns=start_ns + FRAME_NS,
        stimulus=np.repeat(np.arange(len(numbers)), [len(shown) for shown in numbers]),
        number=number,
        block=np.full(len(number), np.nan),
    )
    return read_presented(table, {name: n for name, (n, _) in repeats_of.items()})


def roles_of_frames(presented: StimulusTable, role: np.ndarray, movie: int) -> list[set[int]]:
    """Return the set of roles that each frame of a movie has over its repeats."""
    return [
        set(role[(presented.movie == movie) & (presented.number == number)].tolist())
        for number in range(presented.n_frames[movie])
    ]


def test_the_last_repeats_are_held_out():
    """Of each movie with enough repeats the last are the test, and those before validation."""
    presented = shown(a=(30, 7), b=(20, 5))
    split = split_presentations(presented, SplitOptions("repeats", n_repeats=2))
    for movie, roles in ((0, [0, 0, 0, 1, 1, 2, 2]), (1, [0, 1, 1, 2, 2])):
        for repeat, role in enumerate(roles):
            chosen = (presented.movie == movie) & (presented.repeat == repeat)
            assert set(split.role[chosen].tolist()) == {role}
            assert len(set(split.group[chosen].tolist())) == 1
    assert len(set(split.group.tolist())) == 12
    assert split.notes == ()


def test_a_movie_shown_too_seldom_is_training():
    """It cannot be held out by repeats, so it is training alone, and a note tells so."""
    presented = shown(long=(90, 1), a=(30, 3))
    split = split_presentations(presented, SplitOptions("repeats"))
    assert set(split.role[presented.movie == 0].tolist()) == {Role.TRAIN}
    assert split.notes == (
        "long was shown once: too few to hold a repeat out, so all of it is training",
    )
    with pytest.raises(UserError, match=r"shown 5 times or more; there are long \(1\), a \(3\)"):
        split_presentations(presented, SplitOptions("repeats", n_repeats=2))


@pytest.mark.parametrize("kind", ["middle", "front", "movies"])
def test_a_frame_has_one_role_in_all_repeats(kind):
    """Whoever holds a frame out holds it out in every repeat, with its whole chunk."""
    presented = shown(a=(300, 3), b=(150, 2))
    options = SplitOptions(kind, fraction=0.2, movies=("b",))
    split = split_presentations(presented, options)
    for movie in (0, 1):
        roles = roles_of_frames(presented, split.role, movie)
        assert all(len(of_frame) == 1 for of_frame in roles)
    for group in np.unique(split.group):
        of_group = split.group == group
        assert len(set(split.role[of_group].tolist())) == 1
        assert len(set(presented.movie[of_group].tolist())) == 1
        assert np.ptp(presented.number[of_group]) < 30
    assert set(split.role.tolist()) == {0, 1, 2}


def test_the_middle_of_each_movie_is_held_out():
    """The test frames are neighbours, as many before them as after, a fifth of the movie."""
    presented = shown(a=(300, 2), b=(150, 1))
    role = split_presentations(presented, SplitOptions("middle")).role
    for movie, n in ((0, 300), (1, 150)):
        is_test = [of_frame == {Role.TEST} for of_frame in roles_of_frames(presented, role, movie)]
        numbers = np.flatnonzero(is_test)
        assert np.array_equal(numbers, np.arange(numbers[0], numbers[-1] + 1))
        assert len(numbers) == pytest.approx(0.2 * n, abs=1)
        assert numbers[0] == pytest.approx(n - 1 - numbers[-1], abs=30)


def test_the_front_of_each_movie_is_held_out():
    """The test frames are the first ones."""
    presented = shown(a=(300, 2))
    role = split_presentations(presented, SplitOptions("front", fraction=0.3)).role
    is_test = [of_frame == {Role.TEST} for of_frame in roles_of_frames(presented, role, 0)]
    assert is_test == [True] * 90 + [False] * 210


def test_the_seed_draws_validation():
    """The same seed gives the same chunks, another seed others, and the test never moves."""
    presented = shown(a=(900, 2))
    one, same, other = (
        split_presentations(presented, SplitOptions("middle", seed=seed)).role for seed in (3, 3, 4)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(one == Role.TEST, other == Role.TEST)
    assert (one == Role.VALIDATION).sum() == pytest.approx(0.125 * 0.8 * len(one), rel=0.2)


def test_whole_movies_are_held_out():
    """The named movies are the test and nothing of the others is."""
    presented = shown(a=(60, 2), b=(90, 2), c=(60, 1))
    role = split_presentations(presented, SplitOptions("movies", movies=("b",))).role
    assert np.array_equal(role == Role.TEST, presented.movie == 1)


def test_what_cannot_be_held_out_is_refused():
    """Unknown and all movies, a movie of one chunk, and shares that are none."""
    presented = shown(a=(60, 2), b=(90, 2))
    for movies in ((), ("c",), ("a", "b")):
        with pytest.raises(UserError, match="there are a, b"):
            split_presentations(presented, SplitOptions("movies", movies=movies))
    with pytest.raises(UserError, match="shorter --chunk-seconds"):
        split_presentations(shown(a=(60, 2)), SplitOptions("middle"))
    with pytest.raises(UserError, match="fraction above 0"):
        SplitOptions("front", fraction=1.0)
    with pytest.raises(UserError, match="validation must be a share"):
        SplitOptions("front", validation_fraction=0.0)


def test_images_are_chunked_by_their_own_length():
    """A chunk is about a second, whatever a presentation lasts."""
    presented = shown(a=(300, 2))
    split = split_presentations(presented, SplitOptions("middle", chunk_s=0.5))
    assert len(np.unique(split.group)) == 20
