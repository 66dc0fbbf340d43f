"""The steps of ``neurrate train``: choose the lag, train, evaluate.

The same command given again resumes where the run stopped.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch  # noqa: TID253 - this module trains

from contracts.atomic_files import check_folder_writable, write_json
from contracts.errors import DependencyError, UserError
from contracts.manifest import WindowModel, sha256_of
from encoder_training.checkpoint import flat
from encoder_training.confidence.confidence_files import save_confidence
from encoder_training.confidence.fitting import fit_confidence
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import Split, TrainingSet, measure_scaling
from encoder_training.evaluation.evaluate import MAX_WINDOWS, evaluate_encoder
from encoder_training.evaluation.report import write_report
from encoder_training.evaluation.results import METRICS
from encoder_training.history import TrainingEpoch, plot_history, write_history
from encoder_training.initial_weights import InitialWeights, load_initial_weights
from encoder_training.lag import choose_lag, plot_lags
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.probes.concepts import check_concepts
from encoder_training.probes.fitting import fit_probes, save_probes
from encoder_training.run_files import (
    CHECKPOINT,
    CURVES,
    HISTORY,
    HISTORY_TAIL,
    LAG_PICTURE,
    RESULTS,
    RUN_NAME,
    RunFolder,
    RunModel,
    begin_run,
    load_run_model,
    write_run,
)
from encoder_training.training import TrainingResult, train_encoder
from encoder_training.weights import variant_of

IN_TABLE = ("cosine", "skill", "within_1s", "rank")
"""Scores that the terminal shows; report.md has them all."""

COMPARED = ("dataset_sha256", "variant", "spec", "options", "weights_sha256", "zscore_sha256",
            "judged_only", "concepts", "test_windows", "lags_ns")  # fmt: skip
"""What makes two runs the same one."""

Notify = Callable[[str], None]
"""Is given a line for each thing that a person wants to know."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The options of ``neurrate train``."""

    dataset: Path
    folder: Path
    size: Literal["paper", "small", "tiny"] | EncoderSpec  # Or that of another run
    lags_ns: tuple[int, ...]  # Candidates for the lag, or the lag itself
    options: TrainingOptions
    command: str
    weights: Path | None = None
    heads: int = 8
    zscore: Path | None = None  # Statistics of `weights`; by default those beside a checkpoint
    evaluates_only: bool = False
    concepts: tuple[str, ...] | None = None
    test_windows: int | None = None  # Most windows to evaluate on; `MAX_WINDOWS` if None
    n_threads: int | None = None


def train_run(request: TrainRequest, *, overwrite: bool, notify: Notify) -> list[dict[str, object]]:
    """Do what is not done yet of a run.

    With `overwrite` a run that is there is replaced, once all that can be refused has been.
    Returns the rows of the table of scores; none if the run was finished already.

    Raises
    ------
    UserError
        If the folder holds another run, or something else, or a named concept is in no caption.
    """
    # cuBLAS reads it once, when the first product is made; without it sums differ from run to run
    # (docs.nvidia.com, cuBLAS, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    check_folder_writable(request.folder)
    check_libraries()
    if request.n_threads is not None:
        torch.set_num_threads(request.n_threads)
    notify(f"checking the files of {request.dataset}")
    prepared = load_prepared(request.dataset, check_hashes=True)
    initial = _initial_weights(request, prepared)
    wanted = _wanted_run(request, prepared, initial)
    begun = _begun_run(request.folder, wanted, overwrite=overwrite)
    if begun is not None and begun.finished:
        n_passes, kept = begun.n_passes, begun.best_pass
        notify(f"{request.folder} is finished: {n_passes} passes, its weights are of pass {kept}")
        return []
    model = begun or _with_lag(request, prepared, wanted, notify)
    data, parts = prepared.windows(model.lag_ns)
    if request.concepts is not None:
        seen = data.frame[parts.train]
        check_concepts(request.concepts, [prepared.frames.captions[row] for row in set(seen)])
    if begun is None:
        begin_run(request.folder, model)
    if model.lag_choice is not None:
        plot_lags(model.lag_choice, request.folder / LAG_PICTURE)
    run = _trained(request, model, data, parts, initial, notify)
    rows = _evaluated(request, prepared, data, parts, run, notify)
    (request.folder / CHECKPOINT).unlink(missing_ok=True)
    return rows


