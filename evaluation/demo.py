"""Run a demo: a source, the daemon with its narrator, a page, and the watcher in this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from contracts.clock import HostClock
from evaluation.demo_plan import frames_folder
from evaluation.processes import Child
from evaluation.progress import report
from evaluation.trial import START_S, TrialPlan, TrialSummary, running, stop_on_interrupt
from subscribers.watch.state import WatchState


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What became of a demo."""

    summary: TrialSummary
    watched: WatchState  # The narrations, and their scores if the true captions were known
    was_stopped: bool  # Somebody asked it to stop before the end


def play(plan: TrialPlan, folder: Path, *, plain: bool, has_page: bool = False) -> DemoResult:
    """Start a source and the daemon, show the narrations, wait for both to end.

    Populations are shown in the order of the plan; if `plain`, one line for each narration. If it
    `has_page`, the dashboard is served meanwhile.
    """
    from simulation.captions import parse
    from subscribers.listener import ANY_NUMBER, MARK_TOPICS, Listener
    from subscribers.watch.loop import follow

    clock = HostClock()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        trial = stack.enter_context(running(plan, folder, listens=False))
        marks = stack.enter_context(
            Listener(trial.spikes, MARK_TOPICS, setting="the source", queue=ANY_NUMBER)
        )
        if has_page:
            page = stack.enter_context(_dashboard(trial.publish, plan, folder))
            address = page.addresses(deadline_s=START_S)["page"]
            report(f"demo: the page is on {address}")
        trial.begin()  # after the subscription to marks, so that none is missed
        report(
            f"demo: spikes on {trial.spikes}, narrations on {trial.publish}; Ctrl-C ends the demo"
        )
        state = WatchState(
            trial.publish,
            clock.now_ns(),
            order=tuple(plan.populations),
            kinds_of=lambda text: parse(text).kinds,
        )

        def is_over() -> bool:
            if stop.is_made:
                trial.ask_to_stop()
            trial.source.check()
            return not trial.daemon.is_running

        follow(state, clock, plain=plain, is_over=is_over, marks=marks)
        return DemoResult(trial.wait(), state, stop.is_made)


def _dashboard(publish: str, plan: TrialPlan, folder: Path) -> Child:
    """Return the process that serves the page, on a free port."""
    frames = frames_folder(plan)
    arguments = ["dashboard", "--connect", publish, "--port", "0"]
    arguments += [] if frames is None else ["--frames", str(frames)]
    return Child("dashboard", arguments, folder)
