"""The seeds of everything that is drawn, in one place: nothing is tested on what it learned.

Each number is the seed of a movie (`simulation.scenes.movie.random_movie`), and movies of different
seeds share no scene.
"""

LLAVA_TRAINING, LLAVA_VALIDATION, LLAVA_TEST = 1, 2, 3
"""Pictures that the tiny LLaVA learns from, is stopped by, and is scored on."""

SESSION_REPEATED, SESSION_LONG = 11, 12
"""The movies of the simulated session: the one that is shown again and again, and the long one."""

UNSEEN_DEMO, UNSEEN_SCORE = 21, 22
"""Movies that neither the model nor the encoder has seen."""

FIRST_DAY = 1000
"""Of the long movies that people ask for; the day's own seed is added."""

ANIMAL = 7
"""The simulated animal: its units, their receptive fields, their tuning."""
