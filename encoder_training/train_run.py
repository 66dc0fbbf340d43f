"""The steps of ``neurrate train``: choose the lag, train, judge, each from where it was left."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

from contracts.atomic_files import write_json
from contracts.errors import DependencyError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import Split, TrainingSet, measure_scaling
from encoder_training.evaluation.evaluate import MAX_WINDOWS, judge
from encoder_training.evaluation.report import write_report
from encoder_training.evaluation.results import METRICS
from encoder_training.history import TrainingEpoch, plot_history, write_history
from encoder_training.lag import choose_lag, plot_lags
from encoder_training.model import PatchEncoder
from encoder_training.probes.concepts import check_concepts
from encoder_training.probes.fitting import fit_probes, save_probes
from encoder_training.run_files import (
    CHECKPOINT,
    CURVES,
    HISTORY,
    HISTORY_TAIL,
    JUDGED,
    LAG_PICTURE,
    RunFolder,
    RunModel,
    begin_run,
    write_run,
)
from encoder_training.train_request import TrainRequest, initial_encoder, run_there, wanted_run
from encoder_training.training import TrainingResult, train_encoder

IN_TABLE = ("cosine", "skill", "within_1s", "rank")
"""Scores that the terminal shows; report.md has them all."""

Say = Callable[[str], None]


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


def train_run(request: TrainRequest, *, overwrite: bool, say: Say) -> list[dict[str, object]]:
    """Do what is not done yet of a run.

    Parameters
    ----------
    request : TrainRequest
    overwrite : bool
        Begin anew where a run is. It stays until all that can be refused has been.
    say : callable
        Is given a line for each thing that a person wants to know.

    Returns
    -------
    rows : list of dict
        The table of scores; empty if the run was finished already.

    Raises
    ------
    UserError
        If the folder holds another run, or something else, or a named concept is in no caption.
    """
    say(f"checking the files of {request.dataset}")
    prepared = load_prepared(request.dataset, check_hashes=True)
    initial = initial_encoder(request, prepared)
    wanted = wanted_run(request, prepared, initial)
    found = run_there(request.folder, wanted, overwrite=overwrite)
    if found is not None and found.finished:
        say(f"{request.folder} is finished: {found.n_passes} passes, the best is {found.best_pass}")
        return []
    model = found or _with_lag(request, prepared, wanted, say)
    data, parts = prepared.windows(model.lag_ns)
    if request.concepts is not None:
        seen = data.frame[parts.train]
        check_concepts(request.concepts, [prepared.frames.captions[row] for row in set(seen)])
    if found is None:
        begin_run(request.folder, model)
    if model.lag_choice is not None:
        plot_lags(model.lag_choice, request.folder / LAG_PICTURE)
    trained = (
        TrainingResult(
            initial, measure_scaling(data, parts.train), (), data.group[parts.validation]
        )
        if request.judges_only and initial is not None
        else _train(request, model, data, parts, initial, say)
    )
    best = max(trained.history, key=lambda row: row.validation_cosine, default=None)
    model = model.model_copy(
        update={
            "n_passes": len(trained.history),
            "best_pass": best.training_epoch if best else 0,
            "history_tail": trained.history[-HISTORY_TAIL:],
        }
    )
    write_run(request.folder, model, encoder=trained.encoder, scaling=trained.scaling)
    run = RunFolder(model, trained.encoder, trained.scaling)
    rows = _judge(request, prepared, data, parts, run, say)
    (request.folder / CHECKPOINT).unlink(missing_ok=True)
    return rows


def _with_lag(request: TrainRequest, prepared: PreparedSet, wanted: RunModel, say: Say) -> RunModel:
    if len(request.lags_ns) == 1:
        return wanted
    choice = choose_lag(prepared, request.lags_ns, seed=request.options.seed)
    say(
        f"lag {choice.lag_ns / 1e6:g} ms: the shortest within a standard error of the best of "
        f"{', '.join(f'{each.lag_ns / 1e6:g}' for each in choice.scores)} ms"
    )
    window = wanted.window.model_copy(update={"lag_ns": choice.lag_ns})
    return wanted.model_copy(update={"window": window, "lag_choice": choice})


def _train(
    request: TrainRequest,
    model: RunModel,
    data: TrainingSet,
    parts: Split,
    initial: PatchEncoder | None,
    say: Say,
) -> TrainingResult:
    folder, n_passes = request.folder, request.options.training_epochs
    history: list[TrainingEpoch] = []

    def write_rows() -> None:
        write_history(history, folder / HISTORY)
        plot_history(history, folder / CURVES)

    def on_resume(before: tuple[TrainingEpoch, ...]) -> None:
        history.extend(before)
        write_rows()  # whoever was killed after a checkpoint had not written its pass
        say(f"going on after pass {len(before)} of {n_passes}")

    def on_epoch(row: TrainingEpoch) -> None:
        history.append(row)
        say(
            f"pass {row.training_epoch} of {n_passes}: validation cosine "
            f"{row.validation_cosine:.3f}, skill {row.skill:.3f}, {row.elapsed_s:,.0f} s"
        )
        write_rows()

    return train_encoder(
        model.spec,
        data,
        model.options,
        on_epoch,
        parts=parts,
        initial=initial,
        checkpoint=folder / CHECKPOINT,
        on_resume=on_resume,
    )


def _judge(
    request: TrainRequest,
    prepared: PreparedSet,
    data: TrainingSet,
    parts: Split,
    run: RunFolder,
    say: Say,
) -> list[dict[str, object]]:
    folder, seed = request.folder, request.options.seed
    say("judging on the test windows")
    encoder = run.encoder.to(request.options.device)
    judged = judge(
        prepared,
        data,
        parts,
        encoder,
        run.scaling,
        seed=seed,
        max_windows=request.test_windows or MAX_WINDOWS,
    )
    probes = fit_probes(
        prepared,
        data,
        parts,
        encoder,
        run.scaling,
        concepts=request.concepts,
        seed=seed,
        masking=request.options.masking,
    )
    encoder.to("cpu")
    save_probes(probes, folder)
    write_json(folder / JUDGED, judged.to_json())
    write_report(folder, judged, probes)
    own = judged.method("encoder").scores
    scores = {name: own[name].value for name in METRICS if math.isfinite(own[name].value)}
    write_run(folder, run.model.model_copy(update={"scores": scores, "finished": True}))
    return [
        {"": each.name, **{METRICS[name]: each.scores[name].value for name in IN_TABLE}}
        for each in judged.methods
    ]
