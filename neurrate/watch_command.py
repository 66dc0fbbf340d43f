"""``neurrate watch``: a subscriber that shows narrations as they are published."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, Clock, HostClock
from neurrate.arguments import JsonOption, Seconds
from neurrate.tables import print_table, write_json
from subscribers.watch.state import SILENCE_S, ReceivedNarration, WatchState
from subscribers.watch.triggers import ReceivedTriggers
from subscribers.watch.truth import score_rows

if TYPE_CHECKING:
    import zmq

POLL_MS = 100

LAST_NS = 300_000_000
"""After the end, what has been published is read for as long: host time, nanoseconds."""

MAX_MARKS = 1000
"""Taken between two narrations, so that no source can keep the view from being drawn."""

PICTURE_COLUMNS = 110
"""Width of a picture: what a page shows without shrinking the letters."""

DRAWINGS_PER_S = 8


def watch(
    *,
    connect: str = "tcp://127.0.0.1:5571",
    truth: str | None = None,
    words: bool = False,
    plain: bool = False,
    seconds: Seconds | None = None,
    svg: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Show narrations and triggers as they are published.

    Watching cannot slow the daemon down, and any number may watch. Control-C ends it.

    Examples
    --------
        neurrate watch
        neurrate watch --connect tcp://127.0.0.1:6000
        neurrate watch --truth tcp://127.0.0.1:5570
        neurrate watch --words
        neurrate watch --plain --seconds 60 --json heard.json
        neurrate watch --plain --seconds 10 --svg watch.svg

    Parameters
    ----------
    connect
        Where the daemon publishes.
    truth
        Where the source publishes, which sends captions if the recording has some. Each
        narration is shown beside the caption of the moment that it describes, and each
        population's score so far: F1 of the objects named, even where a window spans two scenes.
    words
        Show sentences as they grow, word by word. The narrator sends them only while somebody asks.
    plain
        One line for each narration; always so where standard output is no terminal.
    seconds
        Stop after so many seconds.
    svg
        Write the view at the end to this file, as a picture.
    json
        Write what was heard to this file, the last thousand narrations word for word.
    """
    from subscribers.listener import ANY_NUMBER, MARK_TOPICS, subscribed

    check_writable(json)
    check_writable(svg)
    clock = HostClock()
    state = WatchState(connect, clock.now_ns())
    deadline_ns = None if seconds is None else clock.now_ns() + round(seconds * NS_PER_S)
    with ExitStack() as sockets, suppress(KeyboardInterrupt):
        marks = (
            sockets.enter_context(
                subscribed(truth, MARK_TOPICS, setting="--truth", queue=ANY_NUMBER)
            )
            if truth is not None
            else None
        )
        follow(
            state,
            clock,
            plain=plain,
            is_over=lambda: deadline_ns is not None and clock.now_ns() >= deadline_ns,
            marks=marks,
            words=words,
        )
    if svg is not None:
        save_picture(svg, state, clock.now_ns(), title="neurrate watch")
    print_table("Heard", summary(state))
    print_scores(state)
    write_json(
        json,
        {
            "connect": connect,
            "unreadable": state.n_unreadable,
            "populations": summary(state),
            "scores": scores_of(state),
            "triggers": {name: one.n for name, one in state.fired.items()},
            "daemon": asdict(state.daemon) if state.daemon else None,
            "narrations": [asdict(heard) for heard in state.kept],
        },
    )


def follow(
    state: WatchState,
    clock: Clock,
    *,
    plain: bool,
    is_over: Callable[[], bool],
    marks: zmq.Socket[bytes] | None = None,
    words: bool = False,
) -> None:
    """Show what is published until it is over.

    Parameters
    ----------
    state : WatchState
        Knows the address; takes what is heard.
    clock : Clock
    plain : bool
        One line for each narration; always so where standard output is no terminal.
    is_over : callable
        Asked at least ten times a second.
    marks : zmq.Socket, optional
        Brings what was on the screen.
    words : bool
        Sentences as they grow, where there is a view to show them in.
    """
    from subscribers.listener import NARRATION_TOPICS, PARTIAL_TOPICS, subscribed

    is_plain = plain or not sys.stdout.isatty()
    show = _plain if is_plain else _live
    topics = NARRATION_TOPICS + (PARTIAL_TOPICS if words and not is_plain else ())
    with subscribed(state.endpoint, topics, setting="--connect") as socket:
        show(_Connections(socket, marks, state, clock, is_over))


