"""A recording through a source and a daemon in processes of their own; all that it says is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from contracts.errors import ChildError
from contracts.narration import Narration
from contracts.narration_wire import load, unpack_narration
from contracts.trigger import Trigger, unpack_trigger
from evaluation.plain_progress import Tenths
from evaluation.processes import Child, read_json

if TYPE_CHECKING:
    import zmq

START_S = 600.0
"""How long a process may take to say where it listens. On a busy machine loading takes minutes; a
process that ends is noticed at once."""

END_S = 600.0
"""How long a process may take to end once the other has."""

POLL_MS = 50

NARRATIONS, TRIGGERS, STATS = b"narration.", b"trigger.", b"stats"

QUEUE_MESSAGES = 1_000_000
"""More narrations than any score has: none may be lost here."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is replayed, and how.

    Attributes
    ----------
    recording : Path or str
        NWB file or URL, or the folder of a sorting.
    bundle : Path
    model : str
        Folder or hub id of the language model.
    populations : mapping of str to str
        Name and expression of each.
    stride_bins : int
        Between the starts of two windows.
    mode : {"sequential", "worker"}
        Of the narrator; ``sequential`` drops no window.
    speed : str
        As for ``neurrate stream``.
    seconds : float or None
        Session seconds to send; None for all.
    start : float or None
        First session second; None for that of the recording's first spike.
    config : Path or None
        TOML file of the daemon's other settings.
    settings : tuple of str
        For the daemon, as after ``--set``; they win over all else here.
    """

    recording: Path | str
    bundle: Path
    model: str
    populations: Mapping[str, str]
    stride_bins: int
    mode: str = "sequential"
    speed: str = "max"
    seconds: float | None = None
    start: float | None = None
    config: Path | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came out.

    Attributes
    ----------
    narrations : mapping of (int, str) to Narration
        By the window's number on the grid and the population.
    n_windows, n_dropped : int
        Windows cut, and those of them that were not narrated.
    triggers : tuple of Trigger
        In the order in which they were published.
    counters : mapping
        The daemon's own.
    """

    narrations: Mapping[tuple[int, str], Narration]
    n_windows: int
    n_dropped: int
    triggers: tuple[Trigger, ...] = ()
    counters: Mapping[str, Any] = field(default_factory=dict)


def replay(
    plan: ReplayPlan, folder: Path, *, title: str, span_s: tuple[float, float] | None = None
) -> ReplayResult:
    """Send a recording through the daemon and listen to everything it says.

    Parameters
    ----------
    plan : ReplayPlan
    folder : Path
        New; logs and summaries of the two processes go there.
    title : str
        Of the bar that is shown while it runs, on a terminal.
    span_s : tuple of float, optional
        Session seconds that are played. Then each tenth is said where there is no terminal.

    Returns
    -------
    ReplayResult

    Raises
    ------
    ChildError
        If a spike, a narration or a trigger was lost between the processes.
    """
    folder.mkdir()
    with ExitStack() as stack:
        # A path is known before anybody binds to it, so the source can be the last to start: not
        # a spike is sent before the daemon is heard.
        spikes = f"ipc://{stack.enter_context(TemporaryDirectory(prefix='neurrate-'))}/spikes"
        words = _daemon_words(plan, spikes, _write_config(plan, folder))
        daemon = stack.enter_context(Child("daemon", words, folder))
        socket = stack.enter_context(_ear(daemon.addresses(deadline_s=START_S)["publish"]))
        _wait_until_heard(socket, daemon)
        source = stack.enter_context(Child("source", _source_words(plan, spikes), folder))
        heard = _listen(socket, source, daemon, title, span_s)
        daemon.wait(deadline_s=END_S)
        source.wait(deadline_s=END_S)
    counters = read_json(folder / "daemon.json")["counters"]
    n_sent = read_json(folder / "source.json")["n_spikes"]
    n_narrated, n_fired = (sum(counters[name].values()) for name in ("narrations", "triggers"))
    if (
        counters["spikes_binned"] != n_sent
        or n_narrated != len(heard.narrations)
        or n_fired != len(heard.triggers)
    ):
        raise ChildError(
            f"nothing may be lost: {n_sent:,} spikes were sent and {counters['spikes_binned']:,} "
            f"binned; {n_narrated:,} narrations were published and {len(heard.narrations):,} "
            f"arrived; of {n_fired:,} triggers {len(heard.triggers):,}"
        )
    return ReplayResult(
        narrations=heard.narrations,
        n_windows=counters["windows"],
        n_dropped=sum(counters["windows_dropped"].values()),
        triggers=tuple(heard.triggers),
        counters=counters,
    )


