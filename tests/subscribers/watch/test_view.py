"""The view on narrow terminals, and on those without colours."""

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style

from contracts.narration import STAGES
from contracts.narration_wire import pack_narration
from contracts.source_json import pack_mark
from contracts.spikes import Mark
from subscribers.watch.bars import STAGE_COLOURS, STAGE_LETTERS
from subscribers.watch.state import WatchState
from subscribers.watch.view import draw
from tests.support.narrations import narration
from tests.support.watching import take

S = 1_000_000_000
NAMES = ("all", "VISp", "shuffled")
WORDS = "A red car drives to the right along a busy street, by night."


@pytest.fixture(params=[False, True], ids=["no-truth", "truth"])
def state(request) -> WatchState:
    """Return a state of three populations, with a true caption or without one."""
    state = WatchState("tcp://127.0.0.1:5571", 0, kinds_of=lambda text: {"car"} & {*text.split()})
    if request.param:
        state.truth.add(Mark("nwb", "0" * 16, 0, 9 * S, "movie", 0, 0, "A car turns."))
    for name in NAMES:
        take(state, pack_narration(narration(population=name, text=WORDS)), host_ns=S)
    return state


def _drawn(state: WatchState, columns: int, *, height: int | None = 24, colours=None) -> str:
    # rich keeps a style's codes for all consoles, of the first one's colours.
    Style.parse.cache_clear()
    Style._add.cache_clear()
    file = io.StringIO()
    console = Console(
        file=file, width=columns, force_terminal=True, color_system=colours, no_color=not colours
    )
    console.print(draw(state, S, height))
    return file.getvalue()


def _words(shown: str) -> str:
    return " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_words_of_every_population_are_read_whole(state, columns):
    """On a narrow terminal the bars give way, and the words get all of its width."""
    lines = _drawn(state, columns).splitlines()
    assert max(len(line) for line in lines) <= columns
    text = _words("\n".join(line.partition("cc")[0] for line in lines))
    if columns == 40 or not state.scores:
        assert text.count(WORDS) == len(NAMES)
    for name in NAMES:
        assert name in text


def test_on_twenty_columns_there_are_words_and_no_bars(state):
    """Too few cells to tell six stages apart are better spent on words."""
    shown = _drawn(state, 20, height=None)
    assert _words(shown).count(WORDS) == len(NAMES)
    assert "prefill" not in shown
    assert "cc" not in shown


@pytest.mark.parametrize("columns", [40, 80])
def test_stages_are_told_apart_without_colours(state, columns):
    """Each stage is a letter, which the legend explains."""
    shown = _drawn(state, columns)
    assert len({*STAGE_LETTERS.values()}) == len(STAGES)
    for stage, letter in STAGE_LETTERS.items():
        assert f"{letter} {stage}" in _words(shown)
    assert "█" not in shown
    (bar, *_) = [word for word in shown.split() if word.startswith("cc")]
    assert "".join(sorted({*bar}, key=bar.index)) == "".join(STAGE_LETTERS.values())


@pytest.mark.parametrize("colours", ["256", "truecolor"])
def test_stages_are_steps_of_a_colour_where_there_are_enough(state, colours):
    """Blocks, each in its own step of violet."""
    shown = _drawn(state, 80, colours=colours)
    assert "█" in shown
    assert "cc" not in shown
    colours_of = set(re.findall(r"\x1b\[[0-9;]*38;([0-9;]+)m█", shown))
    assert len(colours_of) == len({*STAGE_COLOURS.values()}) == len(STAGES)


def test_stages_are_letters_among_sixteen_colours(state):
    """Steps of one colour would be the same there."""
    shown = _drawn(state, 80, colours="standard")
    assert "█" not in shown
    assert all(letter in shown for letter in STAGE_LETTERS.values())


def test_wide_letters_do_not_shift_what_follows():
    """Letters of two cells fill the column of names like others."""
    state = WatchState("tcp://127.0.0.1:5571", 0)
    for name, label in (("a", "視覚野"), ("b", "VISp")):
        named = replace(narration(population=name, text=WORDS), label=label)
        take(state, pack_narration(named), host_ns=S)
    lines = [line for line in _drawn(state, 80, height=4).splitlines() if WORDS[:5] in line]
    assert len({cell_len(line.partition(WORDS[:5])[0]) for line in lines}) == 1 < len(lines)


def test_what_is_on_the_screen_takes_one_line(state):
    """The newest mark of the daemon; it is not the truth that narrations are scored with."""
    assert "stimulus" not in _drawn(state, 80)
    n_spans = len(state.truth.spans)
    for frame in (16, 17):
        caption = "A\x1b[31m dog " + "runs " * 40
        mark = Mark("nwb", "0" * 16, 12 * S, 13 * S, "natural_movie_one", 0, frame, caption)
        take(state, pack_mark(mark), host_ns=S)
    lines = [line for line in _drawn(state, 80).splitlines() if "stimulus" in line]
    assert len(lines) == 1
    assert "natural_movie_one 17  from 12.00 s  A [31m dog" in lines[0]
    assert len(state.truth.spans) == n_spans
