"""How a watcher's state looks: a pure function from `WatchState` to what is drawn."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from contracts.narration import STAGES
from neurrate.watch_state import DaemonState, Heard, WatchState

BAR_CELLS = 32
"""Width of a latency bar."""

STAGE_COLOURS = dict(
    zip(STAGES, ("cyan", "blue", "yellow", "magenta", "green", "white"), strict=True)
)


def draw(state: WatchState, host_ns: int) -> RenderableType:
    """Return the whole view.

    Parameters
    ----------
    state : WatchState
    host_ns : int
        Now, on the host clock.

    Returns
    -------
    view : what rich can print
    """
    parts: list[RenderableType] = [_header(state)]
    notice = state.notice(host_ns)
    if notice:
        parts.append(Text(notice, style="yellow"))
    parts += [
        _panel(population, list(heard), state.n_heard[population])
        for population, heard in sorted(state.newest.items())
    ]
    if state.newest:
        parts.append(_legend())
    return Group(*parts)


def latency_bar(stages_ms: dict[str, float], cells: int = BAR_CELLS) -> Text:
    """Return one cell-wide block for each share of the total, coloured by stage.

    Parameters
    ----------
    stages_ms : dict
        Every stage and ``total``.
    cells : int
        Width of the bar.

    Returns
    -------
    bar : rich.text.Text
        Exactly `cells` wide, unless the total is zero.
    """
    bar, reached_ms, drawn = Text(), 0.0, 0
    total_ms = sum(max(0.0, stages_ms[stage]) for stage in STAGES)
    for stage in STAGES:
        reached_ms += max(0.0, stages_ms[stage])
        end = round(cells * reached_ms / total_ms) if total_ms else 0
        bar.append("█" * (end - drawn), style=STAGE_COLOURS[stage])
        drawn = end
    return bar


def _header(state: WatchState) -> Text:
    line = Text(f"{state.endpoint}  ", style="bold")
    if state.daemon:
        line.append_text(_daemon_line(state.daemon))
    if state.n_unreadable:
        line.append(f"  {state.n_unreadable} unreadable messages", style="red")
    return line


def _daemon_line(daemon: DaemonState) -> Text:
    line = Text("ready", style="green") if daemon.is_ready else Text("not ready", style="red")
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


def _panel(population: str, heard: list[Heard], n_heard: int) -> Panel:
    newest, *older = heard
    said = Text(newest.text, style="bold" if newest.status != "failed" else "red")
    facts = Text(f"{newest.window_stop_s:.2f} s  ", style="dim")
    facts.append_text(latency_bar(newest.latency_ms))
    facts.append(f" {newest.latency_ms['total']:.0f} ms")
    if newest.status != "ok":
        facts.append(f"  {newest.status}", style="red")
    if newest.n_gap_bins:
        facts.append(f"  {newest.n_gap_bins} gap bins", style="red")
    if newest.blind_streams:
        facts.append(f"  blind: {', '.join(newest.blind_streams)}", style="red")
    before = [Text(f"{one.window_stop_s:.2f} s  {one.text}", style="dim") for one in older]
    return Panel(
        Group(said, facts, *before), title=Text(population), subtitle=Text(str(n_heard)),
        title_align="left", subtitle_align="right",
    )  # fmt: skip


def _legend() -> Text:
    legend = Text()
    for stage, colour in STAGE_COLOURS.items():
        legend.append("█", style=colour)
        legend.append(f" {stage}  ", style="dim")
    return legend
