"""The figures of the question of single units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from contracts.selection_text import shown
from evaluation.questions.answer import AnswerFigure, Row
from evaluation.questions.chance import is_rejected
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL

NO_AREA = "no area"


def single_unit_figures(
    tables: Mapping[str, Sequence[Row]], kind: str, n_windows: int, n_frames: int
) -> tuple[AnswerFigure, ...]:
    """Return every figure for which there are numbers."""
    of = f"n = {n_windows} windows of {n_frames} frames"
    ranking, informed = tables["ranking"], tables["information"]
    found = [
        AnswerFigure(
            "ranking",
            f"All {len(ranking)} units: centred cosine of what one unit decodes with the frame, "
            f"less other frames. {of}. Filled: passes at 5 % false discoveries over all units; "
            "open: does not. Circles have a card. Grey: 95 % of the circular shifts, mean over the "
            "area's units. Each unit's 95 % interval is in the table.",
            (7.5, 1.2 + 0.42 * len(_areas(ranking))),
            partial(_ranking, rows=ranking),
        )
    ]
    if informed:
        names = list(dict.fromkeys(str(row["statement"]) for row in informed))
        found.append(
            AnswerFigure(
                "information",
                f"Information between {kind} and what one unit's narrations name, by unit. {of}; "
                f"{len({row['unit'] for row in informed})} narrated units. Less the mean over "
                "circular shifts. Filled: p <= 0.05, corrected for the statements of a unit; open: "
                "not. Crosses: the same for many or few spikes of the unit in place of its words. "
                "Grey: 95 % of the shifts, over all units. Shares with 95 % intervals are in the "
                "table.",
                (7.5, 1.2 + 0.3 * len(names)),
                partial(_information, rows=informed, names=names),
            )
        )
    return tuple(found)


def _areas(rows: Sequence[Row]) -> list[str]:
    return sorted({str(row["area"]) or NO_AREA for row in rows})


def _ranking(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    areas = _areas(rows)
    rng = np.random.default_rng(0)  # Where a point lies within its row means nothing
    for at, area in enumerate(areas):
        of = [row for row in rows if (str(row["area"]) or NO_AREA) == area]
        low, high = (
            np.mean([float(str(row[f"shifted_{end}"])) for row in of]) for end in ("low", "high")
        )
        axes.fill_betweenx([at - 0.4, at + 0.4], low, high, color=NULL, linewidth=0)
        y = at + rng.uniform(-0.3, 0.3, len(of))
        for is_narrated, marker, colour, size in ((0, ".", CONTROL, 4), (1, "o", INK, 5)):
            for passes in (0, 1):
                chosen = [
                    n
                    for n, row in enumerate(of)
                    if (row["narrated"], row["passes"]) == (is_narrated, passes)
                ]
                axes.plot(
                    [float(str(of[n]["lead"])) for n in chosen],
                    y[chosen],
                    marker,
                    color=colour,
                    markerfacecolor=colour if passes else "white",
                    ms=size,
                )
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    n_of = [sum((str(row["area"]) or NO_AREA) == area for row in rows) for area in areas]
    labels = [f"{shown(area)} ({n})" for area, n in zip(areas, n_of, strict=True)]
    axes.set_yticks(range(len(areas)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("centred cosine with the own frame, less others")


def _information(figure: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for at, name in enumerate(names):
        of = [row for row in rows if row["statement"] == name]
        low, high = (
            np.mean([float(str(row[f"words_shifted_{end}"])) for row in of])
            for end in ("low", "high")
        )
        axes.fill_betweenx([at - 0.42, at + 0.42], low, high, color=NULL, linewidth=0)
        y = at + rng.uniform(-0.3, 0.3, len(of))
        axes.plot(
            [float(str(row["spikes_bits"])) for row in of], y, "x", color=CONTROL, ms=3, mew=0.7
        )
        for is_sure in (False, True):
            chosen = [
                n
                for n, row in enumerate(of)
                if bool(is_rejected(float(str(row["words_p"])))) == is_sure
            ]
            axes.plot(
                [float(str(of[n]["words_bits"])) for n in chosen],
                y[chosen],
                "o",
                color=INK,
                markerfacecolor=INK if is_sure else "white",
                ms=4,
                mew=0.7,
            )
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [shown(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("bits, less the mean over shifts")
