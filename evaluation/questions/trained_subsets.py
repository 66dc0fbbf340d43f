"""An encoder for each subset of the units, trained as the bundle's was: what masking may lose.

A subset's data set, run and bundle lie in a folder that is named after their content, so that a
finished one is not trained again and a stopped one goes on after its newest pass.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.manifest import ENCODER_WEIGHTS, Manifest, sha256_of
from contracts.population import Population, Selection
from contracts.progress import ProgressBar
from encoder_export.export import ExportRequest, export_run
from encoder_training.data_set.prepared_facts import FACTS, load_facts
from encoder_training.data_set.prepared_files import link_patches, load_prepared, write_prepared
from encoder_training.run_files import RunModel, load_run_model
from encoder_training.train_run import TrainRequest, train_run
from evaluation.caption_scores.narrating import Narrated
from evaluation.questions.inputs import EvaluateRequest, EvaluationInputs

FOLDER = "trained"
"""In the folder of results."""

PARITY_WINDOWS = 64
TEST_WINDOWS = 50
"""Of an export's comparison and a run's own report, which nobody reads here."""


@dataclass(frozen=True, slots=True)
class TrainedSubset:
    """Where the files of a subset are."""

    name: str
    folder: Path

    @property
    def data(self) -> Path:
        """Its data set."""
        return self.folder / "data"

    @property
    def bundle(self) -> Path:
        """Its bundle, there as soon as the subset is finished."""
        return self.folder / "bundle"


def load_trained_run(folder: Path, manifest: Manifest) -> RunModel:
    """Read the run that a bundle was exported from.

    Raises
    ------
    UserError
        If it is another one, is not finished, or trained nothing.
    """
    named = manifest.model.training_data.sha256
    if not named:
        raise UserError(
            f"--run trains an encoder for each subset as the bundle's was trained, and "
            f"{manifest.folder} names no training. Leave --run out, or take a bundle of 'neurrate "
            "train' and 'export'."
        )
    run = load_run_model(folder)
    if not run.finished:
        raise UserError(f"the run in {folder} is not finished. Go on with: {run.command}")
    hashes = {
        "its data set": (run.dataset_sha256, named),
        ENCODER_WEIGHTS: (
            sha256_of(folder / ENCODER_WEIGHTS),
            manifest.model.sha256[ENCODER_WEIGHTS],
        ),
    }
    for what, (of_run, of_bundle) in hashes.items():
        if of_run != of_bundle:
            raise UserError(
                f"--run must be the run that {manifest.folder} was exported from, and {folder} is "
                f"another: the sha256 of {what} is {of_run[:12]}, and {of_bundle[:12]} in the "
                "bundle. Name the bundle's run, or leave --run out."
            )
    if run.weights_sha256:
        raise UserError(
            f"--run trains each subset from random weights, and {folder} began with a checkpoint, "
            "whose units cannot be left out. Leave --run out."
        )
    return run


def train_subsets(
    inputs: EvaluationInputs, run: RunModel, sets: Sequence[Selection]
) -> list[TrainedSubset]:
    """Train and export an encoder for each set of units, where it is not there yet."""
    from joblib import Parallel, delayed

    request = inputs.request
    options = replace(run.options, device=request.local_device)
    run = run.model_copy(update={"options": options})
    subsets = [TrainedSubset(one.name, _folder(request, run, one.mask)) for one in sets]
    missing = [at for at, subset in enumerate(subsets) if not subset.bundle.is_dir()]
    calls = (delayed(_make)(subsets[at], request, run, sets[at].mask) for at in missing)
    n_jobs = max(1, min(request.local_workers, len(missing)))
    with ProgressBar(total=len(missing), desc="training subsets", unit="encoder") as bar:
        for _ in Parallel(n_jobs, return_as="generator_unordered")(calls):
            bar.update()
    return subsets


def narrate_trained(
    inputs: EvaluationInputs, run: RunModel, sets: Sequence[Selection], windows: NDArray[np.int64]
) -> dict[str, list[Narrated]]:
    """Narrate windows through an encoder of its own for each set of units, by their names."""
    narrated = {}
    for subset in train_subsets(inputs, run, sets):
        every = load_prepared(subset.data).population.select("all")
        of = inputs.narrate([every], windows=windows, bundle=subset.bundle, dataset=subset.data)
        narrated[subset.name] = of[every.name]
    return narrated


def _folder(request: EvaluateRequest, run: RunModel, mask: NDArray[np.bool_]) -> Path:
    content = run.model_dump_json(include={"dataset_sha256", "spec", "options", "window"})
    key = sha256(f"{content} {np.packbits(mask).tobytes().hex()}".encode()).hexdigest()
    return request.out.resolve() / FOLDER / f"{int(mask.sum())}-{key[:12]}"


def _make(
    subset: TrainedSubset, request: EvaluateRequest, run: RunModel, mask: NDArray[np.bool_]
) -> None:
    _write_data(subset, request.dataset, mask)
    training = TrainRequest(
        dataset=subset.data,
        folder=subset.folder / "run",
        size=run.spec,
        lags_ns=(run.lag_ns,),
        options=run.options,
        command=request.command,
        concepts=run.concepts,
        test_windows=TEST_WINDOWS,
        n_threads=1,
    )
    with redirect_stderr(io.StringIO()):  # bars of several processes would write over each other
        train_run(training, overwrite=False, notify=lambda line: None)
        export_run(
            ExportRequest(
                run=training.folder,
                bundle=subset.bundle,
                precision="float32",
                engine=None,
                populations=1,
                windows=PARITY_WINDOWS,
                narrations=0,
                model=request.model,
                dataset=None,
                stride_bins=None,
                seed=request.seed,
            ),
            overwrite=False,
        )


def _write_data(subset: TrainedSubset, dataset: Path, mask: NDArray[np.bool_]) -> None:
    """Write the data set with some of its units; the patches are the same file, if they can be."""
    if (subset.data / FACTS).exists():
        return
    prepared, facts = load_prepared(dataset), load_facts(dataset)
    subset.data.mkdir(parents=True, exist_ok=True)
    link_patches(dataset, subset.data)
    units = [unit for unit, is_in in zip(prepared.population.units, mask, strict=True) if is_in]
    write_prepared(
        subset.data,
        replace(
            prepared,
            population=Population(units),
            counts=np.ascontiguousarray(prepared.counts[:, mask]),
        ),
        movies={movie.name: movie.n_frames for movie in facts.movies},
        options=facts.options,
        notes=(f"{len(units)} of {len(mask)} units of {dataset}",),
        model_folder=facts.model_folder,
    )
