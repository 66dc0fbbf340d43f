"""In what data sets that are pooled must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import UserError, listed
from encoder_training.data_set.pool_join import MatchKeys
from encoder_training.data_set.prepared_facts import FRAMES, PATCHES

if TYPE_CHECKING:
    from encoder_training.data_set.pool import PoolInput

OF_SPLIT = ("--split", "--held-out", "--validation", "--chunk-seconds", "--seed", "--every")
"""Options of 'neurrate prepare' that decide what is held out."""


def check_alike(inputs: Sequence[PoolInput]) -> None:
    """Refuse data sets that do not fit the first one.

    Raises
    ------
    UserError
        With both data sets, what differs, and what to do.
    """
    for other in inputs[1:]:
        problem = _difference(inputs[0], other)
        if problem:
            raise UserError(
                f"data sets that are pooled must agree in movies, frames, windows and split; "
                f"{inputs[0].folder} and {other.folder} do not: {problem}"
            )
    times = Counter(session.session_id for one in inputs for session in one.sessions)
    twice = [name for name, n in times.items() if n > 1]
    if twice:
        folders = [
            str(one.folder)
            for one in inputs
            if any(session.session_id in twice for session in one.sessions)
        ]
        raise UserError(
            f"each session can be in a pool once, and {listed(twice)} is in {listed(folders)}. "
            "Leave one out."
        )


def check_enough(inputs: Sequence[PoolInput], keys: Sequence[MatchKeys]) -> dict[int, int]:
    """Return how many repeats of each kind all data sets have; none of a kind that one lacks.

    Raises
    ------
    UserError
        If frames have another role in another data set.
    """
    roles = [_roles(one, key) for one, key in zip(inputs, keys, strict=True)]
    for other, of_other in zip(inputs[1:], roles[1:], strict=True):
        differ = [frame for frame, role in of_other.items() if roles[0].get(frame, role) != role]
        if differ:
            raise UserError(
                f"data sets that are pooled must hold out the same frames; {inputs[0].folder} and "
                f"{other.folder} differ in {len(differ):,} presentations. Prepare both with the "
                "same --split, --held-out, --validation, --chunk-seconds and --seed."
            )
    every = [key.n_ranks for key in keys]
    return {kind: min(of.get(kind, 0) for of in every) for kind in every[0]}


def _roles(one: PoolInput, keys: MatchKeys) -> dict[int, int]:
    """Return what each frame is for; where whole repeats are held out, its kind names the role."""
    frame, first = np.unique(keys.frame, return_index=True)
    return dict(zip(frame.tolist(), one.prepared.shown.role[first].tolist(), strict=True))


def _difference(first: PoolInput, other: PoolInput) -> str:
    one, two = first.facts, other.facts
    movies = [{movie.name: movie.n_frames for movie in facts.movies} for facts in (one, two)]
    if movies[0] != movies[1] or list(movies[0]) != list(movies[1]):
        return f"the movies are {movies[0]} and {movies[1]}. Choose the same ones with --stimuli"
    windows = [
        (facts.window.bin_rate_num, facts.window.bin_rate_den, facts.window.n_bins,
         facts.window.stride_bins)
        for facts in (one, two)
    ]  # fmt: skip
    if windows[0] != windows[1]:
        return (
            f"rate (as a fraction), bins and stride of windows are {windows[0]} and {windows[1]}. "
            "Prepare both with the same --bin-rate-hz, --bins and --stride"
        )
    differ = [
        f"{name} was {one.options.get(name)!r} and {two.options.get(name)!r}"
        for name in OF_SPLIT
        if one.options.get(name) != two.options.get(name)
    ]
    if differ:
        return f"{'; '.join(differ)}. Prepare both with the same"
    if one.sha256[FRAMES] != two.sha256[FRAMES]:
        return "their frames or captions differ. Prepare both with the same --frames and --captions"
    if one.sha256[PATCHES] != two.sha256[PATCHES]:
        return (
            "their patches differ. Prepare both with the same --model on the same device, or copy "
            f"{first.folder / PATCHES} to an empty folder before preparing there: it is kept"
        )
    return ""
