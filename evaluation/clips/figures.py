"""The figures of an experiment: rates of mention, and power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from contracts.population import CONTROLS
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.clips.power import ENOUGH, GIVEN, NUMBERS, OBSERVED
from evaluation.questions.answer import Row, interval_of, p_text
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL, SHOWN

if TYPE_CHECKING:
    from evaluation.clips.answer import Curves

COLOURS = ("#13171b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Populations of the figure of power: Okabe and Ito's, which the colour-blind can tell apart."""


def draw_effects(figure: Any, rows: Sequence[Row]) -> None:
    """Draw a panel for each feature, a line for each narrator."""
    for axes, feature, is_left in _panels(figure, [str(row["feature"]) for row in rows]):
        of_feature = [row for row in rows if row["feature"] == feature]
        for at, row in enumerate(of_feature):
            is_control = row["narrator"] in CONTROLS
            colour, line = (CONTROL, "--") if is_control else (INK, "-")
            colour = SHOWN if row["narrator"] == TRUE_PATCHES else colour
            for name, face, shift in (("with", colour, -0.13), ("without", "white", 0.13)):
                rate = interval_of(row, name)
                axes.plot(
                    [rate.low, rate.high], [at + shift] * 2, line, color=colour, linewidth=1.2
                )
                axes.plot(rate.value, at + shift, "o", ms=4.5, mfc=face, mec=colour)
            text = f"{float(str(row['difference'])):.2f}, {p_text(float(str(row['p_holm'])))}"
            axes.text(1.04, at, text, fontsize=7, va="center", color=colour)
        axes.set_yticks(
            range(len(of_feature)), [str(row["narrator"]) if is_left else "" for row in of_feature]
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(len(of_feature) - 0.4, -0.6), title=feature)


def draw_power(figure: Any, curves: Curves) -> None:
    """Draw a panel for each feature: observed differences by population, and given ones."""
    narrators = [
        name
        for name in dict.fromkeys(narrator for _, narrator, _ in curves)
        if name not in (*CONTROLS, TRUE_PATCHES)
    ]
    colour_of: Mapping[str, str] = {
        name: COLOURS[at % len(COLOURS)] for at, name in enumerate(narrators)
    }
    for axes, feature, is_left in _panels(figure, [feature for feature, _, _ in curves]):
        for given in GIVEN:
            curve = curves.get((feature, narrators[0], f"{given:g}")) if narrators else None
            if curve is not None:
                axes.plot(NUMBERS, curve.power, color=NULL, linewidth=2.5, zorder=1)
                at = next((i for i, power in enumerate(curve.power) if power > 0.5), -1)
                axes.text(NUMBERS[at], curve.power[at], f"{given:g}", fontsize=7, color=CONTROL)
        for name, colour in colour_of.items():
            if (feature, name, OBSERVED) in curves:
                curve = curves[feature, name, OBSERVED]
                axes.plot(NUMBERS, curve.power, color=colour, linewidth=1.2, label=name, zorder=2)
        axes.axhline(ENOUGH, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", ylim=(-0.02, 1.02), title=feature)
        axes.set_xticks([5, 10, 20, 50, 100, 300], ["5", "10", "20", "50", "100", "300"])
        axes.minorticks_off()
        axes.set(xlabel="pairs", ylabel="power" if is_left else "")
    lines = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if lines:
        where = "outside lower center"
        figure.legend(lines.values(), lines, loc=where, ncols=7, fontsize=8, frameon=False)


def _panels(figure: Any, features: Sequence[str]) -> list[tuple[Any, str, bool]]:
    names = list(dict.fromkeys(features))
    n_columns = min(3, len(names))
    axes = figure.subplots(-(-len(names) // n_columns), n_columns, squeeze=False).ravel()
    for unused in axes[len(names) :]:
        unused.set_axis_off()
    return [(axes[at], name, at % n_columns == 0) for at, name in enumerate(names)]
