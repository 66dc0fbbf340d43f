"""What is narrated in a score: populations, random subsets of units, and the frames themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.population import Population

POPULATIONS = ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled", "silent")
"""Narrated side by side, if the bundle has such units."""

NUMBERS = (10, 30, 100, 300)
"""Sizes of the random subsets of the visual units; all of them come on top."""

N_SUBSETS = 3
"""Random orders in which the visual units are taken; a single one may do well by chance."""

FRAMES_AT_ONCE = 50


def populations_of(population: Population) -> dict[str, str]:
    """Return those of `POPULATIONS` that the units can form, by name."""
    populations = {}
    for name in POPULATIONS:
        try:
            population.select(name)
        except UserError:  # no such area or type here
            continue
        populations[name] = name
    return populations


def subsets_of(population: Population, *, seed: int) -> dict[int, dict[str, str]]:
    """Draw nested random subsets of the visual units.

    Returns, by number of units, name and expression of each subset of that size. `seed` is of the
    orders in which units are taken: the first 30 hold the first 10.
    """
    from simulation.cortex.units import VISUAL

    visual = [unit.unit_id for unit in population.units if unit.area in VISUAL]
    rng = np.random.default_rng([seed, 6])
    subsets: dict[int, dict[str, str]] = {}
    for order in range(N_SUBSETS):
        taken = rng.permutation(visual).tolist()
        for number in NUMBERS:
            if number < len(visual):
                name = f"visual{number}-{order}"
                subsets.setdefault(number, {})[name] = f"ids:{'|'.join(taken[:number])}"
    if visual:
        subsets[len(visual)] = {"visual-all": f"ids:{'|'.join(visual)}"}
    return subsets


def narrate_frames(
    frames: Iterable[NDArray[np.uint8]],
    manifest: Manifest,
    model: str,
    *,
    keep: Callable[[Sequence[str]], None] = lambda _: None,
) -> list[str]:
    """Narrate frames of one size themselves: the best that the language model can do.

    Returns one text for each; empty where the narration failed. `keep` is called with the texts of
    every `FRAMES_AT_ONCE` frames, and of the last ones.
    """
    from contracts.embedding import PatchEmbedding
    from contracts.window import Window
    from daemon.narrators.auto import load_narrator
    from daemon.narrators.protocol import narrate
    from daemon.service.settings import NarratorSettings
    from encoder_training.frames.tower import VisionTower

    narrator = load_narrator(NarratorSettings(model=model), manifest)
    tower = VisionTower(model)
    spec = manifest.window_spec
    no_counts = np.empty((spec.n_bins, 0), np.uint16)
    texts: list[str] = []
    left = iter(frames)
    while chosen := list(islice(left, FRAMES_AT_ONCE)):
        patches = tower.patches(np.stack(chosen)).astype(np.float32)
        embeddings = [
            PatchEmbedding(
                window=Window(spec, number * spec.stride_bins, no_counts),
                population="true_patches",
                n_units=0,
                grid=tower.grid,
                patches=frame_patches,
            )
            for number, frame_patches in enumerate(patches, len(texts))
        ]
        new = [utterance.text for utterance in narrate(narrator, embeddings)]
        keep(new)
        texts += new
    return texts
