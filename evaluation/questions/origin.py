"""What the tables of an answer are of, beside them, for who reads tables of several sessions."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.atomic_files import write_text
from contracts.errors import UserError
from encoder_training.data_set.prepared_facts import load_facts
from evaluation.questions.answer import Answer
from evaluation.questions.inputs import EvaluationInputs

PACKAGED = "packaged"


class AnswerOrigin(BaseModel):
    """The whole of ``QUESTION-origin.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: str
    """Its identifier in the recording; the recording's name where it has none."""
    dataset: str
    """sha256 of the data set."""
    bundle: str
    """sha256 of the bundle."""
    language_model: str
    sentence_model: str
    split: str
    """Kind of what was held out, as in ``neurrate prepare --split``."""
    movies: tuple[str, ...]
    """Of the data set."""
    windows: int
    """That were narrated."""
    tables: tuple[str, ...]
    """Of the answer; others in the folder are of an earlier one."""


def language_model_of(inputs: EvaluationInputs) -> str:
    """Return the name of the language model, wherever it lies."""
    return Path(inputs.request.model or inputs.manifest.model.language_model.model_id).name


def origin_of(inputs: EvaluationInputs, answer: Answer) -> AnswerOrigin:
    """Return what the answer to a question about these inputs is of."""
    facts = load_facts(inputs.request.dataset)
    return AnswerOrigin(
        session=facts.session_id or facts.recording,
        dataset=facts.data_sha256,
        bundle=inputs.manifest.sha256,
        language_model=language_model_of(inputs),
        sentence_model=Path(inputs.request.sentence_model or PACKAGED).name,
        split=inputs.split,
        movies=tuple(movie.name for movie in facts.movies),
        windows=len(inputs.windows.rows),
        tables=tuple(answer.tables),
    )


def origin_path(folder: Path, question: str) -> Path:
    """Return the file of a question's origin in a folder of results."""
    return folder / f"{question}-origin.json"


def write_origin(origin: AnswerOrigin, folder: Path, question: str) -> None:
    """Write it beside the tables of `evaluation.questions.answer.write_answer`."""
    write_text(origin_path(folder, question), origin.model_dump_json(indent=2) + "\n")


def read_origin(folder: Path, question: str) -> AnswerOrigin | None:
    """Read it; None if the question was not answered there.

    Raises
    ------
    UserError
        If the file is not one.
    """
    path = origin_path(folder, question)
    if not path.is_file():
        return None
    try:
        return AnswerOrigin.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path} must be as 'neurrate evaluate' wrote it, and cannot be read: {error}. Answer "
            "the question again: narrations are kept, so that this takes little time."
        ) from error
