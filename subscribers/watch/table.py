"""The view where the truth is known: the true caption, and each population's words and score."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from subscribers.watch.state import ReceivedNarration, WatchState


def truth_line(state: WatchState) -> Text:
    """Return the true caption of the newest narration's moment."""
    newest = state.kept[-1]
    line = Text("truth  ", style="dim")
    line.append(newest.truth or "nothing that has a caption", "bold green" if newest.truth else "")
    return line.append(f"  at {newest.frame_s:.2f} s", style="dim")


def scored_table(
    state: WatchState,
    *,
    words_of: Callable[[ReceivedNarration], Text],
    notes: Callable[[ReceivedNarration], Text],
    is_cut: bool = False,
) -> Table:
    """Return the newest words of each population beside its score so far.

    Words about another moment than the truth line's are dim: the scene has changed.

    With `is_cut` each population takes one line: a sentence that is too long ends in an ellipsis.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    table.add_column("population", no_wrap=True)
    table.add_column("F1", no_wrap=True, justify="right")
    table.add_column("says", ratio=1, no_wrap=is_cut, overflow="ellipsis" if is_cut else "fold")
    table.add_column("age", no_wrap=True)
    now = state.kept[-1].truth
    for name in state.names:
        newest = state.now(name)
        words = words_of(newest)
        if newest.truth != now:
            words.stylize("not bold dim")
        table.add_row(Text(newest.title), score_of(state, name), words, notes(newest))
    return table


def score_of(state: WatchState, name: str) -> Text:
    """Return the object F1 of a population so far; a dash where nothing was to be named."""
    f1 = state.scores[name].f1 if name in state.scores else None
    return Text("-" if f1 is None else f"{f1:.2f}", style="bold")
