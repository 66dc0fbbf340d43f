"""What was on the screen, and when: blocks of presentations, and pulses of light at the end.

References
----------
Frame times and blocks: the public Allen sessions, whose ``natural_movie_one`` runs in two blocks
about an hour apart, 33.361193 ms a frame, with long frames where the display dropped one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from simulation.cortex.drive import FrameSource
from simulation.cortex.units import CELL_TYPES

FRAME_S = 0.033361193
"""Measured: 300.25074 s for 9,000 frames."""

VSYNC_S = FRAME_S / 2
"""The display runs at twice the movie's rate; a dropped vsync makes a frame last this longer."""

DROPPED_SHARE = 0.0015
"""Of the frames, about; the public sessions have a few in a block."""

JITTER_S = 0.00003
MAX_JITTER_S = 0.00009
"""Of a frame's start: standard deviation, and the most."""

GAP_S = 3.0
"""Grey between two blocks."""

PULSE_EVERY_S = 0.5
PULSE_S = (0.005, 0.010)
PULSE_LEVELS = (1.0, 2.5)
"""Seconds between two pulses, how long they last, and how strong the light is."""

SPONTANEOUS = "spontaneous"
MOVIE_ONE = "natural_movie_one"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A movie, or grey (no movie), without a break."""

    stimulus: str
    movie: FrameSource | None
    frame: NDArray[np.int64]  # shape (n_shown,); -1 for grey
    start_s: NDArray[np.float64]  # shape (n_shown,), as is stop_s; each stops where the next starts
    stop_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pulses:
    """Light into the brain. One row for each pulse, and the line that answers."""

    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    level: NDArray[np.float64]
    cell_type: tuple[str, ...]

    @classmethod
    def none(cls) -> Pulses:
        """Return no pulses."""
        return cls(np.empty(0), np.empty(0), np.empty(0), ())


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A session: blocks in order of time, without holes, then pulses over a grey screen."""

    blocks: tuple[Block, ...]
    pulses: Pulses
    duration_s: float

    @property
    def movies(self) -> tuple[FrameSource, ...]:
        """Each movie once, in the order in which they are first shown.

        Raises
        ------
        MisuseError
            If two movies share a name.
        """
        found: dict[str, FrameSource] = {}
        for block in self.blocks:
            if block.movie is not None and found.setdefault(block.movie.name, block.movie) is not (
                block.movie
            ):
                raise MisuseError(f"two movies of one session are called {block.movie.name!r}")
        return tuple(found.values())


def movie_schedule(movie: FrameSource, *, seed: int = 0, grey_s: float = 1.0) -> Schedule:
    """Show one movie once, with grey before and after."""
    return build_schedule([(grey_s, None, 0), (0.0, movie, 1), (grey_s, None, 0)], seed=seed)


def allen_schedule(
    movie_one: FrameSource,
    long_movies: Sequence[FrameSource],
    *,
    repeats: int = 10,
    spontaneous_s: float = 30.0,
    between_s: float = 60.0,
    pulses_each: int = 60,
    seed: int = 0,
) -> Schedule:
    """Lay out a session as the public ones are.

    Grey; the short movie `repeats` times; each long movie once; grey; the short movie `repeats`
    times again; `pulses_each` pulses for each cell type.
    """
    parts: list[tuple[float, FrameSource | None, int]] = [
        (spontaneous_s, None, 0),
        (0.0, movie_one, repeats),
    ]
    for movie in long_movies:
        parts += [(GAP_S, None, 0), (0.0, movie, 1)]
    parts += [(between_s, None, 0), (0.0, movie_one, repeats), (GAP_S, None, 0)]
    return build_schedule(parts, pulses_each=pulses_each, seed=seed)


def build_schedule(
    parts: Sequence[tuple[float, FrameSource | None, int]],
    *,
    pulses_each: int = 0,
    seed: int = 0,
) -> Schedule:
    """Put parts one after another: seconds of grey, or a movie and how often it is shown."""
    rng = np.random.default_rng([seed, 12])
    blocks: list[Block] = []
    at_s = 0.0
    for grey_s, movie, repeats in parts:
        block = _grey(at_s, grey_s) if movie is None else _showing(at_s, movie, repeats, rng)
        blocks.append(block)
        at_s = float(block.stop_s[-1])
    pulses = _pulses(at_s, pulses_each, rng)
    if pulses_each:
        grey_s = PULSE_EVERY_S * (len(pulses.start_s) + 2)
        blocks.append(_grey(at_s, grey_s))
        at_s += grey_s
    return Schedule(tuple(blocks), pulses, at_s)


def _grey(start_s: float, length_s: float) -> Block:
    return Block(
        SPONTANEOUS,
        None,
        np.array([-1], dtype=np.int64),
        np.array([start_s]),
        np.array([start_s + length_s]),
    )


def _showing(start_s: float, movie: FrameSource, repeats: int, rng: np.random.Generator) -> Block:
    n_shown = movie.n_frames * repeats
    dropped = rng.random(n_shown) < DROPPED_SHARE
    if n_shown > 100:  # so that every long block has some
        dropped[rng.integers(1, n_shown - 1, 2)] = True
    edges_s = start_s + np.concatenate([[0.0], np.cumsum(FRAME_S + VSYNC_S * dropped)])
    jitter_s = np.clip(rng.normal(0, JITTER_S, n_shown - 1), -MAX_JITTER_S, MAX_JITTER_S)
    edges_s[1:-1] += jitter_s
    frame = np.tile(np.arange(movie.n_frames, dtype=np.int64), repeats)
    return Block(movie.name, movie, frame, edges_s[:-1], edges_s[1:])


def _pulses(start_s: float, each: int, rng: np.random.Generator) -> Pulses:
    if not each:
        return Pulses.none()
    types = rng.permutation(np.repeat(np.array(CELL_TYPES), each))
    n = len(types)
    return Pulses(
        start_s=start_s + PULSE_EVERY_S * (1 + np.arange(n)) + rng.uniform(0, 0.1, n),
        duration_s=rng.choice(PULSE_S, n),
        level=rng.choice(PULSE_LEVELS, n),
        cell_type=tuple(types.tolist()),
    )