def check_libraries() -> None:
    """Refuse to begin without what the end needs.

    Raises
    ------
    DependencyError
        With all that is missing.
    """
    modules = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
    missing = [name for module, name in modules.items() if not importlib.util.find_spec(module)]
    if missing:
        raise DependencyError(
            f"Training needs {' and '.join(missing)}. Run: pip install 'neurrate[train]'"
        )


def _initial_weights(request: TrainRequest, prepared: PreparedSet) -> InitialWeights | None:
    if request.weights is None:
        return None
    return load_initial_weights(
        request.weights,
        prepared,
        n_heads=request.heads,
        zscore=request.zscore,
        variant=request.options.variant,
        evaluates_only=request.evaluates_only,
    )


def _wanted_run(
    request: TrainRequest, prepared: PreparedSet, initial: InitialWeights | None
) -> RunModel:
    """Return the run that is requested, its lag the first of the list."""
    sizes = {"paper": EncoderSpec, "small": EncoderSpec.small, "tiny": EncoderSpec.tiny}
    n_units, grid, size = len(prepared.population), prepared.grid, request.size
    spec = (
        replace(size, n_units=n_units, grid=grid)
        if isinstance(size, EncoderSpec)
        else sizes[size](n_units, grid)
    )
    window, zscore = prepared.window, initial.scaling_file if initial else None
    return RunModel(
        dataset=str(request.dataset),
        dataset_sha256=prepared.training_data.sha256,
        training_data=prepared.training_data,
        language_model=prepared.language_model,
        variant=variant_of(initial.encoder) if initial else request.options.variant,
        spec=initial.encoder.spec if initial else spec,
        options=request.options,
        weights_sha256=sha256_of(request.weights) if request.weights is not None else "",
        zscore_sha256=sha256_of(zscore) if zscore is not None else "",
        judged_only=request.evaluates_only,
        concepts=request.concepts,
        test_windows=request.test_windows,
        lags_ns=request.lags_ns,
        window=WindowModel(
            bin_rate_num=window.rate.num,
            bin_rate_den=window.rate.den,
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=request.lags_ns[0],
        ),
        command=request.command,
    )


def _begun_run(folder: Path, wanted: RunModel, *, overwrite: bool) -> RunModel | None:
    """Return the run in the folder, to be resumed; None if a new one begins.

    Raises
    ------
    UserError
        If there is another run, with what differs, or something that is no run.
    """
    if not (folder / RUN_NAME).exists():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} holds something that is no run. Choose a new folder.")
        return None
    if overwrite:
        return None
    begun = load_run_model(folder)
    before, now = (flat(model.model_dump(include=set(COMPARED))) for model in (begun, wanted))
    differ = [
        f"{name} ({before.get(name)} there, {now.get(name)} now)"
        for name in now
        if before.get(name) != now[name]
    ]
    if differ:
        raise UserError(
            f"{folder} holds another run; these differ: {', '.join(differ)}. Choose a new folder, "
            "go on with the same options, or start again with --overwrite."
        )
    return begun


def _with_lag(
    request: TrainRequest, prepared: PreparedSet, wanted: RunModel, notify: Notify
) -> RunModel:
    if len(request.lags_ns) == 1:
        return wanted
    choice = choose_lag(prepared, request.lags_ns, seed=request.options.seed)
    notify(
        f"lag {choice.lag_ns / 1e6:g} ms: the shortest within a standard error of the best of "
        f"{', '.join(f'{score.lag_ns / 1e6:g}' for score in choice.scores)} ms"
    )
    window = wanted.window.model_copy(update={"lag_ns": choice.lag_ns})
    return wanted.model_copy(update={"window": window, "lag_choice": choice})


