"""The figures of the question of sparse features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.population import CONTROLS
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.frames.movies import Movie, find_movies, read_frames
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.questions.answer import AnswerFigure, Row, p_text
from evaluation.questions.feature_facts import FeatureLabels
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL, SHOWN
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.populations import KINDS
from evaluation.questions.unique_features import mean_of, slopes, z_scores

if TYPE_CHECKING:
    from evaluation.questions.sparse_features import ComparedKind

Activations = Mapping[str, NDArray[np.float64]]

MOST_DRAWN = 4
"""Features of a population in a figure."""

N_FRAMES = 3
WIDTH = 96
"""Pixels of a small picture."""


def feature_figures(
    inputs: EvaluationInputs,
    tables: Mapping[str, Sequence[Row]],
    kinds: Sequence[ComparedKind],
    found: Activations,
    labels: FeatureLabels,
    n_units: int,
) -> tuple[AnswerFigure, ...]:
    """Return every figure for which there are numbers."""
    of = (
        f"n = {len(inputs.windows.rows)} windows of {len(inputs.positions)} frames; {n_units} "
        "units of each population"
    )
    counts = tables["counts"]
    figures = [
        AnswerFigure(
            "counts",
            f"Features that are unique to a population. {of}. Left: by magnitude; filled: those of "
            "them that follow the frames. Middle: by following. Right: those of either that follow "
            "the frames and are about the light, by --facts. Grey: as many units at random, mean "
            f"(line) to 97.5 %, n = {counts[0]['random_populations']} or more. With names permuted "
            "within blocks of time any feature is unique in 5 % of the permutations.",
            (9, 1.2 + 0.3 * len(counts)),
            partial(_counts, rows=counts),
        )
    ]
    for one in kinds:
        shown = [
            (at, feature)
            for at in range(len(one.names))
            for feature in one.features(at)[:MOST_DRAWN]
        ]
        if not shown:
            continue
        figures += [
            AnswerFigure(
                f"map-{one.kind.replace('_', '-')}",
                f"Unique features of {KINDS[one.kind]}, at most {MOST_DRAWN} of each. {of}. Left: "
                "mean activation as z-score over populations. Right: slope of the activation over "
                "that of the true patches, 0 by chance. A frame marks whose it is by that measure.",
                (9, 1.8 + 0.32 * len(shown)),
                partial(_map, one=one, shown=shown, found=found, labels=labels, inputs=inputs),
            ),
            AnswerFigure(
                f"over-time-{one.kind.replace('_', '-')}",
                "Activation of the first unique feature of each population over the frames, in "
                f"standard deviations. {of}. Green: true patches. Black: the population. Grey: "
                "the others; dashed: silent. r: with the true patches, p over circular shifts.",
                (9, 0.8 + 1.2 * len({at for at, _ in shown})),
                partial(_traces, one=one, shown=shown, found=found, labels=labels, inputs=inputs),
            ),
            AnswerFigure(
                f"top-frames-{one.kind.replace('_', '-')}",
                "Frames of the data set, of different captions, in whose true patches the first "
                f"unique feature of each population is most active. {of}. Below: the caption."
                + (" Right: images of --images, in any of which it is." if inputs.images else ""),
                (
                    2.6 * N_FRAMES * (2 if inputs.images else 1) + 1.4,
                    0.3 + 2.2 * len({at for at, _ in shown}),
                ),
                partial(_top, one=one, shown=shown, labels=labels, inputs=inputs),
            ),
        ]
    return tuple(figures)


def _counts(figure: Any, rows: Sequence[Row]) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    for axes, measure, filled, title in zip(
        panels,
        ("magnitude", "following", "light"),
        ("magnitude_that_follow", "following", "light"),
        ("unique by magnitude", "unique by following", "of either, the light"),
        strict=True,
    ):
        for at, row in enumerate(rows):
            mean, high = (float(str(row[f"{measure}_random{end}"])) for end in ("", "_high"))
            axes.barh(at, high - mean, left=mean, height=0.7, color=NULL)
            axes.plot([mean, mean], [at - 0.35, at + 0.35], color=CONTROL, linewidth=1.2)
            axes.barh(at, int(str(row[measure])), height=0.4, fill=False, edgecolor=INK)
            axes.barh(at, int(str(row[filled])), height=0.4, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("features")
        axes.set_title(title)
    panels[0].set_yticks(range(len(rows)), [str(row["population"]) for row in rows])
    panels[0].invert_yaxis()


def _name(feature: int, labels: FeatureLabels) -> str:
    """Return a feature's number, with the fact that it follows and its correlation with it."""
    about = labels.names[feature]
    return f"{feature} {about} ({labels.r[feature]:.2f})" if about else str(feature)


