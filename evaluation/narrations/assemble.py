"""From sentences to the report: everything after the last narration, and nothing before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encoder_training.evaluation.bootstrap import Draws
from evaluation.narrations.facts_score import tallies
from evaluation.narrations.pairs import NarratedPair, pair_results
from evaluation.narrations.report import Example, NarratorScores, PairsOf, Report, SameTokens
from evaluation.narrations.sbert import SentenceEncoder, Similarity, similarity
from evaluation.narrations.targets import against, judge
from evaluation.scores import Tally, difference, draw_scenes, pooled, score
from simulation.captions import caption
from simulation.scenes.facts import Facts

TRUE_PATCHES = "true_patches"
"""The narrator that sees the frame itself."""

N_EXAMPLES = 8
"""Scenes that are shown word for word: the first ones."""

EXAMPLE_NARRATORS = (TRUE_PATCHES, "all", "VISp", "CA1", "silent")
"""Those whose words are shown: more do not fit on a page."""


@dataclass(frozen=True, slots=True)
class NarratedScenes:
    """What every narrator said of the same scenes.

    Attributes
    ----------
    facts : tuple of Facts
        What each scene shows.
    texts : mapping of str to sequence of str
        By narrator, one sentence for each scene: `TRUE_PATCHES`, the populations, the subsets.
    populations : mapping of str to int
        Units of each population, in the order of the tables.
    subsets : mapping of int to sequence of str
        By number of units, the narrators that heard so many.
    """

    facts: tuple[Facts, ...]
    texts: Mapping[str, Sequence[str]]
    populations: Mapping[str, int]
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
    """Score everything that was said.

    Parameters
    ----------
    scenes : NarratedScenes
    pairs : mapping of str to sequence of NarratedPair
        Controlled clips by source, ``true_patches`` or ``spikes``.
    same_tokens : sequence of SameTokens
    encoder : SentenceEncoder or None
        None leaves sentence similarity out.
    seed : int
        Of bootstrap, derangements, captions and word salads.
    command, bundle, model : str
        What made the sentences.
    seconds : mapping of str to float
        How long each part took.

    Returns
    -------
    Report
    """
    draws = draw_scenes(len(scenes.facts), seed=seed)
    found = {name: tallies(scenes.facts, said, seed=seed) for name, said in scenes.texts.items()}
    true_patches = _scored([found[TRUE_PATCHES]], None, draws)
    spikes = {
        name: _scored([found[name]], n_units, draws) for name, n_units in scenes.populations.items()
    }
    units = {
        number: _scored([found[name] for name in names], number, draws)
        for number, names in sorted(scenes.subsets.items())
    }
    differences = {
        f"{one}-{other}": difference(found[one]["object_f1"], found[other]["object_f1"], draws)
        for one, other in against(list(scenes.populations))
    }
    captions = [caption(facts, seed + at) for at, facts in enumerate(scenes.facts)]
    return Report(
        command=command,
        n_scenes=len(scenes.facts),
        bundle=bundle,
        model=model,
        true_patches=true_patches,
        spikes=spikes,
        units=units,
        against=differences,
        pairs=tuple(PairsOf(source, pair_results(each)) for source, each in pairs.items()),
        sbert={} if encoder is None else _similarities(scenes, captions, encoder, draws, seed),
        same_tokens=tuple(same_tokens),
        targets=judge(true_patches, spikes, units, differences, same_tokens),
        examples=_examples(scenes, captions),
        seconds=dict(seconds),
    )


def _scored(
    repeats: Sequence[Mapping[str, Tally]], n_units: int | None, draws: Draws
) -> NarratorScores:
    """Score one narrator, or several that heard as many units each."""
    scores = {name: score(pooled([each[name] for each in repeats]), draws) for name in repeats[0]}
    return NarratorScores(n_units, len(repeats) * draws.n_groups, scores)


def _similarities(
    scenes: NarratedScenes,
    captions: Sequence[str],
    encoder: SentenceEncoder,
    draws: Draws,
    seed: int,
) -> dict[str, Similarity]:
    return {
        name: similarity(scenes.texts[name], captions, encoder, draws, seed=seed)
        for name in (TRUE_PATCHES, *scenes.populations)
    }


def _examples(scenes: NarratedScenes, captions: Sequence[str]) -> tuple[Example, ...]:
    names = [name for name in EXAMPLE_NARRATORS if name in scenes.texts]
    return tuple(
        Example(captions[at], {name: scenes.texts[name][at] for name in names})
        for at in range(min(N_EXAMPLES, len(captions)))
    )
