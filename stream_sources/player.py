"""The player: a recording turned into a live stream, at any speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from contracts.clock import NS_PER_S, Clock
from contracts.spikes import Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from stream_sources.publisher import SpikePublisher, StreamTotals
from stream_sources.source import SpikeSource

WAIT_MS = 100
"""How often the player checks while it waits for subscribers."""


@dataclass(frozen=True, slots=True)
class PlayReport:
    """What was played.

    Attributes
    ----------
    duration_s : float
        Wall time from the first batch to the last.
    max_lateness_s : float
        The furthest that the player fell behind its own schedule; 0 at ``--speed max``.
    """

    n_batches: int
    n_spikes: int
    n_marks: int
    duration_s: float
    max_lateness_s: float
    was_stopped: bool


class Pacer:
    """Computes when a piece of session time is due on the host clock.

    `speed` is session seconds per second; None for as fast as possible.
    """

    def __init__(self, clock: Clock, speed: float | None) -> None:
        self.max_lateness_ns = 0
        self._clock = clock
        self._speed = speed
        self._origin: tuple[int, int] | None = None

    def restart(self) -> None:
        """Start the clock anew with the next call."""
        self._origin = None

    def due_in_ns(self, session_ns: int) -> int:
        """Return how long it is until `session_ns`; the first call starts the clock."""
        if self._speed is None:
            return 0
        if self._origin is None:
            self._origin = (session_ns, self._clock.now_ns())
        session_origin, host_origin = self._origin
        due_ns = host_origin + round((session_ns - session_origin) / self._speed)
        remaining_ns = due_ns - self._clock.now_ns()
        self.max_lateness_ns = max(self.max_lateness_ns, -remaining_ns)
        return max(0, remaining_ns)


def play(
    source: SpikeSource,
    publisher: SpikePublisher,
    clock: Clock,
    *,
    speed: float | None,
    wait_for_subscribers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[SpikeBatch], None] = lambda _: None,
) -> PlayReport:
    """Send a whole source, each batch when its last nanosecond is over.

    Parameters
    ----------
    speed : float or None
        Session seconds per second; None for as fast as the slowest subscriber takes it.
    wait_for_subscribers : int
        Do not begin before so many subscribe; at ``speed`` None, also wait whenever there is none.
    """
    _wait_for(wait_for_subscribers, publisher, should_stop)
    pacer = Pacer(clock, speed)
    started_ns = clock.now_ns()
    was_stopped = has_ended = False
    sent = _Sent(publisher)
    for message in _messages(source):
        if isinstance(message, Hello):
            sent.begin(message)
            pacer.restart()  # whatever passed between two runs is not waited for
            continue
        if isinstance(message, StreamEnd):
            has_ended = publisher.send_end(message, should_give_up=should_stop)
            continue
        has_ended = False
        if isinstance(message, SpikeBatch):
            _wait(pacer, publisher, clock, message, should_stop)
            if speed is None:
                # Lossless means for somebody: after the last subscriber has left, wait for the
                # next one instead of playing the rest to an empty socket.
                _wait_for(min(1, wait_for_subscribers), publisher, should_stop)
            if should_stop():
                was_stopped = True
                break
            on_batch(message)
        if not publisher.send(message, should_give_up=should_stop):
            was_stopped = True
            break
    if not has_ended:
        publisher.send_end(should_give_up=should_stop)
    totals = sent.totals()
    return PlayReport(
        n_batches=totals.n_batches,
        n_spikes=totals.n_spikes,
        n_marks=totals.n_marks,
        duration_s=(clock.now_ns() - started_ns) / NS_PER_S,
        max_lateness_s=pacer.max_lateness_ns / NS_PER_S,
        was_stopped=was_stopped,
    )


class _Sent:
    """What was sent over all runs of a source."""

    def __init__(self, publisher: SpikePublisher) -> None:
        self._publisher = publisher
        self._before = StreamTotals()

    def begin(self, hello: Hello) -> None:
        """Begin a run, unless it is the one that the publisher has begun with."""
        if hello.run != self._publisher.run:
            self._before = self.totals()
            self._publisher.begin(hello)

    def totals(self) -> StreamTotals:
        """Return the sums."""
        before, now = self._before, self._publisher.totals
        return StreamTotals(
            before.n_batches + now.n_batches,
            before.n_spikes + now.n_spikes,
            before.n_marks + now.n_marks,
        )


def _messages(source: SpikeSource) -> Iterator[SourceMessage]:
    """Yield what a source sends; one that knows the order itself has `in_order`."""
    in_order = getattr(source, "in_order", None)
    return _by_time(source) if in_order is None else in_order()


def _by_time(source: SpikeSource) -> Iterator[SpikeBatch | Mark]:
    """Yield batches and marks together; a mark comes before the batch in which it begins."""
    # A mark goes out before the batch in which it begins, so that a subscriber knows what was on
    # the screen when the spikes that answer it arrive.
    marks = source.marks()
    mark = next(marks, None)
    for batch in source.batches():
        while mark is not None and mark.start_ns < batch.stop_ns:
            if mark.stop_ns > batch.start_ns or mark.start_ns >= batch.start_ns:
                yield mark
            mark = next(marks, None)
        yield batch


def _wait_for(n: int, publisher: SpikePublisher, should_stop: Callable[[], bool]) -> None:
    """Greet subscribers until there are so many."""
    while publisher.n_subscribers < n and not should_stop():
        publisher.serve(wait_ms=WAIT_MS)


def _wait(
    pacer: Pacer,
    publisher: SpikePublisher,
    clock: Clock,
    batch: SpikeBatch,
    should_stop: Callable[[], bool],
) -> None:
    """Sleep until the batch is over, greeting subscribers meanwhile."""
    # The first call sets the origin of both clocks, so it takes the batch's start: a batch is sent
    # when its last nanosecond is over, as a rig would, and not when it begins.
    pacer.due_in_ns(batch.start_ns)
    while (due_in_ns := pacer.due_in_ns(batch.stop_ns)) > 0 and not should_stop():
        clock.sleep_ns(min(due_in_ns, NS_PER_S // 10))
        publisher.serve()
