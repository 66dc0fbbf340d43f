"""What is held out: whole repeats, or the same frames in every repeat.

Neighbouring frames look alike and neighbouring windows share bins, so nothing smaller than a
repeat or a chunk of neighbouring frames is ever held out. `split_by_role` of ``training_set.py``
then leaves out the windows at the borders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from encoder_training.data_set.prepared import Role
from encoder_training.data_set.stimulus import StimulusTable

SplitKind = Literal["repeats", "middle", "front", "movies"]


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How presentations are shared out between training, validation and test.

    Attributes
    ----------
    kind : {"repeats", "middle", "front", "movies"}
        ``repeats``: the last showings of each movie are the test, those before validation.
        ``middle``: a block of frames in the middle of each movie is the test, in every repeat.
        ``front``: the first frames of each movie are the test, in every repeat.
        ``movies``: whole movies are the test.
    n_repeats : int
        With ``repeats``: showings of each movie for the test, and as many for validation.
    fraction : float
        With ``middle`` and ``front``: the share of each movie that is the test.
    movies : tuple of str
        With ``movies``: their names.
    chunk_s : float
        But for ``repeats``: about how long a chunk of neighbouring frames is, seconds. 1 s, as a
        frame counts as found within 1 s in the method's paper (arXiv 2606.18667).
    """

    kind: SplitKind = "repeats"
    n_repeats: int = 1
    fraction: float = 0.2
    movies: tuple[str, ...] = ()
    validation_fraction: float = 0.125
    chunk_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_repeats < 1 or not 0 < self.fraction < 1 or not 0 < self.chunk_s:
            raise UserError(
                "a split needs 1 repeat or more, a fraction above 0 and below 1 and chunks longer "
                f"than 0 s, got {self.n_repeats}, {self.fraction:g} and {self.chunk_s:g} s"
            )
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation must be a share above 0 and below 1, got {self.validation_fraction:g}"
            )

    @classmethod
    def parse(
        cls, kind: SplitKind, held_out: str, *, validation: float, chunk_s: float, seed: int
    ) -> SplitOptions:
        """Read ``--held-out``, whose meaning depends on the split.

        `held_out` is a number of repeats, a share, or names between commas; empty for the
        default.

        Raises
        ------
        UserError
            If it is not such a number.
        """
        options = cls(kind, validation_fraction=validation, chunk_s=chunk_s, seed=seed)
        if kind == "movies":
            return replace(options, movies=comma_separated(held_out))
        try:
            if kind == "repeats":
                return replace(options, n_repeats=int(held_out or 1))
            return replace(options, fraction=float(held_out or 0.2))
        except ValueError as error:
            what = "a whole number of repeats" if kind == "repeats" else "a share of each movie"
            raise UserError(
                f"--held-out must be {what} with --split {kind}, got {held_out!r}."
            ) from error


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the names between commas.

    >>> comma_separated("natural_movie_one, mine,")
    ('natural_movie_one', 'mine')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, slots=True, eq=False)
class SplitRoles:
    """The role of each presentation."""

    role: NDArray[np.int8]  # (n_shown,): a `Role`
    group: NDArray[np.int64]  # (n_shown,): repeat, or chunk of frames: what is held out as a whole
    notes: tuple[str, ...] = ()


def split_presentations(presented: StimulusTable, options: SplitOptions) -> SplitRoles:
    """Give each presentation its role.

    Raises
    ------
    UserError
        If there is not enough to hold out, or a movie of that name.
    """
    if options.kind == "repeats":
        return _by_repeat(presented, options.n_repeats)
    return _by_chunk(presented, options)


