"""How a watcher shows how sure a narration is."""

import io

import pytest
from rich.console import Console

from contracts.narration import PartialNarration, Status
from contracts.narration_wire import pack_narration, pack_partial
from subscribers.watch.state import ReceivedNarration, WatchState
from subscribers.watch.view import UNSURE, draw
from tests.support.narrations import narration
from tests.support.watching import take

WORDS = "A car drives away."


def _state(*confidences: float | None, **options) -> WatchState:
    state = WatchState("tcp://127.0.0.1:5571", 0, **options)
    for row, confidence in enumerate(confidences):
        take(state, pack_narration(narration(population=f"p{row}", confidence=confidence)))
    return state


def _drawn(state: WatchState, *, has_colours: bool, columns: int = 100) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=columns, force_terminal=True, no_color=not has_colours,
        color_system="standard" if has_colours else None,
    )  # fmt: skip
    console.print(draw(state, 1, None))
    return file.getvalue()


@pytest.mark.parametrize("columns", [40, 100])
def test_unsure_words_are_marked_where_there_are_no_colours(columns):
    """Only the words below the limit have the mark; a narration without confidence has none."""
    drawn = _drawn(_state(0.49, 0.51, None), has_colours=False, columns=columns)
    assert drawn.count(WORDS) == 3
    assert drawn.count(WORDS + UNSURE) == 1


def test_unsure_words_are_dim_where_there_are_colours():
    """Dim and not bold, without a mark; sure ones are bold."""
    unsure, sure = (_drawn(_state(p), has_colours=True) for p in (0.2, 0.8))
    assert f"\x1b[2m{WORDS}\x1b[0m" in unsure
    assert f"\x1b[1m{WORDS}\x1b[0m" in sure
    assert UNSURE not in unsure


def test_the_figure_is_among_the_facts():
    """Two digits, and nothing where the daemon gives none."""
    assert "confidence 0.23" in _drawn(_state(0.234), has_colours=False)
    assert "confidence" not in _drawn(_state(None), has_colours=False)


def test_the_limit_is_the_watchers():
    """Zero marks nothing, however unsure."""
    assert UNSURE not in _drawn(_state(0.1, unsure_below=0.0), has_colours=False)
    assert UNSURE in _drawn(_state(0.9, unsure_below=0.95), has_colours=False)


def test_a_line_says_it_too():
    """A pipe gets the figure and the word."""
    received = take(_state(), pack_narration(narration(confidence=0.25)))
    assert isinstance(received, ReceivedNarration)
    assert received.line.endswith("(60 ms; confidence 0.25; unsure)")


def test_a_sentence_that_grows_has_no_confidence():
    """That of the narration before it is not of this one."""
    state = _state(0.2)
    partial = PartialNarration("p0", 1, 0.5, 0.75, 0.7, "A dog", 2, 0, 1)
    take(state, pack_partial(partial))
    drawn = _drawn(state, has_colours=False)
    assert "A dog" in drawn
    assert UNSURE not in drawn
    assert "confidence" not in drawn


def test_a_failed_narration_is_not_called_unsure():
    """It has no confidence, and its reason stands there as before."""
    state = _state()
    take(state, pack_narration(narration(status=Status.FAILED, text="")))
    assert UNSURE not in _drawn(state, has_colours=False)
