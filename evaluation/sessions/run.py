"""Take the answers of several sessions together: read, average, write one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.errors import UserError
from encoder_training.pictures import check_matplotlib
from evaluation.questions.answer import Answer, write_answer
from evaluation.questions.page import PAGE, PageHead, write_page
from evaluation.sessions.figures import session_figures
from evaluation.sessions.means import findings, mean_rows, session_means, value_rows
from evaluation.sessions.results import read_results

NOTES = (
    "a session counts once, and two sessions of one animal are not two animals: what is said is "
    "of animals only if each session is of another",
    "intervals over sessions are of other animals that see these frames, as all saw the same; they "
    "say nothing about other movies",
    "where there is one encoder for each session, its training is part of the spread",
    "there is no p: as all see the same frames, a narrator that knows nothing is the same small "
    "distance from 0 in every session. Read each mean beside silent, shuffled and mean patches",
)


def summarize(folders: Sequence[Path], out: Path, *, command: str) -> Answer:
    """Write the means over sessions, their figures and the page into `out`.

    Raises
    ------
    UserError
        If there are fewer than two folders, `out` is one of them, or they cannot be taken together.
    DependencyError
        If a package is not installed.
    """
    check_matplotlib()
    if len(folders) < 2:
        raise UserError(
            f"a mean over sessions needs the results of two or more, got {len(folders)}. Name each "
            "session's folder of 'neurrate evaluate'."
        )
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise UserError(
            f"means over sessions need a folder of their own, and {out} holds the results of one, "
            "whose page would be overwritten. Choose another --out."
        )
    values = read_results(folders)
    means = session_means(values)
    if not means:
        raise UserError(
            "no two of these sessions answered the same question about the same population. "
            "Evaluate one question for all of them, for example fidelity."
        )
    n_alone = len({(v.measure, v.of) for v in values}) - len(means)
    names = list(dict.fromkeys(value.session for value in values))
    alone = [f"{n_alone} values that only one session has are in the table of values alone"]
    answer = Answer(
        name="sessions",
        title=f"{len(names)} sessions taken together",
        findings=(*findings(means), *(alone if n_alone else [])),
        tables={"means": mean_rows(means), "values": value_rows(values)},
        figures=session_figures(means, len(names)),
    )
    write_answer(answer, out)
    head = PageHead(answer.title, command, f"Sessions: {', '.join(names)}.", NOTES)
    write_page(out / PAGE, [answer], head)
    return answer
