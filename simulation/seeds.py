"""The seeds of everything that is drawn, in one place: nothing is tested on what it learned.

Each number is the seed of a movie (`simulation.scenes.movie.random_movie`), and movies of different
seeds share no scene.
"""

import numpy as np

from contracts.errors import MisuseError

LLAVA_TRAINING, LLAVA_VALIDATION, LLAVA_TEST = 1, 2, 3
"""Pictures that the tiny LLaVA learns from, that its log is measured on, and that tests score."""

SESSION_REPEATED, SESSION_LONG = 11, 12
"""The movies of the simulated session: the one that is shown again and again, and the long one."""

UNSEEN_DEMO, UNSEEN_SCORE = 21, 22
"""Movies that neither the model nor the encoder has seen."""

SEEN = frozenset({LLAVA_TRAINING, LLAVA_VALIDATION, SESSION_REPEATED, SESSION_LONG})
"""Movies that had a part in some training: no score may be made on them."""

DAY_REPEATED = 23
"""The movie that the sessions that people ask for show again and again; no training saw it."""

FIRST_DAY = 1000
"""Of the long movies that people ask for; the day's own seed is added."""

ANIMAL = 7
"""The simulated animal: its units, their receptive fields, their tuning."""

DAYS = 100_000_000
"""Of other animals, drawn among so many: session ids keep their nine digits."""

MAX_SCENES = 1_000_000
"""Of a movie; one more would be the first scene of the movie of the next seed."""


def scene_seed(movie_seed: int, number: int) -> int:
    """Return the seed of one scene of a movie, which no other scene of any movie has.

    Raises
    ------
    MisuseError
        If a movie has no such scene.
    """
    if not 0 <= number < MAX_SCENES:
        raise MisuseError(f"a movie has scenes 0 to {MAX_SCENES - 1:,}, asked for {number:,}")
    return movie_seed * MAX_SCENES + number


def day_of(animal: int, seed: int) -> int:
    """Return the seed of timing, noise and spikes of another animal's day."""
    return int(np.random.SeedSequence([animal, seed]).generate_state(1)[0]) % DAYS
