"""Whether a sentence alone tells which population it is from.

TF-IDF of words and pairs of words, and a ridge classifier: one linear system for all permutations
of the labels, where a logistic regression would be fitted a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from evaluation.questions.chance import Positions, p_value

N_FOLDS = 5
N_PERMUTATIONS = 999
RIDGE = 1.0
BLOCK_GROUPS = 4
"""Blocks in which labels are permuted, for each fold."""

PERMUTATION_STREAM = 16


@dataclass(frozen=True, slots=True, eq=False)
class TextClassification:
    """How well sentences are told apart, and how well if their labels mean nothing."""

    names: tuple[str, ...]
    accuracy: Interval
    confusion: NDArray[np.float64]  # (n, n): by true name, the share of each name that is called
    null: NDArray[np.float64]  # (n_permutations,): accuracies
    p: float
    n_blocks: int  # Within which labels were permuted


def classify(
    texts: Mapping[str, Sequence[str]], positions: Positions, draws: Draws, *, seed: int = 0
) -> TextClassification:
    """Tell populations apart by their sentences on the same windows.

    Folds are contiguous parts of the movies, all showings together. In a permutation the names
    change places among the populations, the same way within each of several blocks of a fold: the
    sentences of neighbouring frames stay together.
    """
    names = tuple(texts)
    n, n_windows = len(names), len(positions.of_window)
    sentences = [text for of in texts.values() for text in of]
    fold = positions.of_window * N_FOLDS // len(positions)
    block = positions.of_window * N_FOLDS * BLOCK_GROUPS // len(positions)
    rng = np.random.default_rng([seed, PERMUTATION_STREAM])
    orders = _orders(rng, n, block)
    # (1 + n_permutations, n, n_windows): the name of each sentence, the true one first
    true = np.broadcast_to(np.arange(n)[:, np.newaxis], (n, n_windows))
    labels = np.concatenate([true[np.newaxis], orders]).astype(np.int8)
    labels = labels.reshape(len(labels), -1)
    called = np.empty_like(labels)
    for held_out in range(N_FOLDS):
        is_test = np.tile(fold == held_out, n)
        if is_test.any() and not is_test.all():
            called[:, is_test] = _fold(sentences, labels, is_test, n)
    right = called == labels
    accuracy = right.mean(axis=1)
    of_window = right[0].reshape(n, n_windows).mean(axis=0)
    confusion = np.zeros((n, n))
    np.add.at(confusion, (labels[0], called[0]), 1 / n_windows)
    return TextClassification(
        names=names,
        accuracy=interval(draws.ratio(of_window)),
        confusion=confusion,
        null=accuracy[1:],
        p=p_value(float(accuracy[0]), accuracy),
        n_blocks=len(np.unique(block)),
    )


def _orders(rng: np.random.Generator, n: int, block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw names for the populations in each block, shape (n_permutations, n, n_windows)."""
    n_blocks = int(block.max()) + 1
    identity = np.broadcast_to(np.arange(n), (N_PERMUTATIONS, n_blocks, n))
    drawn = rng.permuted(identity, axis=2)
    orders: NDArray[np.int64] = drawn[:, block].transpose(0, 2, 1)
    return orders


def _fold(
    sentences: Sequence[str], labels: NDArray[np.int8], is_test: NDArray[np.bool_], n: int
) -> NDArray[np.int8]:
    """Return the names that the test sentences are given, for every labelling."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = [text for text, is_in in zip(sentences, is_test, strict=True) if not is_in]
    test = [text for text, is_in in zip(sentences, is_test, strict=True) if is_in]
    x = reader.fit_transform(train).toarray()
    x_test = reader.transform(test).toarray()
    mean = x.mean(axis=0)
    x, x_test = x - mean, x_test - mean
    # (n_test, n_train): what each training label adds to the score of each test sentence
    weights = x_test @ np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T)
    called = np.empty((len(labels), len(test)), np.int8)
    for at, of_train in enumerate(labels[:, ~is_test]):
        called[at] = (weights @ np.eye(n)[of_train]).argmax(axis=1)
    return called
