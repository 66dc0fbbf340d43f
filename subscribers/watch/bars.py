"""The latency bars of the view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from contracts.narration import STAGES

BAR_CELLS = 32
"""Width of a latency bar at most."""

LINE_BAR_CELLS = 12
"""Width of a latency bar that shares its line with the words, at most."""

MIN_BAR_CELLS = 6
"""A cell for each stage; a shorter bar is left out."""

NARROW_COLUMNS = 60
"""Below, words and facts do not share a line."""

STAGE_COLOURS = dict(
    zip(
        STAGES,
        ("#4a3f94", "#6859bf", "#8271dd", "#9f91f0", "#bfb5f8", "#dfdaff"),
        strict=True,
    )
)
"""Six steps of violet, which means time spent (docs/visual-language.md)."""

STAGE_LETTERS = dict(zip(STAGES, "cewpdu", strict=True))
"""Where colours are too few for steps. The first letter of each name, and u for publish."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show."""

    columns: int
    has_colours: bool = True
    has_steps: bool = True
    """Whether steps of one colour differ: not among sixteen colours."""

    @classmethod
    def of(cls, console: Console, options: ConsoleOptions) -> Look:
        """Return the look of what is drawn on a console."""
        has_colours = console.color_system is not None and not console.no_color
        has_steps = has_colours and console.color_system in {"256", "truecolor"}
        return cls(options.max_width, has_colours, has_steps)

    @property
    def is_narrow(self) -> bool:
        """Whether words and facts do not fit side by side."""
        return self.columns < NARROW_COLUMNS

    @property
    def bar_cells(self) -> int:
        """Width of a latency bar at most, cells."""
        return min(BAR_CELLS, self.columns - (NARROW_COLUMNS - BAR_CELLS))

    @property
    def has_bars(self) -> bool:
        """Whether there is room for latency bars."""
        return self.bar_cells >= MIN_BAR_CELLS

    def bar(self, stages_ms: Mapping[str, float], cells: int = BAR_CELLS) -> Text:
        """Return a latency bar of that many cells, or as many as a narrow terminal has."""
        cells = min(cells, self.bar_cells)
        return latency_bar(stages_ms, cells, has_steps=self.has_steps)

    def legend(self) -> Text:
        """Return the stages and how each is drawn."""
        legend = Text()
        for stage in STAGES:
            legend.append(_mark(stage, has_steps=self.has_steps), style=STAGE_COLOURS[stage])
            legend.append(f" {stage}  ", style="dim")
        return legend


def latency_bar(
    stages_ms: Mapping[str, float], cells: int = BAR_CELLS, *, has_steps: bool = True
) -> Text:
    """Return the share of each stage in the total, as coloured blocks or as letters.

    The bar is exactly `cells` wide; it is empty if the total is zero, or if `cells` are too few to
    tell stages apart.
    """
    bar, reached_ms, drawn = Text(), 0.0, 0
    total_ms = sum(max(0.0, stages_ms[stage]) for stage in STAGES)
    if not total_ms or cells < MIN_BAR_CELLS:
        return bar
    for stage in STAGES:
        reached_ms += max(0.0, stages_ms[stage])
        end = round(cells * reached_ms / total_ms)
        mark = _mark(stage, has_steps=has_steps)
        bar.append(mark * (end - drawn), style=STAGE_COLOURS[stage])
        drawn = end
    return bar


def _mark(stage: str, *, has_steps: bool) -> str:
    return "█" if has_steps else STAGE_LETTERS[stage]
