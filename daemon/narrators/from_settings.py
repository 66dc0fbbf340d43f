"""The narrator that the settings ask for."""

from __future__ import annotations

from contracts.manifest import Manifest
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator
from daemon.settings import NarratorSettings


def narrator_from(settings: NarratorSettings, manifest: Manifest) -> Narrator:
    """Load a narrator; may take minutes.

    Parameters
    ----------
    settings : NarratorSettings
    manifest : Manifest
        Of the bundle that the patches come from.
    """
    return load_narrator(
        settings.backend,
        manifest=manifest,
        model=settings.model,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
    )
