"""``neurrate watch``: a subscriber that shows narrations as they are published."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, HostClock
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import PLAIN, ConnectOptions
from neurrate.process import until_interrupted
from neurrate.summary import print_scores
from neurrate.tables import print_table, write_json


def watch(
    *,
    connect: str = "tcp://127.0.0.1:5571",
    truth: str | None = None,
    words: bool = False,
    plain: bool = False,
    unsure_below: float = 0.5,
    seconds: Seconds | None = None,
    svg: Path | None = None,
    json: JsonOption = None,
    access: ConnectOptions = PLAIN,
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
        neurrate watch --connect tcp://rig:5571 --key laptop --server-key rig

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
        One line for each narration; always so where standard output is no terminal, or one that
        cannot be drawn on (TERM=dumb).
    unsure_below
        Confidence below which a narration is dimmed, or marked as unsure where there are no
        colours; 0 for none. Chance is 0.1.
    seconds
        Stop after so many seconds.
    svg
        Write the view at the end to this file, as a picture.
    json
        Write what was received to this file, the last thousand narrations word for word.
    """
    from simulation.captions import parse
    from subscribers.listener import ANY_NUMBER, MARK_TOPICS, Listener
    from subscribers.watch.loop import follow
    from subscribers.watch.report import save_picture, scores_of, summary
    from subscribers.watch.state import WatchState

    check_writable(json)
    check_writable(svg)
    keys = access.keys_for([connect] if truth is None else [connect, truth])
    clock = HostClock()
    state = WatchState(
        connect,
        clock.now_ns(),
        kinds_of=lambda text: parse(text).kinds,
        unsure_below=unsure_below,
    )
    deadline_ns = None if seconds is None else clock.now_ns() + round(seconds * NS_PER_S)
    with ExitStack() as stack, until_interrupted():
        marks = (
            stack.enter_context(
                # Unbounded: a lossless source waits for a subscriber whose queue is full.
                Listener(truth, MARK_TOPICS, setting="--truth", queue=ANY_NUMBER, keys=keys[-1])
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
            keys=keys[0],
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
            "triggers": {name: newest.n for name, newest in state.fired.items()},
            "daemon": asdict(state.daemon) if state.daemon else None,
            "narrations": [asdict(narration) for narration in state.kept],
        },
    )
