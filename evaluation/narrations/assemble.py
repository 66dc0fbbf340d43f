"""Score narrated scenes and put the report together. Narrates nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encoder_training.evaluation.bootstrap import Draws
from evaluation.narrations.facts_score import tallies
from evaluation.narrations.pairs import NarratedPair, pair_results
from evaluation.narrations.report import ClipResults, Example, NarratorScores, Report, SameTokens
from evaluation.narrations.sbert import SentenceEncoder, Similarity, similarity
from evaluation.narrations.targets import comparisons, evaluate_targets
from evaluation.scores import Tally, difference, draw_scenes, pooled, score
from simulation.captions import caption
from simulation.scenes.facts import Facts

TRUE_PATCHES = "true_patches"  # The narrator that gets the patch embeddings of the frame itself
N_EXAMPLES = 8  # Scenes whose narrations are printed: the first ones

EXAMPLE_NARRATORS = (TRUE_PATCHES, "all", "VISp", "CA1", "silent")
"""Narrators whose sentences are printed: more do not fit on a page."""


@dataclass(frozen=True, slots=True)
class NarratedScenes:
    """The sentences of every narrator on the same scenes."""

    facts: tuple[Facts, ...]  # What each scene shows
    # By narrator, one sentence for each scene: `TRUE_PATCHES`, the populations, the subsets
    texts: Mapping[str, Sequence[str]]
    populations: Mapping[str, int]  # Units of each population, in the order of the tables
    # By number of units, the narrators of random subsets of that size
    subsets: Mapping[int, Sequence[str]]


def assemble(
    scenes: NarratedScenes,
    pairs: Mapping[str, Sequence[NarratedPair]],
    same_tokens: Sequence[SameTokens],
    *,
    encoder: SentenceEncoder | None,
    seed: int,
    command: str,
    bundle: str,
    model: str,
    seconds: Mapping[str, float],
) -> Report:
    """Score all sentences.

    `pairs` are controlled clips by source, ``true_patches`` or ``spikes``; without `encoder` there
    is no sentence similarity. `seed` is of bootstrap, derangements, captions and word salads;
    `seconds` is the duration of each part.
    """
    draws = draw_scenes(len(scenes.facts), seed=seed)
    tally = {name: tallies(scenes.facts, texts, seed=seed) for name, texts in scenes.texts.items()}
    true_patches = _scored([tally[TRUE_PATCHES]], None, draws)
    spikes = {
        name: _scored([tally[name]], n_units, draws) for name, n_units in scenes.populations.items()
    }
    units = {
        number: _scored([tally[name] for name in names], number, draws)
        for number, names in sorted(scenes.subsets.items())
    }
    differences = {
        f"{first}-{second}": difference(
            tally[first]["object_f1"], tally[second]["object_f1"], draws
        )
        for first, second in comparisons(list(scenes.populations))
    }
    captions = [caption(facts, seed + row) for row, facts in enumerate(scenes.facts)]
    sbert: dict[str, Similarity] = {}
    if encoder is not None:
        for name in (TRUE_PATCHES, *scenes.populations):
            sbert[name] = similarity(scenes.texts[name], captions, encoder, draws, seed=seed)
    return Report(
        command=command,
        n_scenes=len(scenes.facts),
        bundle=bundle,
        model=model,
        true_patches=true_patches,
        spikes=spikes,
        units=units,
        against=differences,
        pairs=tuple(ClipResults(source, pair_results(clips)) for source, clips in pairs.items()),
        sbert=sbert,
        same_tokens=tuple(same_tokens),
        targets=evaluate_targets(true_patches, spikes, units, differences, same_tokens),
        examples=_examples(scenes, captions),
        seconds=dict(seconds),
    )


def _scored(
    repeats: Sequence[Mapping[str, Tally]], n_units: int | None, draws: Draws
) -> NarratorScores:
    """Score one narrator, or several with equally many units as repeats."""
    scores = {
        name: score(pooled([repeat[name] for repeat in repeats]), draws) for name in repeats[0]
    }
    return NarratorScores(n_units, len(repeats) * draws.n_groups, scores)


def _examples(scenes: NarratedScenes, captions: Sequence[str]) -> tuple[Example, ...]:
    names = [name for name in EXAMPLE_NARRATORS if name in scenes.texts]
    return tuple(
        Example(captions[row], {name: scenes.texts[name][row] for name in names})
        for row in range(min(N_EXAMPLES, len(captions)))
    )
