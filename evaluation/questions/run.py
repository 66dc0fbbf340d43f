"""Answer questions: load once, answer each, write tables, figures and one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contracts.errors import UserError
from encoder_training.pictures import check_matplotlib
from evaluation.progress import report
from evaluation.questions.answer import Answer, write_answer
from evaluation.questions.false_positives import false_positives
from evaluation.questions.fidelity import fidelity
from evaluation.questions.inputs import EvaluateRequest, EvaluationInputs, load_inputs
from evaluation.questions.origin import (
    language_model_of,
    origin_of,
    origin_path,
    write_origin,
)
from evaluation.questions.page import PAGE, PageHead, write_page
from evaluation.questions.pooling import pooling
from evaluation.questions.populations import regions_and_types
from evaluation.questions.scaling import scaling
from evaluation.questions.single_units import single_units
from evaluation.questions.sparse_features import sparse_features
from evaluation.questions.trained_subsets import load_trained_run

JOURNAL = "journal"
"""What was recorded of a daemon, in the folder of results."""

QUESTIONS: dict[str, Callable[[EvaluationInputs], Answer]] = {
    "fidelity": fidelity,
    "scaling": scaling,
    "regions-and-types": regions_and_types,
    "single-units": single_units,
    "sparse-features": sparse_features,
    "pooling": pooling,
    "false-positives": false_positives,
}
"""In the order of the page."""


def check_before_recording(request: EvaluateRequest, names: Sequence[str]) -> None:
    """Refuse what would be refused after a daemon was recorded, which may take an hour.

    Raises
    ------
    UserError
        As of `evaluate`, or if a journal is named or kept already, or the question needs units that
        no daemon narrates.
    """
    kept = request.out / JOURNAL
    if request.journal is not None:
        raise UserError("--journal and --subscribe each say where narrations are from: give one.")
    if kept.exists():
        raise UserError(
            f"narrations of one replay are kept in a journal of their own, and {kept} is there "
            f"already. Evaluate it with --journal {kept}, or give another --out."
        )
    if "fidelity" not in names:
        raise UserError(
            "a daemon narrates its populations and no other sets of units, which is enough for the "
            f"question fidelity, and this one is {names[0]}. Leave --subscribe out."
        )
    if request.images is not None:  # whose patches take longer than a replay may wait
        raise UserError(
            "--images is for the question sparse-features, which asks for sets of units that no "
            "daemon narrates. Leave --images or --subscribe out."
        )
    _checked_inputs(request, names).facts()


def _checked_inputs(request: EvaluateRequest, names: Sequence[str]) -> EvaluationInputs:
    """Load what the questions share; what can be refused before the long work is.

    Raises
    ------
    UserError
        As of `evaluate`.
    """
    check_matplotlib()
    if request.run is not None and "scaling" not in names:
        raise UserError(
            f"--run is for the question scaling, and this one is {names[0]}. Leave --run out."
        )
    if request.images is not None and "sparse-features" not in names:
        raise UserError(
            f"--images is for the question sparse-features, and this one is {names[0]}. Leave "
            "--images out."
        )
    inputs = load_inputs(request)
    if request.run is not None:
        load_trained_run(request.run, inputs.manifest)
    if inputs.images is not None:
        report(f"evaluate: {len(inputs.images.patches):,} images")
    return inputs


def evaluate(request: EvaluateRequest, names: Sequence[str]) -> list[Answer]:
    """Answer the named questions and write everything into the folder of the request.

    Of several, one that the units do not allow says so in place of its answer.

    Raises
    ------
    UserError
        If the data set or the run is not the bundle's or cannot be scored, or a model cannot be
        loaded.
    DependencyError
        If a package is not installed.
    """
    inputs = _checked_inputs(request, names)
    answers = []
    for name in names:
        report(f"evaluate: {name}")
        try:
            answer = QUESTIONS[name](inputs)
        except UserError as error:
            if len(names) == 1:
                raise
            answer = Answer(name, f"{name}: not answered", (str(error).rstrip("."),), {})
        write_answer(answer, request.out)
        if answer.tables:
            write_origin(origin_of(inputs, answer), request.out, name)
        else:  # what lies there is of an earlier answer
            origin_path(request.out, name).unlink(missing_ok=True)
        answers.append(answer)
    head = PageHead(
        "Narrations against what was shown",
        request.command,
        f"Bundle {inputs.manifest.sha256[:12]}, language model {language_model_of(inputs)}.",
        inputs.notes(),
    )
    write_page(request.out / PAGE, answers, head)
    return answers
