"""Sentence similarity of narrations with captions: matched, by chance, floor and ceiling.

*Matched* is the mean cosine of a narration with the caption of its own window. *Chance* is that
of the same narrations in other orders, in none of which one stays in its place (derangements): in
these every other place is equally likely, so the mean over all of them is, for each narration,
that over the captions of all other windows, and is computed exactly. A narrator that always says
the same has matched equal to chance, whatever its sentence. The *lead* is matched less chance.

Where windows share a caption, chance contains matches, and the lead is smaller than with captions
that all differ. That of the true patches is smaller in the same proportion, so that the
*normalised* score, one lead over the other, is not affected: 0 is chance, 1 the true patches.

References
----------
NEURRATOR (arXiv 2606.18667), "SBERT": matched, shuffled and floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.narrations.sbert import SentenceEncoder, sentence_vectors, word_salads
from evaluation.scores import own_and_others


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """One narrator's sentences against the captions."""

    n_different: int  # Different sentences
    n_failed: int  # Narrations without text, which are like nothing: cosine 0
    # Mean cosines, each with its 95 % interval
    matched: Interval
    chance: Interval
    floor: Interval  # With sentences of random words
    lead: Interval  # Matched less chance
    normalised: Interval  # Lead as a share of that of the true patches; NaN if that is at chance
    over: Mapping[str, Interval]  # Lead less that of each control

    @property
    def verdict(self) -> str:
        """``above controls``, ``above chance`` alone, ``at chance``, or ``no verdict``."""
        if not self.lead.is_known:
            return "no verdict"
        if self.lead.low <= 0:
            return "at chance"
        is_above = self.over and all(lead.low > 0 for lead in self.over.values())
        return "above controls" if is_above else "above chance"


def caption_scores(
    texts: Mapping[str, Sequence[str]],
    captions: Sequence[str],
    encoder: SentenceEncoder,
    draws: Draws,
    *,
    controls: Sequence[str],
    seed: int = 0,
) -> dict[str, CaptionScores]:
    """Score narrators on the same windows, in the order of `texts`.

    Parameters
    ----------
    texts : mapping of str to sequence of str
        By narrator, one sentence for each caption; `TRUE_PATCHES` is among them. The empty text
        has cosine 0 with everything.
    draws : Draws
        Of the windows.
    controls : sequence of str
        Those of the narrators that know nothing of the frame.
    seed : int
        Of the sentences of random words.

    Raises
    ------
    MisuseError
        If a narrator has not one sentence for each caption, or there are fewer than two.
    """
    n = len(captions)
    wrong = {name: len(sentences) for name, sentences in texts.items() if len(sentences) != n}
    if wrong or n < 2:
        raise MisuseError(f"one sentence for each of two captions or more: {wrong} for {n}")
    salads = word_salads(seed)
    every = [*captions, *salads, *(text for sentences in texts.values() for text in sentences)]
    vectors = sentence_vectors(every, encoder)
    to = np.stack([vectors[caption] for caption in captions])
    random_words = np.stack([vectors[salad] for salad in salads])
    measured = {
        name: _Cosines.of(np.stack([vectors[text] for text in sentences]), to, random_words)
        for name, sentences in texts.items()
    }
    ceiling = measured[TRUE_PATCHES].lead
    has_ceiling = _is_above_zero(interval(draws.ratio(ceiling)))
    return {
        name: CaptionScores(
            n_different=len(set(texts[name])),
            n_failed=sum(not text.strip() for text in texts[name]),
            matched=interval(draws.ratio(cosines.matched)),
            chance=interval(draws.ratio(cosines.chance)),
            floor=interval(draws.ratio(cosines.floor)),
            lead=interval(draws.ratio(cosines.lead)),
            normalised=interval(draws.ratio(cosines.lead, ceiling if has_ceiling else 0 * ceiling)),
            over={
                control: interval(draws.ratio(cosines.lead - measured[control].lead))
                for control in controls
                if name not in controls
            },
        )
        for name, cosines in measured.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Cosines:
    """Cosines window by window, each of shape (n,)."""

    matched: NDArray[np.float64]
    chance: NDArray[np.float64]
    floor: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        narrated: NDArray[np.float32],
        captions: NDArray[np.float32],
        random_words: NDArray[np.float32],
    ) -> _Cosines:
        cosines = narrated.astype(np.float64) @ captions.T.astype(np.float64)
        return cls(
            *own_and_others(cosines), (narrated @ random_words.T).mean(axis=1).astype(np.float64)
        )

    @property
    def lead(self) -> NDArray[np.float64]:
        return self.matched - self.chance


def _is_above_zero(lead: Interval) -> bool:
    return lead.low > 0 if lead.is_known else lead.value > 0