def _trained(
    request: TrainRequest,
    model: RunModel,
    data: TrainingSet,
    parts: Split,
    initial: InitialWeights | None,
    notify: Notify,
) -> RunFolder:
    """Train from the last checkpoint on, if there is one, and write weights and scaling."""
    if initial is not None:
        notify(f"z-score statistics: {initial.scaling_source}")
    if request.evaluates_only and initial is not None:
        scaling = initial.scaling or measure_scaling(data, parts.train)
        trained = TrainingResult(initial.encoder, scaling, (), data.group[parts.validation])
    else:
        trained = _train(request, model, data, parts, initial, notify)
    model = model.model_copy(
        update={
            "n_passes": len(trained.history),
            "best_pass": trained.kept_pass,
            "history_tail": trained.history[-HISTORY_TAIL:],
        }
    )
    write_run(request.folder, model, encoder=trained.encoder, scaling=trained.scaling)
    return RunFolder(model, trained.encoder, trained.scaling)


def _train(
    request: TrainRequest,
    model: RunModel,
    data: TrainingSet,
    parts: Split,
    initial: InitialWeights | None,
    notify: Notify,
) -> TrainingResult:
    folder, n_passes = request.folder, request.options.training_epochs
    history: list[TrainingEpoch] = []

    def write_rows() -> None:
        write_history(history, folder / HISTORY)
        plot_history(history, folder / CURVES)

    def on_resume(before: tuple[TrainingEpoch, ...]) -> None:
        history.extend(before)
        write_rows()  # a run killed right after a checkpoint has not written that pass
        notify(f"going on after pass {len(before)} of {n_passes}")

    def on_epoch(row: TrainingEpoch) -> None:
        history.append(row)
        notify(
            f"pass {row.training_epoch} of {n_passes}: validation cosine "
            f"{row.validation_cosine:.3f}, skill {row.skill:.3f}, {row.elapsed_s:,.0f} s"
        )
        write_rows()

    encoder = initial.encoder if initial else None
    return train_encoder(
        model.spec,
        data,
        model.options,
        on_epoch,
        parts=parts,
        initial=encoder if isinstance(encoder, PatchEncoder) else None,
        # Statistics of its own stay with a checkpoint while it is trained: its weights fit them,
        # and by others its first outputs would be of other counts than those that it learned from.
        scaling=initial.scaling if initial else None,
        checkpoint=folder / CHECKPOINT,
        on_resume=on_resume,
    )


def _evaluated(
    request: TrainRequest,
    prepared: PreparedSet,
    data: TrainingSet,
    parts: Split,
    run: RunFolder,
    notify: Notify,
) -> list[dict[str, object]]:
    """Evaluate encoder and probes on the test windows, and write the report."""
    folder, seed = request.folder, request.options.seed
    notify("evaluating on the test windows")
    encoder = run.encoder.to(request.options.device)
    results = evaluate_encoder(
        prepared,
        data,
        parts,
        encoder,
        run.scaling,
        seed=seed,
        max_windows=request.test_windows or MAX_WINDOWS,
    )
    masking = request.options.masking
    probes = fit_probes(
        prepared, data, parts, encoder, run.scaling,
        concepts=request.concepts, seed=seed, masking=masking,
    )  # fmt: skip
    confidence = fit_confidence(
        prepared, data, parts, encoder, run.scaling, seed=seed, masking=masking
    )
    encoder.to("cpu")
    save_probes(probes, folder)
    save_confidence(confidence, folder)
    write_json(folder / RESULTS, results.to_json())
    write_report(folder, results, probes, confidence, variant=run.model.variant)
    own = results.method("encoder").scores
    scores = {name: own[name].value for name in METRICS if math.isfinite(own[name].value)}
    write_run(folder, run.model.model_copy(update={"scores": scores, "finished": True}))
    return [
        {"": method.name, **{METRICS[name]: method.scores[name].value for name in IN_TABLE}}
        for method in results.methods
    ]
