"""Choose a narrator by name. Neither module imports torch before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from contracts.errors import UserError
from contracts.manifest import Manifest
from daemon.narrators.llava import MAX_NEW_TOKENS, PROMPT, LlavaNarrator
from daemon.narrators.protocol import Narrator
from daemon.narrators.retrieval import RetrievalNarrator

BACKENDS = ("llava", "retrieval")
"""Names in settings."""


def load_narrator(
    backend: str,
    *,
    manifest: Manifest,
    model: str | Path | None = None,
    prompt: str = PROMPT,
    max_new_tokens: int = MAX_NEW_TOKENS,
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Narrator:
    """Make a narrator; called in the worker process, may take minutes.

    Parameters
    ----------
    backend : {"llava", "retrieval"}
        Which. ``retrieval`` has no language model and takes nothing but the bundle.
    manifest : Manifest
        Of the bundle that the patches come from.
    model, prompt, max_new_tokens, dtype, device, threads
        As in `LlavaNarrator`; None takes the model that the bundle names.

    Returns
    -------
    Narrator

    Raises
    ------
    UserError
        If there is no such back-end.
    """
    if backend == "retrieval":
        return RetrievalNarrator(manifest)
    if backend == "llava":
        return LlavaNarrator(
            model or manifest.model.language_model.model_id,
            manifest=manifest,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            device=device,
            threads=threads,
        )
    raise UserError(f"narrator.backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