def _map(
    figure: Any,
    one: ComparedKind,
    shown: Sequence[tuple[int, int]],
    found: Activations,
    labels: FeatureLabels,
    inputs: EvaluationInputs,
) -> None:
    features = [feature for _, feature in shown]
    names = list(one.names)
    with_controls = [*names, *(c for c in CONTROLS if c in found), "all"]
    z = z_scores(one.by["magnitude"].mean)[:, features].T
    true = found[TRUE_PATCHES][:, features]
    slope = np.stack([slopes(found[n][:, features], true).mean(axis=0) for n in with_controls])
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(len(names), len(with_controls)))
    for axes, matrix, columns, measure, title in (
        (left, z, names, "magnitude", "mean activation, z over populations"),
        (right, slope.T, with_controls, "following", "slope over true patches"),
    ):
        limit = float(np.abs(matrix).max())
        axes.imshow(matrix, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.75 * limit else INK
            text = f"{round(value, 2) + 0.0:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        for row, (at, feature) in enumerate(shown):
            if one.unique(measure)[at, feature]:
                x, y = (at - 0.46, at + 0.46), (row - 0.42, row + 0.42)
                axes.plot(
                    [*x, *x[::-1], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=INK, linewidth=1.5
                )
        axes.set_xticks(
            range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor"
        )
        axes.spines[:].set_visible(False)
        axes.set_title(title)
    left.set_yticks(range(len(features)), [_name(feature, labels) for feature in features])


def _first(shown: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first feature of each population."""
    return list({at: (at, feature) for at, feature in reversed(shown)}.values())[::-1]


def _traces(
    figure: Any,
    one: ComparedKind,
    shown: Sequence[tuple[int, int]],
    found: Activations,
    labels: FeatureLabels,
    inputs: EvaluationInputs,
) -> None:
    first = _first(shown)
    panels = figure.subplots(len(first), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (at, feature) in zip(panels, first, strict=True):
        traces = {
            name: z_scores(mean_of(found[name][:, [feature]], inputs.positions))
            for name in (*one.names, "silent", TRUE_PATCHES)
            if name in found
        }
        true, own = traces.pop(TRUE_PATCHES), traces.pop(one.names[at])
        for name, values in traces.items():
            style = "--" if name == "silent" else "-"
            axes.plot(values, color=NULL, linewidth=0.8, linestyle=style)
        axes.plot(true, color=SHOWN, linewidth=0.9)
        axes.plot(own, color=INK, linewidth=0.9)
        r = f"r = {one.r[at, feature]:.2f}, {p_text(float(one.p[at, feature]))}"
        axes.set_title(f"{one.names[at]}: feature {_name(feature, labels)}, {r}", fontsize=8)
        axes.set_ylabel("s.d.")
        for rows in inputs.positions.movies[1:]:
            axes.axvline(rows[0] - 0.5, color=CONTROL, linewidth=0.8, linestyle=":")
    panels[-1].set_xlabel("scored frames, movie after movie")


def _top(
    figure: Any,
    one: ComparedKind,
    shown: Sequence[tuple[int, int]],
    labels: FeatureLabels,
    inputs: EvaluationInputs,
) -> None:
    first = _first(shown)
    movies = shown_movies(inputs.request.dataset, inputs.request.facts)
    images = inputs.images
    panels = figure.subplots(len(first), N_FRAMES * (2 if images else 1), squeeze=False)
    frames = inputs.windows.frames
    for row, (at, feature) in zip(panels, first, strict=True):
        for axes, frame in zip(row[:N_FRAMES], labels.top[feature].tolist(), strict=False):
            movie = movies.get(frames.movies[frames.movie[frame]])
            picture = None if movie is None else read_frames(movie, frames.number[[frame]])[0]
            _show(axes, picture, frames.captions[frame])
        if images is not None and labels.top_images is not None:
            for axes, at_image in zip(row[N_FRAMES:], labels.top_images[feature], strict=False):
                _show(axes, images.files.picture(at_image), images.files.names[at_image])
        follows = "" if one.follows[at, feature] else "\ndoes not follow"
        row[0].set_ylabel(f"{one.names[at]}\n{_name(feature, labels)}{follows}", fontsize=8)


def _show(axes: Any, picture: NDArray[np.uint8] | None, below: str) -> None:
    """Draw a small picture, if there is one, with words below it."""
    if picture is not None:
        step = max(1, picture.shape[1] // WIDTH)
        axes.imshow(picture[::step, ::step], cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(fill(below, 34), fontsize=7)


def shown_movies(dataset: Path, facts: Path | None) -> dict[str, Movie]:
    """Open the movies beside the facts, or in a folder named as that of 'neurrate prepare' was.

    None if there are none, or others of the same names: a data set knows the name of the folder,
    and where the command runs another session's can have it.
    """
    known = load_facts(dataset)
    n_frames = {movie.name: movie.n_frames for movie in known.movies}
    for path in (facts, known.options.get("--frames")):
        try:
            movies = find_movies(Path(str(path)), tuple(n_frames)) if path else {}
        except UserError:  # moved since: captions stand alone
            continue
        if {name: movie.n_frames for name, movie in movies.items()} == n_frames:
            return movies
    return {}
