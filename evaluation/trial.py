"""The harness: a source and the daemon as processes of their own, and a subscriber here.

``demo``, ``simulate score``, ``triggers score`` and ``bench`` use `running`, which promises:

1. No process outlives the ``with`` block, however it ends.
2. The source sends nothing before this process receives what the daemon publishes, so the first
   message of a trial is as safe as the last.
3. An error of a child is raised here, with the child's own sentence and exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import ChildError
from contracts.narration import Narration
from contracts.statistics import Statistics
from contracts.toml import toml_string
from contracts.trigger import Trigger
from evaluation.processes import Child, read_json
from evaluation.progress import progress
from subscribers.listener import ANY_NUMBER, NARRATION_TOPICS, SPIKE_TOPICS, Listener, Received

if TYPE_CHECKING:
    from daemon.service.signals import StopRequest

START_S = 600.0
"""How long a process may take to write its addresses. On a busy machine loading takes minutes; a
process that ends is noticed at once."""

END_S = 600.0  # How long the daemon may take to end once the source has, and the other way round
POLL_MS = 50

GATE = b"spikes.\0"
"""A source counts whoever subscribes to a topic of spikes. No stream's name has this character, so
this subscription is counted and brings nothing."""

QUEUE_MESSAGES = 1_000_000
"""For the daemon's queue to a subscriber that must not lose a message: more than any trial has."""


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What is played, through which encoder and model, and how."""

    recording: str  # NWB file or URL, or the folder of a sorting
    bundle: Path  # Encoder; exactly its units are sent, in its order
    model: str  # Folder or hub id of the language model
    populations: Mapping[str, str]  # Name and expression of each
    stride_bins: int | None = None  # Bins between the starts of two windows; None for the bundle's
    # ``sequential``, which drops no window, or ``worker``; None for the daemon's default
    narrator_mode: str | None = None
    speed: str = "1"  # As for ``neurrate stream``: a number, or ``max`` for lossless
    # Length of a batch, session milliseconds; None for the source's default
    batch_ms: float | None = None
    start: float | None = None  # First session second; None for the recording's first spike
    seconds: float | None = None  # Session seconds to send; None for all
    is_looped: bool = False  # A recording that is shorter begins again
    config: Path | None = None  # TOML file of the daemon's other settings
    settings: tuple[str, ...] = ()  # As after ``--set``; they win over everything else here
    # Messages that the daemon keeps for a slow subscriber; None for its default
    queue_messages: int | None = None
    listens_to_spikes: bool = False  # The batches that the source sends are received here too
    # Other probes of the session: a source for each. Every source then sends all units that it has
    more_recordings: tuple[str, ...] = ()
    # Which units each source sends, as after ``--units``; empty for those above
    units: tuple[str, ...] = ()
    # Of its spikes, that each source waits for: the daemon and this process, or more
    n_subscribers: int = 2
    # Words after ``neurrate`` that start another source, in place of a replay; how it plays is then
    # its own matter
    source: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """What the source and the daemon wrote at their end."""

    source: Mapping[str, Any]
    daemon: Mapping[str, Any]

    @property
    def counters(self) -> Mapping[str, Any]:
        """The daemon's counters."""
        counters: Mapping[str, Any] = self.daemon["counters"]
        return counters

    def check_spikes(self) -> None:
        """Check that every spike that was sent has its bin.

        Raises
        ------
        ChildError
            With both numbers.
        """
        n_sent, n_binned = self.source["n_spikes"], self.counters["spikes_binned"]
        if n_sent != n_binned:
            raise ChildError(
                f"no spike may be lost: {n_sent:,} were sent and {n_binned:,} have a bin"
            )

    def check_received(self, kind: str, n_received: int) -> None:
        """Check that everything of one kind that was published arrived here.

        `kind` is ``narrations`` or ``triggers``; `n_received` does not count repeats.

        Raises
        ------
        ChildError
            With both numbers.
        """
        n_published = sum(self.counters[kind].values())
        if n_published != n_received:
            raise ChildError(
                f"{n_published:,} {kind} were published and {n_received:,} arrived here: the "
                "figures would be of a part of them"
            )


