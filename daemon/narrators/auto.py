"""The narrator that the settings ask for. torch comes in when a model is loaded, and not before."""

from __future__ import annotations

from contracts.manifest import Manifest
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.protocol import Narrator
from daemon.narrators.retrieval import RetrievalNarrator
from daemon.service.settings import NarratorSettings, VllmSettings


def load_narrator(
    settings: NarratorSettings, manifest: Manifest, *, vllm: VllmSettings | None = None
) -> Narrator:
    """Make a narrator; may take minutes.

    Parameters
    ----------
    settings : NarratorSettings
    manifest : Manifest
        Of the bundle that the patches come from.
    vllm : VllmSettings, optional
        The servers, for that back-end alone; None takes the defaults.

    Returns
    -------
    Narrator
        Warm: its first narration takes as long as any other.
    """
    if settings.backend == "retrieval":
        return RetrievalNarrator(manifest)
    named = manifest.model.language_model
    model = settings.model or named.model_id
    revision = "" if settings.model else named.revision
    if settings.backend == "vllm":
        from daemon.narrators.vllm.narrator import VllmNarrator  # with its HTTP library

        return VllmNarrator(
            model,
            revision=revision,
            manifest=manifest,
            settings=settings,
            vllm=vllm or VllmSettings(),
        )
    return LlavaNarrator(
        model,
        revision=revision,
        manifest=manifest,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
        deadline_s=settings.deadline_s,
        max_rows=settings.max_rows,
        joins=bool(settings.joins),
    )
