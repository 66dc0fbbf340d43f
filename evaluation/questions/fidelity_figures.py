"""The figures of the question of fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from contracts.population import CONTROLS
from evaluation.caption_scores.narrating import MEAN_PATCHES
from evaluation.questions.answer import AnswerFigure, Row, p_text
from evaluation.questions.chance import ShiftTest

INK, SHOWN, CONTROL, NULL = "#13171b", "#08704a", "#5d6771", "#d5dade"
"""Decoded, shown, controls, and what circular shifts give: docs/visual-language.md."""

NO_INFORMATION = (*CONTROLS, MEAN_PATCHES)
"""Narrators that know nothing of the frame."""

OVER_TIME = {"true patches": (SHOWN, "-"), "all": (INK, "-"), "silent": (CONTROL, "--")}

HOW_TO_READ = (
    "Filled: mean cosine with the own caption; open: with those of other windows. Lines: 95 % "
    "intervals (stationary bootstrap). Grey bar: 95 % of the circular shifts of each movie beyond "
    "the lag at which captions are unrelated; p counts all shifts, and is at least one in so many. "
    "Dotted: sentences of random words. Grey points, dashed: narrators without the frame."
)


def fidelity_figures(
    tables: Mapping[str, Sequence[Row]], split: str, confidence: ShiftTest | None
) -> tuple[AnswerFigure, ...]:
    """Return every figure for which there are numbers."""
    rows = tables["scores"]
    of = f"n = {rows[0]['windows']} windows of {rows[0]['frames']} frames, split {split}"
    shifts = f"{int(_number(rows[0], 'shifts')):,} shifts"
    found = [
        AnswerFigure(
            "scores",
            f"Similarity of narrations with captions. {of}, {shifts}. {HOW_TO_READ}",
            (7.5, 1.4 + 0.28 * len(rows)),
            partial(_scores, rows=rows),
        ),
        AnswerFigure(
            "over-time",
            f"Similarity along the movies, running mean. {of}. Green: the frames themselves; "
            "black: all units; dashed: no unit. Grey: 95 % of the circular shifts "
            "of all units, frame by frame.",
            (7.5, 1.2 + 1.9 * len({row["movie"] for row in tables["over-time"]})),
            partial(_over_time, rows=tables["over-time"]),
        ),
    ]
    if len({row["movie"] for row in tables["by-movie"]}) > 1:
        found.append(
            AnswerFigure(
                "by-movie",
                f"The same by movie. Split {split}. {HOW_TO_READ}",
                (7.5, 1.6 + 0.28 * len(rows)),
                partial(_by_movie, rows=tables["by-movie"]),
            )
        )
    if confidence is not None and tables["confidence"]:
        found.append(
            AnswerFigure(
                "confidence",
                "Confidence against being right: the own caption among the nearest tenth. All "
                "populations but controls; the number of narrations above each point. Lines: 95 % "
                "intervals. Dotted: chance, 0.1; dashed: as sure as right. All units alone: "
                f"r = {confidence.value:.2f} over frames, {p_text(confidence.p)} (circular "
                "shifts).",
                (4.6, 3.6),
                partial(_confidence, rows=tables["confidence"]),
            )
        )
    if tables["facts"]:
        found.append(
            AnswerFigure(
                "facts",
                f"Facts that narrations state. {of}. Filled: score with its 95 % interval; open: "
                "the same sentences against other windows (1,000 derangements).",
                (9, 1.4 + 0.26 * len({row["narrator"] for row in tables["facts"]})),
                partial(_facts, rows=tables["facts"]),
            )
        )
    return tuple(found)


def draw_scores(axes: Any, rows: Sequence[Row], *, with_names: bool = True) -> None:
    """Draw matched, shuffled and the shifts of each narrator, one below the other."""
    for at, row in enumerate(rows):
        axes.barh(
            at,
            _number(row, "shifted_high") - _number(row, "shifted_low"),
            left=_number(row, "shifted_low"),
            height=0.62,
            color=NULL,
            zorder=1,
        )
        is_control = row["narrator"] in NO_INFORMATION
        colour, line = (CONTROL, "--") if is_control else (INK, "-")
        for name, face, shift in (("matched", colour, -0.12), ("shuffled", "white", 0.12)):
            ends = [_number(row, f"{name}_low"), _number(row, f"{name}_high")]
            axes.plot(ends, [at + shift] * 2, line, color=colour, linewidth=1.2, zorder=2)
            axes.plot(
                _number(row, name), at + shift, "o", ms=5, mfc=face, mec=colour, mew=1, zorder=3
            )
    floor = float(np.mean([_number(row, "floor") for row in rows]))
    axes.axvline(floor, color=INK, linewidth=1, linestyle=":")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    names = [f"{row['narrator']}" + (f" ({row['units']})" if row["units"] else "") for row in rows]
    axes.set_yticks(range(len(rows)), names if with_names else [""] * len(rows))
    axes.set_xlabel("cosine of sentence embeddings")


def _scores(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    draw_scores(axes, rows)
    right = axes.get_xlim()[1]
    for at, row in enumerate(rows):
        n = row["different_sentences"]
        text = f"  {p_text(_number(row, 'p'))}, {n} sentence{'s' * (n != 1)}"
        axes.text(right, at, text, fontsize=7.5, va="center", color=INK)
    axes.set_title("Narrator (units). Filled: own caption. Open: other captions.", fontsize=9)


def _by_movie(figure: Any, rows: Sequence[Row]) -> None:
    movies = list(dict.fromkeys(str(row["movie"]) for row in rows))
    panels = figure.subplots(1, len(movies), sharex=True, squeeze=False)[0]
    for axes, movie in zip(panels, movies, strict=True):
        of_movie = [row for row in rows if row["movie"] == movie]
        draw_scores(axes, of_movie, with_names=axes is panels[0])
        n = f"n = {of_movie[0]['windows']} windows, {of_movie[0]['frames']} frames"
        axes.set_title(f"{movie}\n{n}", fontsize=9)


def _over_time(figure: Any, rows: Sequence[Row]) -> None:
    movies = list(dict.fromkeys(str(row["movie"]) for row in rows))
    panels = figure.subplots(len(movies), 1, squeeze=False)[:, 0]
    for axes, movie in zip(panels, movies, strict=True):
        for name, (colour, line) in OVER_TIME.items():
            of = [row for row in rows if row["movie"] == movie and row["narrator"] == name]
            frame = [_number(row, "frame") for row in of]
            if name == "all":
                low, high = (
                    [_number(row, end) for row in of] for end in ("shifted_low", "shifted_high")
                )
                axes.fill_between(frame, low, high, color=NULL, linewidth=0, label="shifts of all")
            matched = [_number(row, "matched") for row in of]
            axes.plot(frame, matched, color=colour, linestyle=line, linewidth=1.2, label=name)
        axes.set(xlabel=f"frame of {movie}", ylabel="cosine with\nthe caption")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)


def _confidence(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    axes.plot([0.1, 1], [0.1, 1], color=CONTROL, linestyle="--", linewidth=1)
    axes.axhline(0.1, color=INK, linestyle=":", linewidth=1)
    for row in rows:
        x = _number(row, "confidence")
        axes.plot([x, x], [_number(row, "right_low"), _number(row, "right_high")], color=INK)
        axes.plot(x, _number(row, "right"), "o", color=INK, ms=5)
        axes.text(
            x, _number(row, "right_high") + 0.02, f"{row['narrations']}", ha="center", fontsize=8
        )
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.03), ylim=(0, 1.08))


def _facts(figure: Any, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(str(row["narrator"]) for row in rows))
    measures = ("object_f1", "direction", "count", "distance", "light")
    panels = figure.subplots(1, len(measures), sharex=True)
    for axes, measure in zip(panels, measures, strict=True):
        for row in (row for row in rows if row["measure"] == measure):
            at = names.index(str(row["narrator"]))
            axes.plot([_number(row, "value_low"), _number(row, "value_high")], [at] * 2, color=INK)
            axes.plot(_number(row, "value"), at, "o", color=INK, ms=4.5)
            axes.plot(_number(row, "shuffled"), at, "o", mfc="white", mec=INK, ms=4.5, zorder=0)
        axes.set_title(measure.replace("_", " ").replace("f1", "F1"))
        axes.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))


def _number(row: Row, name: str) -> float:
    return float(row[name])  # type: ignore[arg-type] # the tables hold objects for the CSV
