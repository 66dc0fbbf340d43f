"""Concepts: the words of captions that some frames have and others have not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError, UserError, listed
from contracts.words import singular, words_in

SHARES = (0.05, 0.95)
"""Of the training frames: a rarer or a commoner word leaves too few examples of one side."""

MAX_CONCEPTS = 40
"""Words that are taken, at most, those nearest to half of the frames first."""


def words_of(caption: str) -> frozenset[str]:
    """Return the words of a caption, lower case, plurals as singulars.

    What follows "no" or "without" is left out, to the end of the phrase. Other ways to say that
    something is absent are not understood: "a street free of cars" has cars.

    >>> sorted(words_of("Two buses pass a grey house; 3 boxes."))
    ['a', 'box', 'bus', 'grey', 'house', 'pass', 'two']
    >>> sorted(words_of("A road without cars or people on a hill, no visible dog."))
    ['a', 'hill', 'on', 'road']
    """
    return frozenset(words_in(caption))


def parse_concepts(text: str) -> tuple[str, ...] | None:
    """Return the words between commas, each once, in lower case; None if there are none.

    >>> parse_concepts("car, Dog,car")
    ('car', 'dog')
    """
    words = [word.strip().lower() for word in text.split(",")]
    return tuple(dict.fromkeys(word for word in words if word)) or None


def choose_concepts(captions: Sequence[str]) -> tuple[str, ...]:
    """Choose the content words that 5 to 95 % of the captions have.

    They are in alphabetical order, `MAX_CONCEPTS` at most.

    Raises
    ------
    DependencyError
        If scikit-learn, whose list of stop words is used, is not installed.

    References
    ----------
    Stop words: Glasgow information retrieval group, as scikit-learn ships them.
    """
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError as error:
        raise DependencyError(
            "Concept probes need scikit-learn. Run: pip install 'neurrate[train]'."
        ) from error
    known = [words_of(caption) for caption in captions if caption]
    times = Counter(word for words in known for word in words)
    shares = {
        word: n / len(known)
        for word, n in times.items()
        if word not in ENGLISH_STOP_WORDS and len(word) > 1
    }
    fit = [word for word, share in shares.items() if SHARES[0] <= share <= SHARES[1]]
    nearest = sorted(fit, key=lambda word: (abs(shares[word] - 0.5), word))
    return tuple(sorted(nearest[:MAX_CONCEPTS]))


def label_frames(captions: Sequence[str], concepts: Sequence[str]) -> NDArray[np.int8]:
    """Label which concepts each frame's caption names.

    Returns int8 of shape (n_frames, n_concepts), 1 or 0; -1 for a frame without a caption.
    """
    wanted = [singular(concept.lower()) for concept in concepts]
    label = np.full((len(captions), len(wanted)), -1, dtype=np.int8)
    for row, caption in enumerate(captions):
        if caption:
            words = words_of(caption)
            label[row] = [concept in words for concept in wanted]
    return label


def check_concepts(concepts: Sequence[str], captions: Sequence[str]) -> None:
    """Refuse concepts that training frames do not tell apart.

    Raises
    ------
    UserError
        If one is named by no caption, or by all.
    """
    label = label_frames([caption for caption in captions if caption], concepts)
    useless = [
        concept
        for concept, column in zip(concepts, label.T, strict=True)
        if not (column == 1).any() or not (column == 0).any()
    ]
    if useless:
        raise UserError(
            "a concept must be a word that some captions of training frames have and others have "
            f"not; {listed(useless)} is in none of them or in all. Name other words with "
            "--concepts, or leave it out to have them chosen."
        )
