"""An encoder for one kind of spikes: prepared, trained and exported as for any recording."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaluation.simulated_encoder import SHIPPED_MODEL, WINDOW

if TYPE_CHECKING:
    from contracts.manifest import Manifest

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.05
"""Of the training movie; the scores of a rehearsal are on a movie of its own."""

TARGET_EVERY = 3
"""Frames between two that the encoder learns from: neighbours look alike."""

TEST_WINDOWS = 200
COMPARED_WINDOWS = 32
"""Of a training's own evaluation and of an export's check, which a rehearsal does not report."""


def make_encoder(
    recording: Path,
    movies: Path,
    folder: Path,
    *,
    movie: str,
    size: Literal["small", "tiny"],
    epochs: int,
    seed: int,
    command: str,
    patches_from: Path,
) -> Manifest:
    """Make a bundle of a recording's units and one movie that was shown.

    `patches_from` is the folder of another encoder for the same frames, whose patches are used
    again if they are there.
    """
    from contracts.manifest import load_manifest
    from encoder_training.data_set.prepared_facts import PATCHES
    from encoder_training.options import TrainingOptions
    from encoder_training.train_run import TrainRequest, train_run

    data, run, bundle = (folder / name for name in ("data", "run", "bundle"))
    data.mkdir(parents=True)
    if (known := patches_from / "data" / PATCHES).is_file():
        shutil.copyfile(known, data / PATCHES)
    _prepare(recording, movies, data, movie=movie, seed=seed, command=command)
    request = TrainRequest(
        dataset=data,
        folder=run,
        size=size,
        lags_ns=(WINDOW.lag_ns,),
        options=TrainingOptions.evidence(training_epochs=epochs, seed=seed),
        command=command,
        test_windows=TEST_WINDOWS,
    )
    train_run(request, overwrite=False, notify=lambda line: None)
    _export(data, run, bundle, seed=seed)
    return load_manifest(bundle)


def _prepare(
    recording: Path, movies: Path, data: Path, *, movie: str, seed: int, command: str
) -> None:
    from encoder_training.data_set.prepare import PrepareOptions, build_data_set
    from encoder_training.data_set.prepare_captions import CaptionOptions
    from encoder_training.data_set.splits import SplitOptions

    prepare = PrepareOptions(
        recording=str(recording),
        out=data,
        frames=movies,
        model=str(SHIPPED_MODEL),
        window=WINDOW,
        split=SplitOptions(
            "middle", fraction=TEST_SHARE, validation_fraction=VALIDATION_SHARE, seed=seed
        ),
        captions=CaptionOptions(),
        stimuli=(movie,),
        every=TARGET_EVERY,
    )
    build_data_set(prepare, command=command)


def _export(data: Path, run: Path, bundle: Path, *, seed: int) -> None:
    from encoder_export.export import ExportRequest, export_run

    export = ExportRequest(
        run=run,
        bundle=bundle,
        precision="float32",
        engine=None,
        populations=1,
        windows=COMPARED_WINDOWS,
        narrations=0,
        model=str(SHIPPED_MODEL),
        dataset=data,
        stride_bins=None,
        seed=seed,
    )
    export_run(export, overwrite=False)