class Trial:
    """A running source and daemon. Made by `running`.

    `spikes` and `publish` are the addresses of the source's spikes and of the daemon's narrations.
    """

    def __init__(self, plan: TrialPlan, folder: Path, stack: ExitStack) -> None:
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._listeners: list[Listener] = []
        # The source first, so that the daemon is given an address that exists. It waits for two
        # subscribers: the daemon, and this process, which is the last to subscribe.
        self.source = stack.enter_context(Child("source", source_arguments(plan), folder))
        self._more_sources = [
            stack.enter_context(Child(f"source{number}", source_arguments(plan, number), folder))
            for number in range(1, 1 + len(plan.more_recordings))
        ]
        self.spikes = self.source.addresses(deadline_s=START_S)["spikes"]
        self._more_spikes = [
            source.addresses(deadline_s=START_S)["spikes"] for source in self._more_sources
        ]
        arguments = daemon_arguments(plan, self.spikes, *self._more_spikes)
        self.daemon = stack.enter_context(Child("daemon", arguments, folder))
        self.publish = self.daemon.addresses(deadline_s=START_S)["publish"]

    @property
    def sources(self) -> Sequence[Child]:
        """The processes that send spikes."""
        return (self.source, *self._more_sources)

    @property
    def all_spikes(self) -> Sequence[str]:
        """The addresses of their spikes."""
        return (self.spikes, *self._more_spikes)

    def listen(self) -> None:
        """Subscribe to the daemon, and let the source begin once its messages arrive."""
        listener = self._subscribe(self.publish, NARRATION_TOPICS, setting="the daemon")
        # A subscription takes effect some time after `connect` returns. The daemon publishes its
        # statistics every second, so the first of them shows that it has.
        while self.daemon.is_running and not listener.wait(POLL_MS):
            self.source.check()
        self.daemon.check()
        self.begin()

    def begin(self) -> None:
        """Let the source send: it waits for this last subscriber."""
        topics = SPIKE_TOPICS if self._plan.listens_to_spikes else (GATE,)
        self._subscribe(self.spikes, topics, setting="the source")
        for number, spikes in enumerate(self._more_spikes, 1):
            gate = Listener(spikes, (GATE,), setting=f"source {number}", queue=ANY_NUMBER)
            self._stack.enter_context(gate)

    def received(self) -> Iterator[list[Received]]:
        """Yield what has arrived, at least every 50 ms, until the daemon has ended.

        A list is empty if nothing arrived. Messages of the daemon come before those of the source.

        Raises
        ------
        ChildError, UserError, DependencyError
            What a process ended with, if it failed.
        """
        while self.daemon.is_running:
            yield self._receive()
        while messages := self._receive():  # what was published last may still be on its way
            yield messages

    def ask_to_stop(self) -> None:
        """Ask both processes to stop; only the first call counts."""
        for source in self.sources:
            source.ask_to_stop()
        self.daemon.ask_to_stop()

    def wait(self) -> TrialSummary:
        """Wait for both processes to end, and read their summaries."""
        self.daemon.wait(deadline_s=END_S)
        for source in self.sources:
            source.wait(deadline_s=END_S)
        sent = read_json(self._folder / "source.json")
        sent["spikes_of_sources"] = [sent["n_spikes"]]
        for number in range(1, 1 + len(self._more_sources)):
            more = read_json(self._folder / f"source{number}.json")
            sent["n_spikes"] += more["n_spikes"]
            sent["spikes_of_sources"].append(more["n_spikes"])
            sent["max_lateness_s"] = max(sent["max_lateness_s"], more["max_lateness_s"])
        return TrialSummary(sent, read_json(self._folder / "daemon.json"))

    def _subscribe(self, address: str, topics: Sequence[bytes], *, setting: str) -> Listener:
        listener = Listener(address, topics, setting=setting, queue=ANY_NUMBER)
        self._listeners.append(self._stack.enter_context(listener))
        return listener

    def _receive(self) -> list[Received]:
        """Return what has arrived, after waiting a moment for the daemon's first message."""
        for source in self.sources:
            source.check()
        self.daemon.check()
        narrations, spikes = self._listeners
        return [*narrations.messages(wait_ms=POLL_MS), *spikes.messages()]


