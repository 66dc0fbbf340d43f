"""How a watcher shows the features that stand out."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from contracts.narration import NamedFeature
from contracts.narration_wire import pack_narration
from subscribers.watch.state import ReceivedNarration, WatchState
from subscribers.watch.view import draw
from tests.support.narrations import narration
from tests.support.watching import take


def _taken(state: WatchState, features: tuple[NamedFeature, ...] | None) -> ReceivedNarration:
    said = narration()
    said = replace(said, utterance=replace(said.utterance, features=features))
    received = take(state, pack_narration(said))
    assert isinstance(received, ReceivedNarration)
    return received


def test_they_are_in_the_panel_and_in_the_line():
    """By name and height; without any, neither has a word of them."""
    state = WatchState("tcp://127.0.0.1:5571", 0)
    found = (NamedFeature(4, "night", 2.31), NamedFeature(2, "car\x1b[31m", 0.7))
    assert "night +2.3 sd, car" in _taken(state, found).line
    assert "\x1b" not in _taken(state, found).line
    file = io.StringIO()
    Console(file=file, width=100, no_color=True).print(draw(state, 1, None))
    assert "night +2.3 sd" in file.getvalue()
    assert _taken(state, found * 2).line.count(" sd") == 3
    for features in (None, ()):
        assert " sd" not in _taken(state, features).line