@dataclass(slots=True)
class _Received:
    """What has arrived."""

    narrations: dict[tuple[int, str], Narration] = field(default_factory=dict)
    triggers: list[Trigger] = field(default_factory=list)
    session_s: float | None = None

    def __len__(self) -> int:
        return len(self.narrations) + len(self.triggers)


def _source_words(plan: ReplayPlan, spikes: str) -> list[str]:
    from stream_sources.recordings.open_source import kind_of

    recording = str(plan.recording)
    words = ["stream", kind_of(recording), recording, "--units-from", str(plan.bundle)]
    words += ["--bind", spikes, "--speed", plan.speed]
    words += [] if plan.start is None else ["--start", repr(plan.start)]
    return words + ([] if plan.seconds is None else ["--seconds", str(plan.seconds)])


def _daemon_words(plan: ReplayPlan, spikes: str, config: Path) -> list[str]:
    settings = {
        "http.enabled": "false",
        "log.level": "WARNING",
        "narrator.mode": plan.mode,
        "window.stride_bins": str(plan.stride_bins),
        "publish.queue_messages": str(QUEUE_MESSAGES),
    }
    if plan.config is not None:
        settings["populations"] = "{" + ", ".join(_populations(plan)) + "}"
        config = plan.config
    words = ["run", "--config", str(config), "--bundle", str(plan.bundle), "--model", plan.model]
    words += ["--connect", spikes, "--publish", "tcp://127.0.0.1:*", "--exit-at-end"]
    given = (*(f"{key}={value}" for key, value in settings.items()), *plan.settings)
    return words + [word for each in given for word in ("--set", each)]


def _write_config(plan: ReplayPlan, folder: Path) -> Path:
    """Write the populations: lists of hundreds of ids need names, which --populations has not."""
    path = folder / "daemon.toml"
    path.write_text("\n".join(["[populations]", *_populations(plan)]) + "\n", encoding="utf-8")
    return path


def _populations(plan: ReplayPlan) -> list[str]:
    """Return each as TOML; a JSON string without control characters is a TOML string too."""
    return [f"{name} = {json.dumps(units)}" for name, units in plan.populations.items()]


@contextmanager
def _ear(publish: str) -> Iterator[zmq.Socket[bytes]]:
    """Connect to what the daemon publishes, with room for all of it."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe(NARRATIONS)
        socket.subscribe(TRIGGERS)
        socket.subscribe(STATS)
        socket.connect(publish)
        yield socket


def _wait_until_heard(socket: zmq.Socket[bytes], daemon: Child) -> None:
    """Wait for the first word of the daemon: from then on nothing that it says is missed."""
    while daemon.is_running and not socket.poll(POLL_MS):
        pass
    daemon.check()


def _listen(
    socket: zmq.Socket[bytes],
    source: Child,
    daemon: Child,
    title: str,
    span_s: tuple[float, float] | None,
) -> _Received:
    """Take what is said until the daemon has ended and nothing more arrives."""
    from tqdm import tqdm

    heard = _Received()
    start_s, stop_s = span_s or (0.0, 0.0)
    tenths = Tenths(f"{title}: replayed", stop_s - start_s)
    with tqdm(desc=title, unit=" messages", disable=None) as bar:
        while daemon.is_running:
            source.check()
            bar.update(_take(socket, heard))
            if heard.session_s is not None:
                tenths.reach(heard.session_s - start_s)
        while _take(socket, heard):  # what the daemon said last may still be on its way
            pass
    return heard


def _take(socket: zmq.Socket[bytes], heard: _Received) -> int:
    """Take all that has arrived, waiting a moment for the first; a repeat has the same window."""
    n_before = len(heard)
    wait_ms = POLL_MS
    while socket.poll(wait_ms):
        wait_ms = 0
        topic, payload = socket.recv_multipart()
        if topic.startswith(TRIGGERS):
            heard.triggers.append(unpack_trigger(payload))
        elif topic.startswith(NARRATIONS):
            narration = unpack_narration(payload)
            heard.narrations[narration.window_seq, narration.population] = narration
        else:
            heard.session_s = load(payload)["session_s"]
    return len(heard) - n_before
