"""The processes of a benchmark: a source that waits for nobody, the daemon, and ears on both.

The source plays at a fixed speed and drops what a subscriber does not take in time: an open loop,
so that queueing is seen. It begins once the daemon listens, which is once the narrator is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.clock import Clock, HostClock
from evaluation.latency.messages import NARRATION, STATS, TRIGGER, Message
from evaluation.processes import Child, read_json
from subscribers.listener import ANY_NUMBER, subscribed

if TYPE_CHECKING:
    import zmq

START_S = 600.0
"""How long a process may take to say where it listens. On a busy machine loading takes minutes; a
process that ends is noticed at once."""

END_S = 120.0
"""How long a process may take to end once the other has."""

POLL_MS = 50

SPIKES = b"spikes."


@dataclass(frozen=True, slots=True)
class RigPlan:
    """What is played, how fast, and to whom.

    Attributes
    ----------
    recording : str
        NWB file or URL, or the folder of a sorting.
    bundle : Path
        Whose units are sent.
    model : str
        Folder or hub id of the language model.
    populations : tuple of str
    stride_bins : int
        Between the starts of two windows.
    speed : float
        Session seconds per second.
    batch_ms : float
        Length of a batch, session milliseconds.
    seconds : float or None
        Session seconds to send; None for all.
    start : float or None
        First session second; None for that of the recording's first spike.
    settings : tuple of str
        For the daemon, as after ``--set``.
    config : Path or None
        TOML file for the daemon.
    queue_messages : int or None
        Kept by the daemon for each subscriber; None for its default.
    """

    recording: str
    bundle: Path
    model: str
    populations: tuple[str, ...]
    stride_bins: int
    speed: float = 1.0
    batch_ms: float = 10.0
    seconds: float | None = None
    start: float | None = None
    settings: tuple[str, ...] = ()
    config: Path | None = None
    queue_messages: int | None = None


@dataclass(frozen=True, slots=True)
class Rig:
    """Running processes, and what is heard of them.

    Attributes
    ----------
    source, daemon : Child
    publish : str
        Address of the daemon's narrations.
    """

    source: Child
    daemon: Child
    publish: str
    _sockets: tuple[zmq.Socket[bytes], ...]
    _folder: Path
    _clock: Clock

    def take(self, *, wait_ms: int = POLL_MS) -> list[Message]:
        """Return what has arrived, after waiting a moment for the first.

        A batch of spikes comes as its header alone.

        Raises
        ------
        ChildError, UserError, DependencyError
            What a process ended with, if it did so by an error.
        """
        import zmq

        self.source.check()
        self.daemon.check()
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(wait_ms))
        return [
            message for socket in self._sockets if socket in ready for message in self._all(socket)
        ]

    @property
    def is_over(self) -> bool:
        """Whether the daemon has ended; what it said last may still be on its way."""
        return not self.daemon.is_running

    def ask_to_stop(self) -> None:
        """Ask both processes to stop, once."""
        self.source.ask_to_stop()
        self.daemon.ask_to_stop()

    def summaries(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wait for both to end; return what the source and the daemon say of themselves."""
        self.daemon.wait(deadline_s=END_S)
        self.source.wait(deadline_s=END_S)
        return read_json(self._folder / "source.json"), read_json(self._folder / "daemon.json")

    def _all(self, socket: zmq.Socket[bytes]) -> Iterator[Message]:
        import zmq

        while True:
            try:
                topic, payload, *_ = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield Message(topic, payload, self._clock.now_ns())


@contextmanager
def running(plan: RigPlan, folder: Path, *, spikes_too: bool = True) -> Iterator[Rig]:
    """Start the processes; whatever still runs at the end is killed.

    Parameters
    ----------
    plan : RigPlan
    folder : Path
        For logs and summaries.
    spikes_too : bool
        Listen to the source as well, and let it wait for that.

    Yields
    ------
    Rig
        Of which nothing has been missed.
    """
    with ExitStack() as stack:
        source = stack.enter_context(Child("source", _source_words(plan, spikes_too), folder))
        spikes = source.addresses(deadline_s=START_S)["spikes"]
        daemon = stack.enter_context(Child("daemon", _daemon_words(plan, spikes), folder))
        publish = daemon.addresses(deadline_s=START_S)["publish"]
        ear = stack.enter_context(
            subscribed(publish, (NARRATION, TRIGGER, STATS), setting="the daemon", queue=ANY_NUMBER)
        )
        while daemon.is_running and not ear.poll(POLL_MS):  # its first word: nothing is missed now
            pass
        daemon.check()
        sockets = [ear]
        if spikes_too:
            sockets.append(
                stack.enter_context(
                    subscribed(spikes, (SPIKES,), setting="the source", queue=ANY_NUMBER)
                )
            )
        yield Rig(source, daemon, publish, tuple(sockets), folder, HostClock())


def _source_words(plan: RigPlan, spikes_too: bool) -> Sequence[str]:
    from stream_sources.recordings.open_source import kind_of

    words = ["stream", kind_of(plan.recording), plan.recording]
    words += ["--units-from", str(plan.bundle), "--bind", "tcp://127.0.0.1:*"]
    words += ["--speed", repr(plan.speed), "--batch-ms", repr(plan.batch_ms)]
    words += ["--wait-subscribers", str(1 + spikes_too)]
    words += [] if plan.start is None else ["--start", repr(plan.start)]
    return words + ([] if plan.seconds is None else ["--seconds", repr(plan.seconds)])


def _daemon_words(plan: RigPlan, spikes: str) -> Sequence[str]:
    words = ["run", *([] if plan.config is None else ["--config", str(plan.config)])]
    words += ["--bundle", str(plan.bundle), "--model", plan.model, "--connect", spikes]
    words += ["--publish", "tcp://127.0.0.1:*", "--populations", ",".join(plan.populations)]
    settings: tuple[str, ...] = (
        "http.enabled=false",
        "log.level=WARNING",
        f"window.stride_bins={plan.stride_bins}",
        *plan.settings,
    )
    if plan.queue_messages is not None:
        settings = (f"publish.queue_messages={plan.queue_messages}", *settings)
    return [*words, "--exit-at-end", *(word for each in settings for word in ("--set", each))]
