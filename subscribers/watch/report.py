"""What is left of a watcher at its end: counts, scores, a picture."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from subscribers.watch.state import WatchState
from subscribers.watch.view import draw

PICTURE_COLUMNS = 110
"""Width of a picture: what a page shows without shrinking the letters."""


def summary(state: WatchState) -> list[dict[str, object]]:
    """Return one row for each population: how many narrations, and how late."""
    rows: list[dict[str, object]] = []
    for population, n_received in sorted(state.n_received.items()):
        totals_ms = [one.latency_ms["total"] for one in state.kept if one.population == population]
        rows.append(
            {
                "population": population,
                "narrations": n_received,
                "latency ms, median": sorted(totals_ms)[len(totals_ms) // 2] if totals_ms else None,
                "latency ms, worst": max(totals_ms, default=None),
                "last words": state.newest[population][0].text,
            }
        )
    return rows


def scores_of(state: WatchState) -> dict[str, dict[str, object]]:
    """Return the object F1 of each population, and over how many narrations.

    Empty where no true caption was known.
    """
    names = [name for name in state.names if name in state.scores]
    return {name: {"object_f1": state.scores[name].f1, "n": state.scores[name].n} for name in names}


def score_rows(state: WatchState) -> list[dict[str, object]]:
    """Return one row for each population that was scored."""
    return [
        {
            "population": state.newest[name][0].title,
            "units": state.newest[name][0].n_units,
            "narrations": state.scores[name].n,
            "object F1": state.scores[name].f1,
        }
        for name in state.names
        if name in state.scores
    ]


def save_picture(path: Path, state: WatchState, host_ns: int, *, title: str) -> None:
    """Write the view to an SVG file."""
    console = Console(
        record=True,
        width=PICTURE_COLUMNS,
        file=StringIO(),
        force_terminal=True,
        color_system="truecolor",  # a picture has colours whatever this terminal has
        no_color=False,
    )
    console.print(draw(state, host_ns))
    console.save_svg(str(path), title=title)
