"""How a watcher's state looks: a pure function from `WatchState` to what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.segment import SegmentLines
from rich.text import Text

from contracts.narration import STAGES, Status
from subscribers.watch.state import GROWING, N_SHOWN, DaemonState, ReceivedNarration, WatchState
from subscribers.watch.table import scored_table, truth_line
from subscribers.watch.triggers import triggers_line

BAR_CELLS = 32
"""Width of a latency bar."""

LINE_BAR_CELLS = 12
"""Width of a latency bar that shares its line with the words."""

NAME_CELLS = 12
"""Width of the column of names where there are no panels; longer names push what follows."""

WORD_STYLES = {Status.FAILED.value: "red", GROWING: "italic"}
"""By status; others are bold."""

STAGE_COLOURS = dict(
    zip(STAGES, ("cyan", "blue", "yellow", "magenta", "green", "white"), strict=True)
)


def draw(state: WatchState, host_ns: int, height: int | None = None) -> RenderableType:
    """Return the view, as full as the height allows.

    `height` is the terminal's, in lines. What does not fit is left out: older narrations first,
    then the panels, then the last populations, which are counted. None draws everything.
    """
    top = [_header(state, host_ns)]
    notice = state.notice(host_ns)
    if notice:
        top.append(Text(notice, style="yellow"))
    if state.scores:
        top.append(truth_line(state))
    bottom = [_legend()] if state.newest else []
    if state.fired:
        bottom.insert(0, triggers_line(state.fired, _newest_s(state)))
    forms = _scored_forms(state) if state.scores else _forms(state)
    if height is None:
        return Group(*top, *forms[0], *bottom)
    return _Fitted(top, forms, bottom, height)


def _forms(state: WatchState) -> list[Sequence[RenderableType]]:
    newest = [state.now(population) for population in state.names]
    return [
        *(_panels(state, n_shown) for n_shown in range(N_SHOWN, 0, -1)),
        [_two_lines(narration) for narration in newest],
        [_one_line(narration) for narration in newest],
    ]


def _scored_forms(state: WatchState) -> list[Sequence[RenderableType]]:
    def notes(narration: ReceivedNarration) -> Text:
        return latency_bar(narration.latency_ms, LINE_BAR_CELLS).append_text(_notes(narration))

    return [
        [scored_table(state, words_of=_words, notes=notes)],
        [scored_table(state, words_of=_words, notes=notes, is_cut=True)],
        [_one_line(state.now(population)) for population in state.names],
    ]


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The fullest form of the populations that fits between top and bottom."""

    top: Sequence[RenderableType]
    forms: Sequence[Sequence[RenderableType]]
    """Fullest first; in the last each population takes one line."""
    bottom: Sequence[RenderableType]
    height: int

    # Only here is the width known, and with it how many lines the words take.
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.reset_height()
        for form in self.forms:
            lines = console.render_lines(Group(*self.top, *form, *self.bottom), options, pad=False)
            if len(lines) <= self.height:
                yield SegmentLines(lines, new_lines=True)
                return
        n_populations = len(form)
        last = 1 if n_populations else 0
        n_shown = max(0, self.height - last - (len(lines) - n_populations))
        shown = Group(*self.top, *form[:n_shown], *self.bottom)
        lines = console.render_lines(shown, options, pad=False)
        yield SegmentLines(lines[: max(0, self.height - last)], new_lines=True)
        if n_populations:
            yield _more(n_populations - n_shown)


def latency_bar(stages_ms: dict[str, float], cells: int = BAR_CELLS) -> Text:
    """Return one cell-wide block for each share of the total, coloured by stage.

    The bar is exactly `cells` wide, unless the total is zero.
    """
    bar, reached_ms, drawn = Text(), 0.0, 0
    total_ms = sum(max(0.0, stages_ms[stage]) for stage in STAGES)
    for stage in STAGES:
        reached_ms += max(0.0, stages_ms[stage])
        end = round(cells * reached_ms / total_ms) if total_ms else 0
        bar.append("█" * (end - drawn), style=STAGE_COLOURS[stage])
        drawn = end
    return bar


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
        style = "" if stream_state == "live" else "red" if stream_state == "blind" else "dim"
        line.append(f"  {name} {stream_state}", style=style)
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


def _panels(state: WatchState, n_shown: int) -> list[Panel]:
    return [
        _panel(
            [state.now(population), *list(state.newest[population])[1:n_shown]],
            state.n_received[population],
        )
        for population in state.names
    ]


def _panel(received: list[ReceivedNarration], n_received: int) -> Panel:
    newest, *older = received
    before = [Text(f"{one.window_stop_s:.2f} s  {one.text}", style="dim") for one in older]
    return Panel(
        Group(_words(newest), _facts(newest), *before),
        title=Text(newest.title), subtitle=Text(str(n_received)),
        title_align="left", subtitle_align="right",
    )  # fmt: skip


def _two_lines(narration: ReceivedNarration) -> Group:
    first = Text(no_wrap=True, overflow="ellipsis")
    first.append(f"{narration.title:<{NAME_CELLS}} ").append_text(_facts(narration))
    second = Text("  ", no_wrap=True, overflow="ellipsis").append_text(_words(narration))
    return Group(first, second)


def _one_line(narration: ReceivedNarration) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{narration.title:<{NAME_CELLS}} ")
    line.append_text(latency_bar(narration.latency_ms, LINE_BAR_CELLS)).append_text(
        _notes(narration)
    )
    return line.append("  ").append_text(_words(narration))


def _words(narration: ReceivedNarration) -> Text:
    return Text(narration.text, style=WORD_STYLES.get(narration.status, "bold"))


def _facts(narration: ReceivedNarration) -> Text:
    facts = Text(f"{narration.window_stop_s:.2f} s  ", style="dim")
    return facts.append_text(latency_bar(narration.latency_ms)).append_text(_notes(narration))


def _notes(narration: ReceivedNarration) -> Text:
    notes = Text(f" {narration.latency_ms['total']:.0f} ms")
    if narration.status != "ok":
        notes.append(f"  {narration.status}", style="red")
    if narration.n_gap_bins:
        notes.append(f"  {narration.n_gap_bins} gap bins", style="red")
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


def _legend() -> Text:
    legend = Text()
    for stage, colour in STAGE_COLOURS.items():
        legend.append("█", style=colour)
        legend.append(f" {stage}  ", style="dim")
    return legend
