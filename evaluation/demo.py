"""The processes of a demo: a source, the daemon with its narrator, and the watcher here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.clock import HostClock
from evaluation.demo_plan import DemoPlan, say
from evaluation.processes import Child, read_json
from subscribers.watch.state import WatchState

START_S = 60.0
"""How long a process may take to say where it listens."""

END_S = 120.0
"""How long the daemon may take to end once the source has."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What became of a demo.

    Attributes
    ----------
    source, daemon : dict
        What each says of itself at its end.
    heard : WatchState
        What was heard, and its scores if the truth was known.
    was_stopped : bool
        Whether somebody asked it to stop before the end.
    """

    source: dict[str, Any]
    daemon: dict[str, Any]
    heard: WatchState
    was_stopped: bool


def play(
    programme: DemoPlan,
    folder: Path,
    *,
    populations: Sequence[str],
    source_options: Sequence[str],
    plain: bool,
) -> DemoResult:
    """Start the source and the daemon, show the narrations, wait for both to end.

    Parameters
    ----------
    programme : DemoPlan
    folder : Path
        For logs and summaries.
    populations : sequence of str
        Narrated, and shown in this order.
    source_options : sequence of str
        More words for the source.
    plain : bool
        One line for each narration.

    Returns
    -------
    DemoResult
    """
    from daemon.service.signals import StopRequest, stop_on_signal
    from simulation.captions import parse
    from subscribers.listener import ANY_NUMBER, MARK_TOPICS, Listener
    from subscribers.watch.loop import follow

    stop, clock = StopRequest(), HostClock()
    with ExitStack() as stack, stop_on_signal(stop, force=_give_up):
        source = stack.enter_context(Child("source", _source(programme, source_options), folder))
        spikes = source.addresses(deadline_s=START_S)["spikes"]
        # Before the daemon, for whom the source waits: so no mark is missed.
        marks = stack.enter_context(
            Listener(spikes, MARK_TOPICS, setting="the source", queue=ANY_NUMBER)
        )
        daemon = stack.enter_context(
            Child("daemon", _daemon(programme, spikes, populations), folder)
        )
        publish = daemon.addresses(deadline_s=START_S)["publish"]
        say(f"spikes on {spikes}, narrations on {publish}; Ctrl-C ends the demo")
        state = WatchState(
            publish,
            clock.now_ns(),
            order=tuple(populations),
            kinds_of=lambda text: parse(text).kinds,
        )

        def is_over() -> bool:
            if stop.is_made:
                source.ask_to_stop()
                daemon.ask_to_stop()
            source.check()
            return not daemon.is_running

        follow(state, clock, plain=plain, is_over=is_over, marks=marks)
        daemon.wait(deadline_s=END_S)
        source.wait(deadline_s=END_S)
    return DemoResult(
        read_json(folder / "source.json"), read_json(folder / "daemon.json"), state, stop.is_made
    )


def _source(programme: DemoPlan, options: Sequence[str]) -> Sequence[str]:
    """Return the source's words."""
    from stream_sources.recordings.open_source import kind_of

    words = ["stream", kind_of(programme.recording), programme.recording]
    words += ["--units-from", str(programme.bundle), "--bind", "tcp://127.0.0.1:*"]
    return [*words, *options]


def _daemon(programme: DemoPlan, spikes: str, populations: Sequence[str]) -> Sequence[str]:
    words = ["run", "--bundle", str(programme.bundle), "--model", programme.model]
    words += ["--connect", spikes, "--publish", "tcp://127.0.0.1:*"]
    words += ["--populations", ",".join(populations), "--exit-at-end"]
    for setting in ("http.port=0", *programme.settings):
        words += ["--set", setting]
    return words


def _give_up() -> None:
    """Leave at once, but not without the children and the folder.

    Raises
    ------
    KeyboardInterrupt
        Always.
    """
    raise KeyboardInterrupt
