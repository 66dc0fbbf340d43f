"""Makes the narrator of the settings. torch is imported when a model is loaded, and not before."""

from __future__ import annotations

from contracts.garbage import collector_paused
from contracts.manifest import Manifest
from daemon.narrators.features import FeatureNarrator, load_features
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.protocol import Narrator
from daemon.narrators.retrieval import RetrievalNarrator
from daemon.service.settings import NarratorSettings, VllmSettings


def load_narrator(
    settings: NarratorSettings, manifest: Manifest, *, vllm: VllmSettings | None = None
) -> Narrator:
    """Make a narrator, which takes seconds to minutes.

    It is warm: its first narration takes as long as any other. The servers of `vllm` are used by
    that back-end alone; None takes the defaults.
    """
    if settings.features is None:
        return _load(settings, manifest, vllm)
    # Before the language model: a file that is refused is refused at once.
    namer = load_features(settings.features, manifest, settings.feature_set)
    return FeatureNarrator(_load(settings, manifest, vllm), namer)


def _load(settings: NarratorSettings, manifest: Manifest, vllm: VllmSettings | None) -> Narrator:
    if settings.backend == "retrieval":
        return RetrievalNarrator(manifest)
    of_bundle = manifest.model.language_model
    model = settings.model or of_bundle.model_id
    revision = "" if settings.model else of_bundle.revision
    if settings.backend == "vllm":
        from daemon.narrators.vllm.narrator import VllmNarrator  # imports its HTTP library

        return VllmNarrator(
            model,
            revision=revision,
            manifest=manifest,
            settings=settings,
            vllm=vllm or VllmSettings(),
        )
    with collector_paused():
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