def summary(state: WatchState) -> list[dict[str, object]]:
    """Return one row for each population: how many narrations, and how late.

    Parameters
    ----------
    state : WatchState

    Returns
    -------
    rows : list of dict
    """
    rows: list[dict[str, object]] = []
    for population, n_heard in sorted(state.n_heard.items()):
        totals_ms = [one.latency_ms["total"] for one in state.kept if one.population == population]
        rows.append(
            {
                "population": population,
                "narrations": n_heard,
                "latency ms, median": sorted(totals_ms)[len(totals_ms) // 2] if totals_ms else None,
                "latency ms, worst": max(totals_ms, default=None),
                "last words": state.newest[population][0].text,
            }
        )
    return rows


def scores_of(state: WatchState) -> dict[str, dict[str, object]]:
    """Return the object F1 of each population, and over how many narrations.

    Parameters
    ----------
    state : WatchState

    Returns
    -------
    scores : dict
        By population; empty where no true caption was known.
    """
    names = [name for name in state.names if name in state.scores]
    return {name: {"object_f1": state.scores[name].f1, "n": state.scores[name].n} for name in names}


def print_scores(state: WatchState) -> None:
    """Print the scores as a table, if the truth was known at all."""
    n_units = {name: heard[0].n_units for name, heard in state.newest.items()}
    rows = score_rows(state.scores, n_units, state.names)
    if rows:
        print_table("Objects named, against the true captions", rows)


def save_picture(path: Path, state: WatchState, host_ns: int, *, title: str) -> None:
    """Write the view to a file, as a picture.

    Parameters
    ----------
    path : Path
        SVG file.
    state : WatchState
    host_ns : int
        Now, on the host clock.
    title : str
        In the frame of the window.
    """
    from io import StringIO

    from rich.console import Console

    from subscribers.watch.view import draw

    console = Console(record=True, width=PICTURE_COLUMNS, file=StringIO(), force_terminal=True)
    console.print(draw(state, host_ns))
    console.save_svg(str(path), title=title)


@dataclass(frozen=True, slots=True)
class _Connections:
    """The sockets of a watcher, and who takes what they bring."""

    socket: zmq.Socket[bytes]
    marks: zmq.Socket[bytes] | None
    state: WatchState
    clock: Clock
    is_over: Callable[[], bool]

    def receive(
        self, on_round: Callable[[ReceivedNarration | ReceivedTriggers | None], None]
    ) -> None:
        """Take messages until it is over; `on_round` is called at least ten times a second.

        What was published before the end is taken too, as far as it has come.
        """
        end_ns: int | None = None
        while end_ns is None or self.clock.now_ns() < end_ns:
            if end_ns is None and self.is_over():
                end_ns = self.clock.now_ns() + LAST_NS
            has_come = self.socket.poll(POLL_MS)
            if end_ns is not None and not has_come:
                return
            # First: what was shown is sent before the spikes that answer it.
            self._take_marks()
            heard = None
            if has_come:
                heard = self.state.take(self.socket.recv_multipart(), host_ns=self.clock.now_ns())
            on_round(heard)

    def _take_marks(self) -> None:
        for _ in range(MAX_MARKS):
            if self.marks is None or not self.marks.poll(0):
                return
            self.state.take_mark(self.marks.recv_multipart())


def _plain(line: _Connections) -> None:
    state, clock, next_notice_s = line.state, line.clock, 0.0

    def show(heard: ReceivedNarration | ReceivedTriggers | None) -> None:
        nonlocal next_notice_s
        if heard:
            print(heard.line, flush=True)
        notice = state.notice(clock.now_ns())
        if not notice:
            next_notice_s = 0.0
        elif state.silent_s(clock.now_ns()) >= next_notice_s:
            print(notice, file=sys.stderr, flush=True)
            next_notice_s = state.silent_s(clock.now_ns()) + SILENCE_S

    line.receive(show)


def _live(line: _Connections) -> None:
    from rich.live import Live

    from subscribers.watch.view import draw

    next_ns = 0
    # Drawn on this thread: the state changes between two drawings and never during one.
    with Live(auto_refresh=False, screen=True) as live:

        def show(_: ReceivedNarration | ReceivedTriggers | None) -> None:
            nonlocal next_ns
            now_ns = line.clock.now_ns()
            if now_ns >= next_ns:
                next_ns = now_ns + NS_PER_S // DRAWINGS_PER_S
                live.update(draw(line.state, now_ns, live.console.size.height), refresh=True)

        line.receive(show)