def _by_repeat(presented: StimulusTable, n_each: int) -> SplitRoles:
    movie, repeat = presented.movie, presented.repeat
    n_repeats = np.array(presented.n_repeats)
    offset = np.cumsum(n_repeats) - n_repeats
    has_enough = n_repeats > 2 * n_each
    if not has_enough.any():
        shown = [
            f"{name} ({n})" for name, n in zip(presented.movies, n_repeats.tolist(), strict=True)
        ]
        raise UserError(
            f"--split repeats holds out the last {n_each} repeats for the test and {n_each} for "
            f"validation, so a movie must be shown {2 * n_each + 1} times or more; there are "
            f"{listed(shown)}. Use --split middle, front or movies."
        )
    left = (n_repeats[movie] - 1) - repeat
    role = np.full(len(movie), Role.TRAIN, dtype=np.int8)
    role[has_enough[movie] & (left < 2 * n_each)] = Role.VALIDATION
    role[has_enough[movie] & (left < n_each)] = Role.TEST
    notes = tuple(
        f"{name} was shown {_times(n)}: too few to hold a repeat out, so all of it is training"
        for name, n, enough in zip(
            presented.movies, n_repeats.tolist(), has_enough.tolist(), strict=True
        )
        if not enough
    )
    return SplitRoles(role, offset[movie] + repeat, notes)


def _by_chunk(presented: StimulusTable, options: SplitOptions) -> SplitRoles:
    chunk_frames = [_chunk_frames(presented, row, options) for row in range(len(presented.movies))]
    n_chunks = np.array(
        [-(-n // size) for n, size in zip(presented.n_frames, chunk_frames, strict=True)]
    )
    offset = np.cumsum(n_chunks) - n_chunks
    role_of = np.concatenate(
        [_chunk_roles(n, name, options) for n, name in zip(
            n_chunks.tolist(), presented.movies, strict=True
        )]
    )  # fmt: skip
    _check_movies(presented, options)
    free = np.flatnonzero(role_of == Role.TRAIN)
    if len(free) < 2 or not (role_of == Role.TEST).any():
        raise UserError(
            f"--split {options.kind} shares out chunks of about {options.chunk_s:g} s: one or "
            "more for the test, one for validation and one for training; of "
            f"{len(role_of)} chunks {len(free)} are left beside the test. Use a shorter "
            "--chunk-seconds or hold out less."
        )
    n_validation = min(max(1, round(options.validation_fraction * len(free))), len(free) - 1)
    drawn = np.random.default_rng(options.seed).choice(free, n_validation, replace=False)
    role_of[drawn] = Role.VALIDATION
    size = np.array(chunk_frames)[presented.movie]
    group = offset[presented.movie] + np.maximum(presented.number, 0) // size
    return SplitRoles(role_of[group], group)


def _chunk_frames(presented: StimulusTable, movie: int, options: SplitOptions) -> int:
    """Return how many frames of a movie take about a chunk's time."""
    of_movie = presented.movie == movie
    lasts_ns = float(np.median(presented.stop_ns[of_movie] - presented.start_ns[of_movie]))
    return max(1, round(options.chunk_s * 1e9 / lasts_ns))


def _chunk_roles(n_chunks: int, name: str, options: SplitOptions) -> NDArray[np.int8]:
    """Return the roles of one movie's chunks before validation is drawn."""
    role = np.full(n_chunks, Role.TRAIN, dtype=np.int8)
    n_test = max(1, round(options.fraction * n_chunks))
    if options.kind == "movies":
        role[:] = Role.TEST if name in options.movies else Role.TRAIN
    elif options.kind == "front":
        role[:n_test] = Role.TEST
    else:
        first = (n_chunks - n_test) // 2
        role[first : first + n_test] = Role.TEST
    return role


def _check_movies(presented: StimulusTable, options: SplitOptions) -> None:
    if options.kind != "movies":
        return
    unknown = [name for name in options.movies if name not in presented.movies]
    if unknown or not options.movies or len(set(options.movies)) == len(presented.movies):
        raise UserError(
            "--split movies needs --held-out with some of the movies and not all of them; "
            f"got {listed(options.movies) or 'none'}, and there are {listed(presented.movies)}."
        )


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
