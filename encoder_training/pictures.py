"""Figures of reports, in one style."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import DependencyError
from contracts.selection_text import shown

UNNAMED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
"""Metadata about the library and the day, left out: the same numbers, the same
bytes."""


@contextmanager
def report_figure(path: Path, size_in: tuple[float, float], *, dpi: int = 150) -> Iterator[Any]:
    """Lend an empty figure and save it; no state of matplotlib is changed.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "font.size": 9,
        "svg.hashsalt": "neurrate",  # else the ids inside are random
        "text.parse_math": False,  # a dollar in the name of an area is no formula
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=dpi, metadata=UNNAMED.get(path.suffix))


def markdown(text: str) -> str:
    r"""Return a name as Markdown in which no letter of it is markup, in a table or outside.

    >>> print(markdown("layer 2|3 <i>"))
    layer 2\|3 \<i\>
    """
    return "".join(f"\\{letter}" if letter in r"\|<>&*`[]#~" else letter for letter in shown(text))


def check_matplotlib() -> None:
    """Refuse early if matplotlib is missing.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise DependencyError(
            "A report's pictures need matplotlib. Run: pip install 'neurrate[train]'."
        ) from error
