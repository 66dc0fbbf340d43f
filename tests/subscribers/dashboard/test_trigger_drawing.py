"""A trigger's mark and threshold in the picture: where they are, and in which colour."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from contracts.displays import pack_probes
from contracts.narration_wire import pack_narration
from contracts.trigger import pack_trigger
from tests.support.browser import OpenPage
from tests.support.daemon_components import Context
from tests.support.dashboards import FedDashboard, fed_dashboard
from tests.support.displays import encoder_parts, probes
from tests.support.narrations import narration
from tests.support.triggers import trigger

COLOURS = Path(__file__).parents[3] / "docs" / "visual-language.md"

FIRED_S = 22.4

THRESHOLD = 0.8
"""Of the rule in `probes`, on the concept "car" of VISp; its score is 0.25 throughout."""

NEAR = 24
"""Of each channel, of 255: as far as smoothing takes a colour."""


def narrated(stop_s: float) -> list[bytes]:
    """Return a narration, which moves the session on."""
    one = narration(population="all")
    return pack_narration(
        replace(one, id=f"run-{stop_s}", window_start_s=stop_s - 0.25, window_stop_s=stop_s)
    )


@pytest.fixture
def dashboard(context: Context) -> Iterator[FedDashboard]:
    """Half a minute of a rule's probe, and the moment at which the rule fired."""
    with fed_dashboard(context) as dashboard:
        fired = trigger()
        dashboard.publish(
            encoder_parts(),
            narrated(9.0),
            *(pack_probes(probes(10.0 + step / 2)) for step in range(60)),
            pack_trigger(replace(fired, window=replace(fired.window, stop_s=FIRED_S))),
            narrated(40.0),
        )
        yield dashboard


def colour_of_triggers(theme: str) -> NDArray[np.int16]:
    """Return what the documentation gives for "a trigger", red, green and blue."""
    row = re.search(r"\| a \*\*trigger\*\*.*`(#\w+)` / `(#\w+)`", COLOURS.read_text("utf-8"))
    assert row
    return np.array(ImageColor.getrgb(row[("dark", "light").index(theme) + 1]), np.int16)


class Drawing:
    """The time line of a page that shows a moment: where things should be, and its pixels.

    Geometry is that of the lane of the only rule; 60 s end at the right edge.
    """

    def __init__(self, page: Any, edge_s: float) -> None:
        page.wait_for_function(
            "(edge) => { const { store, view, activity } = window.neurrate;"
            " return view.right !== null && !activity.isDirty"
            " && Math.abs(store.sessionAt(view.right) - edge) < 0.01; }",
            arg=edge_s,
        )
        box = page.evaluate(
            "() => { const { left, right, lanes, view } = window.neurrate.activity;"
            " return { left, right, span: view.span, ...lanes.rules }; }"
        )
        self._edge_s, self._box = edge_s, box
        png = page.locator("#timeline").screenshot()
        self.pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)
        # Inside of the lane: between its margin at the top and its line at the bottom.
        self.top, self.height = box["y"] + 2, box["height"] - 7

    def x_of(self, session_s: float) -> float:
        width = self._box["right"] - self._box["left"]
        return float(self._box["right"] - (self._edge_s - session_s) * width / self._box["span"])

    def y_of(self, score: float) -> float:
        return float(self.top + self.height * (1 - score))

    def is_near(self, colour: NDArray[np.int16]) -> NDArray[np.bool_]:
        """Return which pixels of the lane, right of its label, have a colour; (height, width)."""
        rows = slice(round(self.top), round(self.top + self.height))
        lane = self.pixels[rows, round(self._box["left"]) : round(self._box["right"])]
        near: NDArray[np.bool_] = (np.abs(lane - colour) <= NEAR).all(axis=2)
        return near

    def marks(self, colour: NDArray[np.int16]) -> list[int]:
        """Return the columns that have a colour from top to bottom."""
        columns = np.flatnonzero(self.is_near(colour).mean(axis=0) > 0.9)
        return [int(column) + round(self._box["left"]) for column in columns]

    def threshold(self, colour: NDArray[np.int16]) -> float:
        """Return the row in which a dashed line is nearest to a colour: half of its pixels are."""
        rows = slice(round(self.top), round(self.top + self.height))
        # Left of the mark, where the score is not drawn over it either.
        columns = slice(round(self._box["left"]), round(self.x_of(FIRED_S)) - 10)
        lane = self.pixels[rows, columns]
        ground = np.median(lane.reshape(-1, 3), axis=0)
        # Of the hue alone: the score is drawn in grey.
        hue, towards = (
            values - values.mean(axis=-1, keepdims=True)
            for values in (lane - ground, colour - ground)
        )
        share = (hue @ towards / (towards @ towards)).clip(0, 1).mean(axis=1)
        rows_of_line = np.flatnonzero(share > share.max() / 2)
        # Dashes of four pixels, gaps of four, and smoothing may share it out between two rows.
        assert len(rows_of_line) <= 2
        assert share[rows_of_line].sum() == pytest.approx(0.5, abs=0.1)
        return float(rows_of_line.mean() + 0.5 + round(self.top))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_trigger_is_drawn_when_it_fired(
    dashboard: FedDashboard, open_page: OpenPage, theme: str
) -> None:
    """Its mark at the time, its threshold at the height, both in the colour of triggers."""
    page = open_page(f"{dashboard.server.address}#t=38", theme=theme)
    drawing, colour = Drawing(page, 38.0), colour_of_triggers(theme)
    assert len(drawing.marks(colour)) == 2
    assert np.mean(drawing.marks(colour)) + 0.5 == pytest.approx(drawing.x_of(FIRED_S), abs=3)
    assert drawing.threshold(colour) == pytest.approx(drawing.y_of(THRESHOLD), abs=1)


def test_a_trigger_stays_whatever_is_in_front(dashboard: FedDashboard, open_page: OpenPage) -> None:
    """A rule is on a population of its own: who looks at another is told of it all the same."""
    colour = colour_of_triggers("dark")
    seen = []
    for chosen in ("", "&lead=VISp", "&hide=VISp"):
        page = open_page(f"{dashboard.server.address}#t=38{chosen}")
        drawing = Drawing(page, 38.0)
        seen.append((drawing.marks(colour), drawing.threshold(colour)))
    assert seen == [seen[0]] * 3
    before = Drawing(open_page(f"{dashboard.server.address}#t=20"), 20.0)
    assert before.marks(colour) == []
