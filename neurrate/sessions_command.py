"""``neurrate sessions``: several sessions taken together."""

from __future__ import annotations

from pathlib import Path

from contracts.atomic_files import check_folder_writable
from neurrate.arguments import command_text


def summarize(*results: Path, out: Path) -> None:
    """Average what 'neurrate evaluate' found in several sessions, with intervals over sessions.

    Reads the tables of each folder and writes means, figures and one page, report.html. Nothing is
    narrated. A session counts once: the interval is of other animals, not of other frames.

    Examples
    --------
        neurrate sessions summarize results_1/ results_2/ results_3/ --out together/

    Parameters
    ----------
    results
        Folders of 'neurrate evaluate', each of another session, evaluated with the same models on
        the same movies.
    out
        Folder to write.
    """
    from evaluation.questions.page import PAGE
    from evaluation.sessions.run import summarize as summarize_results

    check_folder_writable(out)
    command = command_text("sessions", "summarize", *results, out=out)
    answer = summarize_results(results, out.resolve(), command=command)
    print(answer.title, *answer.findings, sep="\n  ")
    print(f"wrote {out / PAGE}")
