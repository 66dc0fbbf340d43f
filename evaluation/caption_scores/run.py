"""Score a bundle on the held-out windows of its data set: load, narrate, compare."""

from __future__ import annotations

from contracts.manifest import load_manifest
from contracts.population import CONTROLS
from daemon.service.settings import NarratorSettings
from encoder_training.evaluation.bootstrap import draw_groups
from encoder_training.frames.hub import short_name
from evaluation.caption_scores.inputs import (
    CaptionScoreRequest,
    captioned_windows,
    selections_of,
)
from evaluation.caption_scores.narrating import narrate_windows
from evaluation.caption_scores.report import CaptionReport, ScoredWindow
from evaluation.caption_scores.scoring import caption_scores
from evaluation.narrations.sbert import load_sentence_model

PACKAGED_MODEL = "all-MiniLM-L6-v2"


def score_bundle(request: CaptionScoreRequest, *, command: str) -> CaptionReport:
    """Narrate held-out windows through each population, and compare with the captions.

    Raises
    ------
    UserError
        If the data set is not the bundle's, has too few captions, or a model cannot be loaded.
    DependencyError
        If a package is not installed.
    """
    manifest = load_manifest(request.bundle)
    selections = selections_of(manifest.population, request.populations)
    windows = captioned_windows(manifest, request.dataset, at_most=request.windows)
    encoder = load_sentence_model(request.sentence_model)  # refused before the long work
    settings = NarratorSettings(
        backend=request.narrator,
        model=request.model,
        device=request.device,
        threads=request.threads,
    )
    narrated = narrate_windows(windows, selections, manifest, settings)
    draws = draw_groups(windows.group, seed=request.seed)
    names = [selection.name for selection in selections]
    language_model = request.model or manifest.model.language_model.model_id
    return CaptionReport(
        command=command,
        bundle=manifest.sha256,
        dataset=manifest.model.training_data.sha256,
        recording=manifest.model.training_data.recording,
        narrator=request.narrator,
        model=short_name(language_model) if request.narrator == "llava" else "",
        sentence_model=short_name(request.sentence_model or PACKAGED_MODEL),
        n_test=windows.n_test,
        n_without=windows.n_without,
        n_truncated=narrated.n_truncated,
        n_groups=draws.n_groups,
        drawn=windows.drawn,
        n_units={selection.name: selection.n_units for selection in selections},
        labels={selection.name: selection.label or selection.name for selection in selections},
        scores=caption_scores(
            narrated.texts,
            windows.captions,
            encoder,
            draws,
            controls=[name for name in names if name in CONTROLS],
            seed=request.seed,
        ),
        windows=tuple(
            ScoredWindow(label, caption, {name: of[row] for name, of in narrated.texts.items()})
            for row, (label, caption) in enumerate(
                zip(windows.labels, windows.captions, strict=True)
            )
        ),
    )
