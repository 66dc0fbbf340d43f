"""The figures of the question of regions and cell types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.questions.answer import AnswerFigure, Row, p_text
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL, SHOWN

if TYPE_CHECKING:
    from evaluation.questions.text_classifier import TextClassification

SMOOTH = 5
"""Frames of a running mean of a trace."""


def population_figures(
    tables: Mapping[str, Sequence[Row]],
    classified: Mapping[str, TextClassification],
    n_units: int,
    n_windows: int,
    n_frames: int,
) -> tuple[AnswerFigure, ...]:
    """Return every figure for which there are numbers."""
    of = f"n = {n_windows} windows of {n_frames} frames; {n_units} units of each population"
    names = list(
        dict.fromkeys(str(row[end]) for row in tables["similarity"] for end in ("one", "other"))
    )
    found = [
        AnswerFigure(
            "similarity",
            f"Cosine of narrations of two populations. {of}. Left: on the same window. Right: the "
            "same less other windows (exact mean), which is 0 by chance. Intervals are in the "
            "table.",
            (11, 1.2 + 0.36 * len(names)),
            partial(_matrices, rows=tables["similarity"], names=names),
        )
    ]
    if tables["apart"]:
        found.append(
            AnswerFigure(
                "apart",
                "How much more the others of its kind are alike among themselves than to a "
                f"population (cosine less other windows). {of}. Lines: 95 % intervals over frames. "
                "Grey: where 95 % of populations of random units of the kind lie.",
                (7, 1 + 0.32 * len(tables["apart"])),
                partial(_apart, rows=tables["apart"]),
            )
        )
    concepts = tables["concepts-over-time"]
    if concepts:
        found.append(
            AnswerFigure(
                "concepts",
                f"Cosine with a concept sentence, less its mean, running mean of {SMOOTH} frames. "
                f"{of}. Green: captions. Black: populations. Grey: silent. r: correlation with the "
                "captions over frames, p over circular shifts.",
                (9, 1 + 1.0 * len(_in_traces(concepts))),
                partial(_concepts, rows=concepts, tests=tables["concepts"]),
            )
        )
    if classified:
        found.append(
            AnswerFigure(
                "classifier",
                "Which population a sentence is from, by its text alone (TF-IDF, ridge, contiguous "
                f"folds). {of}. Left: shares called, by true population. Right: accuracy with its "
                "95 % interval; grey: with names permuted within blocks of time; dotted: chance.",
                (9, 3.4 * len(classified)),
                partial(_classifier, classified=classified),
            )
        )
    return tuple(found)


def _matrices(figure: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, title in zip(
        panels, ("same_window", "lead"), ("same window", "same window less others"), strict=True
    ):
        matrix = np.full((len(names), len(names)), np.nan)
        for row in rows:
            at = names.index(str(row["one"])), names.index(str(row["other"]))
            matrix[at] = matrix[at[::-1]] = float(str(row[measure]))
        _heat(axes, matrix, names, names)
        axes.set_title(title)


def _apart(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    for at, row in enumerate(rows):
        value, low, high, random_low, random_high = (
            float(str(row[name]))
            for name in ("apart", "apart_low", "apart_high", "random_low", "random_high")
        )
        axes.barh(at, random_high - random_low, left=random_low, height=0.7, color=NULL)
        axes.plot([low, high], [at, at], color=INK)
        axes.plot(value, at, "o", color=INK)
        axes.annotate(
            p_text(float(str(row["p"]))), (1.01, at), xycoords=("axes fraction", "data"),
            va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [str(row["population"]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("apart")


def _heat(
    axes: Any, matrix: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]
) -> None:
    largest = float(np.nanmax(matrix))
    axes.imshow(matrix, cmap="Greys", vmin=0, vmax=1.25 * largest, aspect="auto")
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "white" if value > 0.85 * largest else INK
            axes.text(
                column,
                row,
                f"{round(value, 2) + 0.0:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)


def _in_traces(rows: Sequence[Row]) -> list[str]:
    """Return the populations that are drawn: cell types, or areas where there are none."""
    names = list(dict.fromkeys(str(row["population"]) for row in rows))
    types = [name for name in names if name.startswith("cell_type:")]
    return [*(types or [name for name in names if name.startswith("area:")]), "silent"]


def _concepts(figure: Any, rows: Sequence[Row], tests: Sequence[Row]) -> None:
    concepts = list(dict.fromkeys(str(row["concept"]) for row in rows))
    names = _in_traces(rows)
    panels = figure.subplots(len(names), len(concepts), sharex=True, sharey="col", squeeze=False)
    for column, concept in enumerate(concepts):
        shown = _trace(rows, concept, "caption")
        for axes, name in zip(panels[:, column], names, strict=True):
            test = next(r for r in tests if (r["concept"], r["population"]) == (concept, name))
            axes.plot(shown, color=SHOWN, linewidth=0.9)
            is_control = name == "silent"
            axes.plot(
                _trace(rows, concept, name),
                color=CONTROL if is_control else INK,
                linestyle="--" if is_control else "-",
                linewidth=0.9,
            )
            r = f"r = {float(str(test['r'])):.2f}, {p_text(float(str(test['p'])))}"
            axes.set_title(f"{name}: {r}", fontsize=8)
        panels[0, column].annotate(
            f"“{concept}”", (0.5, 1.35), xycoords="axes fraction", ha="center", fontsize=9
        )
        panels[-1, column].set_xlabel("scored frames, movie after movie")


def _trace(rows: Sequence[Row], concept: str, name: str) -> NDArray[np.float64]:
    values = np.array(
        [
            float(str(row["cosine"]))
            for row in rows
            if (row["concept"], row["population"]) == (concept, name)
        ]
    )
    n_in = np.convolve(np.ones(len(values)), np.ones(SMOOTH), "same")
    smooth: NDArray[np.float64] = (
        np.convolve(values - values.mean(), np.ones(SMOOTH), "same") / n_in
    )
    return smooth


def _classifier(figure: Any, classified: Mapping[str, TextClassification]) -> None:
    panels = figure.subplots(len(classified), 2, squeeze=False, width_ratios=(1.2, 1))
    for (left, right), found in zip(panels, classified.values(), strict=True):
        _heat(left, found.confusion, found.names, found.names)
        right.hist(found.null, bins=30, color=NULL)
        right.axvline(1 / len(found.names), color=INK, linewidth=1, linestyle=":")
        accuracy = found.accuracy
        top = right.get_ylim()[1]
        right.plot([accuracy.low, accuracy.high], [top / 2] * 2, color=INK)
        right.plot(accuracy.value, top / 2, "o", color=INK)
        right.set(xlabel="accuracy", ylabel="permutations", xlim=(0, 1))
        right.set_title(f"accuracy {accuracy.value:.2f}, {p_text(found.p)}")