@contextmanager
def running(plan: TrialPlan, folder: Path, *, listens: bool = True) -> Iterator[Trial]:
    """Start a source and the daemon; whatever still runs at the end is killed.

    Both processes have written their addresses when the trial is yielded. If it does not listen,
    nothing is sent before the caller has called `Trial.begin`. Logs and summaries go to `folder`,
    which is made if need be.
    """
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        trial = Trial(plan, folder, stack)
        if listens:
            trial.listen()
        yield trial


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM as a request to stop, and a second one as `KeyboardInterrupt`.

    The exception passes through the ``with`` blocks, which end the children and remove folders.
    """
    from daemon.service.signals import StopRequest, stop_on_signal

    def interrupt() -> None:
        raise KeyboardInterrupt

    stop = StopRequest()
    with stop_on_signal(stop, force=interrupt):
        yield stop


@dataclass(slots=True)
class TrialResult:
    """What a trial that lost nothing has published."""

    # By the window's number on the grid and the population
    narrations: dict[tuple[int, str], Narration] = field(default_factory=dict)
    triggers: list[Trigger] = field(default_factory=list)  # In order of publication
    counters: Mapping[str, Any] = field(default_factory=dict)  # The daemon's own

    @property
    def n_windows(self) -> int:
        """Windows that were cut."""
        return int(self.counters["windows"])

    @property
    def n_dropped(self) -> int:
        """Windows that were not narrated."""
        return sum(self.counters["windows_dropped"].values())


def run_trial(
    plan: TrialPlan,
    folder: Path,
    *,
    title: str,
    span_s: tuple[float, float] | None = None,
    keep: Callable[[Sequence[Narration]], None] = lambda _: None,
) -> TrialResult:
    """Play a recording to its end and return every narration and trigger.

    `span_s` are the first and last session second that are played, for the progress. `keep` is
    called with narrations as they arrive.

    Raises
    ------
    ChildError
        If a spike, a narration or a trigger was lost between the processes.
    """
    result = TrialResult()
    start_s, stop_s = span_s or (0.0, 0.0)
    total_s = stop_s - start_s or None
    with (
        progress(title, total_s, unit="s", label=f"{title}: replayed") as advance_to,
        running(plan, folder) as trial,
    ):
        for messages in trial.received():
            keep([message.value for message in messages if isinstance(message.value, Narration)])
            for message in messages:
                value = message.value
                if isinstance(value, Trigger):
                    result.triggers.append(value)
                elif isinstance(value, Narration):
                    result.narrations[value.window_seq, value.population] = value
                elif isinstance(value, Statistics) and value.session_s is not None:
                    advance_to(value.session_s - start_s)
        summary = trial.wait()
    summary.check_spikes()
    summary.check_received("narrations", len(result.narrations))
    summary.check_received("triggers", len(result.triggers))
    result.counters = summary.counters
    return result


def source_arguments(plan: TrialPlan, number: int = 0) -> list[str]:
    """Return the arguments of ``neurrate`` that start a source, the first or one of the others."""
    from stream_sources.recordings.open_source import kind_of

    waits = str(plan.n_subscribers)
    if plan.source:
        return [*plan.source, "--bind", "tcp://127.0.0.1:*", "--wait-subscribers", waits]
    recording = (plan.recording, *plan.more_recordings)[number]
    arguments = ["stream", kind_of(recording), recording, "--bind", "tcp://127.0.0.1:*"]
    if plan.more_recordings:
        arguments += ["--stream", f"probe{number}"]
        arguments += ["--units", plan.units[number]] if plan.units else []
    else:
        arguments += ["--units-from", str(plan.bundle)]
    arguments += ["--speed", plan.speed, "--wait-subscribers", waits]
    options = {"--batch-ms": plan.batch_ms, "--start": plan.start, "--seconds": plan.seconds}
    for name, value in options.items():
        arguments += [] if value is None else [name, repr(value)]
    return [*arguments, "--loop"] if plan.is_looped else arguments


def daemon_arguments(plan: TrialPlan, *spikes: str) -> list[str]:
    """Return the arguments of ``neurrate`` that start the daemon."""
    tables = ", ".join(f"{name} = {toml_string(text)}" for name, text in plan.populations.items())
    settings: dict[str, object] = {
        "http.enabled": "false",
        "log.level": "WARNING",
        "populations": f"{{{tables}}}",
        "narrator.mode": plan.narrator_mode,
        "window.stride_bins": plan.stride_bins,
        "publish.queue_messages": plan.queue_messages,
    }
    texts = [f"{key}={value}" for key, value in settings.items() if value is not None]
    arguments = ["run"] + ([] if plan.config is None else ["--config", str(plan.config)])
    arguments += ["--bundle", str(plan.bundle), "--model", plan.model]
    arguments += [word for address in spikes for word in ("--connect", address)]
    arguments += ["--publish", "tcp://127.0.0.1:*", "--exit-at-end"]
    # The last of one key wins.
    return arguments + [word for text in (*texts, *plan.settings) for word in ("--set", text)]
