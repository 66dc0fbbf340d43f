"""The pictures of a data set's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.prepared import Role
from encoder_training.data_set.report_measures import Alignment, Response
from encoder_training.data_set.stimulus import StimulusTable
from encoder_training.pictures import report_figure

ALIGNMENT, RATES, RESPONSE, SPLIT = "alignment.png", "rates.png", "response.png", "split.png"

SLOWEST_HZ = 0.01
"""Left end of the axis of rates, on which silence has no place: a spike in 100 s."""

INK = "#333333"
ROLE_COLOURS = {Role.TRAIN: "#b8c4d6", Role.VALIDATION: "#e2a03f", Role.TEST: "#a8324a"}
COLOURS = ("#1f5a8c", "#a8324a", "#3f8f5b", "#e2a03f", "#6b4c9a", "#7f7f7f", "#2aa1a1", "#c76b98")


def draw_alignment(path: Path, presented: StimulusTable, measured: Sequence[Alignment]) -> None:
    """Draw lengths over time, their histogram, and how far tiled labels would be off."""
    with report_figure(path, (10, 1 + 2.2 * len(measured))) as figure:
        grid = figure.subplots(
            len(measured), 3, squeeze=False, gridspec_kw={"width_ratios": [2, 1, 2]}
        )
        for (over_time, histogram, off), name, one in zip(
            grid, presented.movies, measured, strict=True
        ):
            after_s = _without_pauses(one)
            over_time.plot(after_s, 1e3 * one.lasts_s, ".", markersize=2, color=COLOURS[0])
            over_time.set(xlabel="time on the screen (s)", ylabel="length (ms)", title=name)
            over_time.set_ylim(bottom=0)
            histogram.hist(1e3 * one.lasts_s, bins=40, color=COLOURS[0])
            histogram.set(xlabel="length (ms)", ylabel="presentations", yscale="log")
            histogram.axvline(1e3 / one.nominal_hz, color=COLOURS[1], linewidth=0.8)
            histogram.set_title(f"line: 1 / {one.nominal_hz} Hz")
            off.axhline(0, color=INK, linewidth=0.6)
            off.plot(after_s, one.tiled_off, ".", markersize=2, color=COLOURS[1])
            off.set(xlabel="time on the screen (s)", ylabel="frames")
            off.set_title(f"labels tiled at {one.nominal_hz} Hz would be off by")
            off.yaxis.get_major_locator().set_params(integer=True)


def draw_rates(path: Path, areas: Sequence[str], rate_hz: NDArray[np.float64]) -> None:
    """Draw the units of each area: how many, and how fast they fire."""
    names = _by_count(areas)
    of_area = np.array(areas)
    with report_figure(path, (9, 1.4 + 0.34 * len(names))) as figure:
        from matplotlib.ticker import LogLocator, NullLocator

        many, fast = figure.subplots(1, 2, sharey=True)
        at = np.arange(len(names))
        n_units = [int((of_area == name).sum()) for name in names]
        bars = many.barh(at, n_units, color=COLOURS[0])
        many.bar_label(bars, padding=2, fontsize=8)
        many.set_yticks(at, [name or "(unknown)" for name in names])
        many.set(xlabel="units", ylim=(len(names) - 0.5, -0.5))
        many.margins(x=0.12)
        rng = np.random.default_rng(0)
        for row, name in enumerate(names):
            rates = np.maximum(rate_hz[of_area == name], SLOWEST_HZ)
            y = row + rng.uniform(-0.28, 0.28, len(rates))
            fast.plot(rates, y, ".", markersize=3, alpha=0.5, color=COLOURS[0])
            fast.plot([np.median(rates)] * 2, [row - 0.35, row + 0.35], color=COLOURS[1])
        has_slower = bool((rate_hz < SLOWEST_HZ).any())
        less = f"; {SLOWEST_HZ} stands for less" if has_slower else ""
        fast.set(xscale="log", xlabel=f"spikes per second (line: median{less})")
        fast.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        fast.xaxis.set_major_formatter("{x:g}")
        fast.xaxis.set_minor_locator(NullLocator())


def draw_response(path: Path, areas: Sequence[str], response: Response) -> None:
    """Draw what the new picture explains of each area's rates around changes of scene."""
    of_area = np.array(areas)
    with report_figure(path, (7, 3.6)) as figure:
        axes = figure.subplots()
        for row, name in enumerate(_by_count(areas)[: len(COLOURS)]):
            is_here = of_area == name
            label = f"{name or '(unknown)'} ({int(is_here.sum())})"
            explained = 100 * response.explained[:, is_here].mean(axis=1)
            axes.plot(response.after_ms, explained, label=label, color=COLOURS[row], linewidth=1.2)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xlabel("time after the change of scene (ms)")
        axes.set_ylabel("% of variance explained by the new picture")
        figure.legend(loc="outside right center", frameon=False)


def draw_split(path: Path, presented: StimulusTable, role: NDArray[np.int8]) -> None:
    """Draw which frames of which repeats are for what."""
    heights = [0.55 + 0.12 * min(n, 30) for n in presented.n_repeats]
    with report_figure(path, (9, 0.7 + sum(heights))) as figure:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        panels = figure.subplots(
            len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        colours = ListedColormap([ROLE_COLOURS[kind] for kind in Role])
        for movie, axes in enumerate(panels):
            rows = np.flatnonzero((presented.movie == movie) & (presented.number >= 0))
            shape = (presented.n_repeats[movie], presented.n_frames[movie])
            picture = np.full(shape, np.nan)
            picture[presented.repeat[rows], presented.number[rows]] = role[rows]
            axes.imshow(
                picture,
                aspect="auto",
                interpolation="nearest",
                cmap=colours,
                vmin=-0.5,
                vmax=2.5,
                extent=(0, shape[1], shape[0] - 0.5, -0.5),
            )
            axes.set(title=presented.movies[movie], ylabel="repeat")
            axes.set_yticks(range(0, shape[0], -(-shape[0] // 5)))
        panels[-1].set_xlabel("frame")
        handles = [Patch(color=ROLE_COLOURS[kind], label=kind.name.lower()) for kind in Role]
        figure.legend(handles=handles, loc="outside right center", frameon=False)


def _without_pauses(one: Alignment) -> NDArray[np.float64]:
    """Return the starts with pauses of more than a second shortened to one."""
    steps = np.diff(one.at_s)
    limit = one.usual_s + 1.0
    return np.concatenate(([0.0], np.cumsum(np.where(steps > limit, limit, steps))))


def _by_count(areas: Sequence[str]) -> list[str]:
    names, counts = np.unique(np.array(areas), return_counts=True)
    return [str(name) for name in names[np.argsort(-counts, kind="stable")]]
