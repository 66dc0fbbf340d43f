"""Pictures of reports: one look for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import DependencyError

UNNAMED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
"""What a format would say of the library or of the day, left out: the same numbers, the same
bytes."""


@contextmanager
def report_figure(path: Path, size_in: tuple[float, float], *, dpi: int = 150) -> Iterator[Any]:
    """Hand out an empty figure and save it; no state of the library is left behind.

    Parameters
    ----------
    path : Path
        Of the picture; its ending says which format.
    size_in : (float, float)
        Width and height, inches.
    dpi : int
        Pixels in an inch.

    Yields
    ------
    figure : matplotlib.figure.Figure

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
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=dpi, metadata=UNNAMED.get(path.suffix))


def check_matplotlib() -> None:
    """Refuse early what would fail late.

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
