"""The loop of a watcher: read messages, show them, until it is over."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from contracts.clock import NS_PER_S, Clock
from contracts.keys import ClientKeys
from subscribers.listener import MARK_TOPICS, NARRATION_TOPICS, PARTIAL_TOPICS, Listener
from subscribers.watch.state import SILENCE_S, ReceivedNarration, WatchState
from subscribers.watch.triggers import ReceivedTriggers

POLL_MS = 100

LAST_NS = 300_000_000
"""After the end, what has been published is still read for so long: host time, nanoseconds."""

MAX_MARKS = 1000
"""Read between two narrations, so that no source can keep the view from being drawn."""

DRAWINGS_PER_S = 8

News = ReceivedNarration | ReceivedTriggers | None


def follow(
    state: WatchState,
    clock: Clock,
    *,
    plain: bool,
    is_over: Callable[[], bool],
    marks: Listener | None = None,
    words: bool = False,
    keys: ClientKeys | None = None,
) -> None:
    """Show what the daemon at ``state.endpoint`` publishes until it is over.

    Parameters
    ----------
    plain : bool
        One line for each narration; always so where standard output cannot be drawn on.
    is_over : callable
        Called at least ten times a second.
    marks : Listener, optional
        Subscribed to the marks of a source: what was on the screen.
    words : bool
        Show sentences as they grow, where there is a view to show them in.
    keys : ClientKeys, optional
        To connect to the daemon with.
    """
    is_plain = plain or not _can_draw()
    topics: tuple[bytes, ...] = NARRATION_TOPICS
    if not is_plain:
        topics += MARK_TOPICS + (PARTIAL_TOPICS if words else ())
    with Listener(state.endpoint, topics, setting="--connect", keys=keys, clock=clock) as daemon:
        rounds = _rounds(state, clock, is_over, daemon, marks)
        if is_plain:
            _print_lines(state, clock, rounds)
        else:
            _draw_view(state, clock, rounds)


def _can_draw() -> bool:
    """Whether standard output is a terminal that moves its cursor and has the letters."""
    moves = os.environ.get("TERM", "dumb").lower() not in {"", "dumb", "unknown"}
    return sys.stdout.isatty() and moves and sys.stdout.encoding.lower().startswith("utf")


def _rounds(
    state: WatchState,
    clock: Clock,
    is_over: Callable[[], bool],
    daemon: Listener,
    marks: Listener | None,
) -> Iterator[News]:
    """Yield what came in each round, at least ten times a second.

    What was published before the end is read too, as far as it has arrived.
    """
    end_ns: int | None = None
    while end_ns is None or clock.now_ns() < end_ns:
        if end_ns is None and is_over():
            end_ns = clock.now_ns() + LAST_NS
        has_come = daemon.wait(POLL_MS)
        if end_ns is not None and not has_come:
            return
        # Marks first: what was shown is sent before the spikes that answer it, so a narration
        # that has arrived finds its true caption.
        for received in marks.messages(limit=MAX_MARKS) if marks else ():
            state.take(received)
        news: News = None
        if has_come:
            # Also where it cannot be read: a publisher that sends anything is not silent.
            state.last_message_ns = clock.now_ns()
            for received in daemon.messages(limit=1):
                news = state.take(received)
        state.n_unreadable = daemon.n_unreadable + (marks.n_unreadable if marks else 0)
        yield news


def _print_lines(state: WatchState, clock: Clock, rounds: Iterator[News]) -> None:
    next_notice_s = 0.0
    for news in rounds:
        if news:
            sys.stdout.write(f"{news.line}\n")
            sys.stdout.flush()
        silent_s, notice = state.silent_s(clock.now_ns()), state.notice(clock.now_ns())
        if not notice:
            next_notice_s = 0.0
        elif silent_s >= next_notice_s:
            sys.stderr.write(f"{notice}\n")
            sys.stderr.flush()
            next_notice_s = silent_s + SILENCE_S


def _draw_view(state: WatchState, clock: Clock, rounds: Iterator[News]) -> None:
    from rich.live import Live

    from subscribers.watch.view import draw

    next_ns = 0
    # Drawn on this thread: the state changes between two drawings and never during one.
    with Live(auto_refresh=False, screen=True) as live:
        for _ in rounds:
            now_ns = clock.now_ns()
            if now_ns >= next_ns:
                next_ns = now_ns + NS_PER_S // DRAWINGS_PER_S
                live.update(draw(state, now_ns, live.console.size.height), refresh=True)
