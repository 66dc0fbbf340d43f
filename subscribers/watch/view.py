"""How a watcher's state looks: a pure function from `WatchState` to what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.segment import SegmentLines
from rich.text import Text

from contracts.clock import ns_to_second
from contracts.narration import Status
from contracts.spikes import Mark
from subscribers.watch.bars import LINE_BAR_CELLS, Look
from subscribers.watch.state import (
    GROWING,
    N_SHOWN,
    DaemonState,
    ReceivedNarration,
    WatchState,
    printable,
)
from subscribers.watch.table import score_of, scored_table, truth_line
from subscribers.watch.triggers import triggers_line

NAME_CELLS = 12
"""Width of the column of names where there are no panels; longer names push what follows."""

WORD_STYLES = {Status.FAILED.value: "red", GROWING: "italic"}
"""By status; others are bold."""

UNSURE = " (unsure)"
"""Behind a text of low confidence where there are no colours to dim it."""

STREAM_STYLES = {"live": "", "blind": "red", "aside": "red"}
"""By state; others are dim."""


def draw(state: WatchState, host_ns: int, height: int | None = None) -> RenderableType:
    """Return the view, as full as the height allows.

    `height` is the terminal's, in lines. What does not fit is left out: older narrations first,
    then the panels, then the last populations, which are counted. None draws everything.
    """
    return _View(state, host_ns, height)


@dataclass(frozen=True, slots=True)
class _View:
    """The fullest form of the populations that fits between top and bottom."""

    state: WatchState
    host_ns: int
    height: int | None

    # Only here is the terminal known: colours, width, and with it how many lines the words take.
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.reset_height()
        state, look = self.state, Look.of(console, options)
        top, bottom = _top(state, self.host_ns), _bottom(state, look)
        forms = _scored_forms(state, look) if state.scores else _forms(state, look)
        if self.height is None:
            yield Group(*top, *forms[0], *bottom)
            return
        for form in forms:
            lines = console.render_lines(Group(*top, *form, *bottom), options, pad=False)
            if len(lines) <= self.height:
                yield SegmentLines(lines, new_lines=True)
                return
        n_populations = len(form)
        last = 1 if n_populations else 0
        n_shown = max(0, self.height - last - (len(lines) - n_populations))
        shown = Group(*top, *form[:n_shown], *bottom)
        lines = console.render_lines(shown, options, pad=False)
        yield SegmentLines(lines[: max(0, self.height - last)], new_lines=True)
        if n_populations:
            yield _more(n_populations - n_shown)


def _top(state: WatchState, host_ns: int) -> list[RenderableType]:
    top: list[RenderableType] = [_header(state, host_ns)]
    if notice := state.notice(host_ns):
        top.append(Text(notice, style="yellow"))
    if state.mark:
        top.append(_stimulus_line(state.mark))
    if state.scores:
        top.append(truth_line(state))
    return top


def _stimulus_line(mark: Mark) -> Text:
    """Return what is on the screen, in one line."""
    line = Text("stimulus  ", style="dim", no_wrap=True, overflow="ellipsis")
    line.append(printable(mark.stimulus))
    if mark.frame is not None:
        line.append(f" {mark.frame}")
    line.append(f"  from {ns_to_second(mark.start_ns):.2f} s", style="dim")
    return line.append(f"  {printable(mark.caption)}" if mark.caption else "")


def _bottom(state: WatchState, look: Look) -> list[RenderableType]:
    bottom: list[RenderableType] = []
    if state.fired:
        bottom.append(triggers_line(state.fired, _newest_s(state)))
    if state.newest and look.has_bars:
        bottom.append(look.legend())
    return bottom


def _forms(state: WatchState, look: Look) -> list[Sequence[RenderableType]]:
    """Return the forms of the populations, fullest first; in the last each takes one line."""
    newest = [state.now(population) for population in state.names]
    panels = [_panels(state, look, n_shown) for n_shown in range(N_SHOWN, 0, -1)]
    return [
        *([] if look.is_narrow else panels),
        [_stacked(state, narration, look) for narration in newest],
        [_stacked(state, narration, look, is_cut=True) for narration in newest],
        [_one_line(narration, look) for narration in newest],
    ]


def _scored_forms(state: WatchState, look: Look) -> list[Sequence[RenderableType]]:
    def notes(narration: ReceivedNarration) -> Text:
        return look.bar(narration.latency_ms, LINE_BAR_CELLS).append_text(_notes(narration))

    def words(narration: ReceivedNarration) -> Text:
        return _words(narration, look)

    if look.is_narrow:
        return _forms(state, look)
    return [
        [scored_table(state, words_of=words, notes=notes)],
        [scored_table(state, words_of=words, notes=notes, is_cut=True)],
        [_one_line(state.now(population), look) for population in state.names],
    ]


def _header(state: WatchState, host_ns: int) -> Text:
    line = Text(f"{state.endpoint}  ", style="bold")
    if state.daemon:
        if state.is_silent(host_ns):
            line.append(f"silent for {state.silent_s(host_ns):.0f} s", style="red")
        elif state.daemon.is_ready:
            line.append("ready", style="green")
        else:
            line.append("not ready", style="red")
        line.append_text(_daemon_line(state.daemon))
    if state.n_unreadable:
        line.append(f"  {state.n_unreadable} unreadable messages", style="red")
    return line


def _daemon_line(daemon: DaemonState) -> Text:
    line = Text()
    for name, stream_state in sorted(daemon.streams.items()):
        line.append(f"  {name} {stream_state}", style=STREAM_STYLES.get(stream_state, "dim"))
    for reason, n_dropped in sorted(daemon.dropped.items()):
        line.append(f"  {n_dropped} dropped ({reason})", style="yellow")
    if daemon.gap_bins or daemon.batches_lost:
        line.append(
            f"  {daemon.gap_bins} gap bins, {daemon.batches_lost} batches lost", style="red"
        )
    if daemon.p95_ms is not None:
        line.append(f"  p95 {daemon.p95_ms:.0f} ms")
    for reason in daemon.reasons:
        line.append(f"\n  {reason}", style="red")
    return line


def _panels(state: WatchState, look: Look, n_shown: int) -> list[Panel]:
    return [
        _panel(
            look,
            [state.now(population), *list(state.newest[population])[1:n_shown]],
            state.n_received[population],
        )
        for population in state.names
    ]


def _panel(look: Look, received: list[ReceivedNarration], n_received: int) -> Panel:
    newest, *older = received
    features = [Text(newest.features, style="dim")] if newest.features else []
    before = [Text(f"{one.window_stop_s:.2f} s  {one.text}", style="dim") for one in older]
    return Panel(
        Group(_words(newest, look), *features, _facts(newest, look), *before),
        title=Text(newest.title), subtitle=Text(str(n_received)),
        title_align="left", subtitle_align="right",
    )  # fmt: skip


def _stacked(
    state: WatchState, narration: ReceivedNarration, look: Look, *, is_cut: bool = False
) -> Group:
    """Return the facts of a population in a line, and its text below; in one line if `is_cut`."""
    facts = Text(no_wrap=True, overflow="ellipsis")
    title = narration.title
    facts.append(f"{title} " if look.is_narrow else _padded(title))
    if state.scores:  # its time is in the line of the truth
        facts.append("F1 ").append_text(score_of(state, narration.population)).append("  ")
        facts.append_text(look.bar(narration.latency_ms)).append_text(_notes(narration))
    else:
        facts.append_text(_facts(narration, look))
    if is_cut:
        words = Text("  ", no_wrap=True, overflow="ellipsis").append_text(_words(narration, look))
        return Group(facts, words)
    return Group(facts, Padding(_words(narration, look), (0, 0, 0, 2)))


def _one_line(narration: ReceivedNarration, look: Look) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    if look.is_narrow:
        return line.append(f"{narration.title}  ").append_text(_words(narration, look))
    line.append(_padded(narration.title))
    line.append_text(look.bar(narration.latency_ms, LINE_BAR_CELLS)).append_text(_notes(narration))
    return line.append("  ").append_text(_words(narration, look))


def _padded(title: str) -> str:
    """Return a title as wide as the column of names; a wide letter takes two cells."""
    return title + " " * (NAME_CELLS - cell_len(title)) + " "


def _words(narration: ReceivedNarration, look: Look) -> Text:
    """Return the text; one that is unsure is dim, or marked where there are no colours."""
    words = Text(narration.text, style=WORD_STYLES.get(narration.status, "bold"))
    if narration.is_unsure:
        words.stylize("not bold dim")
        words.append("" if look.has_colours else UNSURE)
    return words


def _facts(narration: ReceivedNarration, look: Look) -> Text:
    facts = Text(f"{narration.window_stop_s:.2f} s  ", style="dim")
    return facts.append_text(look.bar(narration.latency_ms)).append_text(_notes(narration))


def _notes(narration: ReceivedNarration) -> Text:
    notes = Text(f" {narration.latency_ms['total']:.0f} ms")
    if narration.confidence is not None:
        notes.append(f"  confidence {narration.confidence:.2f}")
    if narration.status != "ok":
        notes.append(f"  {narration.status}", style="red")
    if narration.n_gap_bins:
        notes.append(f"  {narration.n_gap_bins} gap bins", style="red")
    if narration.n_missing_units:
        notes.append(f"  {narration.n_missing_units} units missing", style="red")
    if narration.blind_streams:
        notes.append(f"  blind: {', '.join(narration.blind_streams)}", style="red")
    return notes


def _more(n_hidden: int) -> Text:
    populations = "population" if n_hidden == 1 else "populations"
    return Text(
        f"+{n_hidden} more {populations}; make the window taller",
        style="yellow",
        no_wrap=True,
        overflow="ellipsis",
    )


def _newest_s(state: WatchState) -> float:
    """Return the end of the newest window of which anything was received, session seconds."""
    ends = [narration[0].window_stop_s for narration in state.newest.values()]
    return max((*ends, *(one.stop_s for one in state.fired.values())), default=0.0)
