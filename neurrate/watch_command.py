"""``neurrate watch``: a subscriber that shows narrations as they are published."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.address import check_connectable
from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import UserError
from neurrate.arguments import JsonOption, Seconds
from neurrate.tables import check_writable, print_table, write_json
from neurrate.watch_state import SILENCE_S, Heard, WatchState

if TYPE_CHECKING:
    import zmq

TOPICS = (b"narration.", b"stats")

MAX_MESSAGE_BYTES = 1 << 20
"""Narrations and statistics take a few kB."""

POLL_MS = 100

PICTURE_COLUMNS = 110
"""Width of a picture: what a page shows without shrinking the letters."""

DRAWINGS_PER_S = 8


def watch(
    *,
    connect: str = "tcp://127.0.0.1:5571",
    plain: bool = False,
    seconds: Seconds | None = None,
    svg: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Show narrations as they are published.

    Watching cannot slow the daemon down, and any number may watch. Control-C ends it.

    Examples
    --------
        neurrate watch
        neurrate watch --connect tcp://127.0.0.1:6000
        neurrate watch --plain --seconds 60 --json heard.json
        neurrate watch --plain --seconds 10 --svg watch.svg

    Parameters
    ----------
    connect
        Where the daemon publishes.
    plain
        One line for each narration; always so where standard output is no terminal.
    seconds
        Stop after so many seconds.
    svg
        Write the view at the end to this file, as a picture.
    json
        Write what was heard to this file, the last thousand narrations word for word.
    """
    check_writable(json)
    check_writable(svg)
    clock = HostClock()
    state = WatchState(connect, clock.now_ns())
    deadline_ns = None if seconds is None else clock.now_ns() + round(seconds * NS_PER_S)
    with suppress(KeyboardInterrupt):
        follow(
            state,
            clock,
            plain=plain,
            is_over=lambda: deadline_ns is not None and clock.now_ns() >= deadline_ns,
        )
    if svg is not None:
        _save_picture(svg, state, clock.now_ns())
    print_table("Heard", summary(state))
    write_json(
        json,
        {
            "connect": connect,
            "unreadable": state.n_unreadable,
            "populations": summary(state),
            "daemon": asdict(state.daemon) if state.daemon else None,
            "narrations": [asdict(heard) for heard in state.kept],
        },
    )


def follow(state: WatchState, clock: Clock, *, plain: bool, is_over: Callable[[], bool]) -> None:
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
    """
    show = _plain if plain or not sys.stdout.isatty() else _live
    with _subscribed(state.endpoint) as socket:
        show(socket, state, clock, is_over)


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


def _save_picture(path: Path, state: WatchState, host_ns: int) -> None:
    from io import StringIO

    from rich.console import Console

    from neurrate.watch_view import draw

    console = Console(record=True, width=PICTURE_COLUMNS, file=StringIO(), force_terminal=True)
    console.print(draw(state, host_ns))
    console.save_svg(str(path), title="neurrate watch")


@contextmanager
def _subscribed(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        for topic in TOPICS:
            socket.subscribe(topic)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise UserError(
                f"--connect takes an address such as tcp://127.0.0.1:5571, got {endpoint!r}: "
                f"{error}."
            ) from error
        # What libzmq lets pass: a port that is none becomes another port.
        check_connectable(endpoint, setting="--connect")
        yield socket


def _receive(
    socket: zmq.Socket[bytes],
    state: WatchState,
    clock: Clock,
    is_over: Callable[[], bool],
    on_round: Callable[[Heard | None], None],
) -> None:
    """Take messages until it is over; `on_round` is called at least ten times a second."""
    while not is_over():
        heard = None
        if socket.poll(POLL_MS):
            heard = state.take(socket.recv_multipart(), host_ns=clock.now_ns())
        on_round(heard)


def _plain(
    socket: zmq.Socket[bytes], state: WatchState, clock: Clock, is_over: Callable[[], bool]
) -> None:
    next_notice_s = 0.0

    def show(heard: Heard | None) -> None:
        nonlocal next_notice_s
        if heard:
            print(heard.line, flush=True)
        notice = state.notice(clock.now_ns())
        if not notice:
            next_notice_s = 0.0
        elif state.silent_s(clock.now_ns()) >= next_notice_s:
            print(notice, file=sys.stderr, flush=True)
            next_notice_s = state.silent_s(clock.now_ns()) + SILENCE_S

    _receive(socket, state, clock, is_over, show)


def _live(
    socket: zmq.Socket[bytes], state: WatchState, clock: Clock, is_over: Callable[[], bool]
) -> None:
    from rich.live import Live

    from neurrate.watch_view import draw

    next_ns = 0
    # Drawn on this thread: the state changes between two drawings and never during one.
    with Live(auto_refresh=False, screen=True) as live:

        def show(_: Heard | None) -> None:
            nonlocal next_ns
            now_ns = clock.now_ns()
            if now_ns >= next_ns:
                next_ns = now_ns + NS_PER_S // DRAWINGS_PER_S
                live.update(draw(state, now_ns, live.console.size.height), refresh=True)

        _receive(socket, state, clock, is_over, show)
