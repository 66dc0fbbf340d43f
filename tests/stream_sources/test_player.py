"""The player: any speed, the same messages; on time, and stoppable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import zmq

from contracts.binning import BinRate
from contracts.clock import NS_PER_S
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch, StreamEnd
from contracts.window import WindowSpec
from daemon.bin_ring import BinRing
from daemon.window_cutter import WindowCutter
from stream_sources.player import Pacer, play
from stream_sources.publisher import SpikePublisher, StreamTotals
from stream_sources.source import SpikeBlock, cut_batches
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, ramp_numbers, ramp_population, ramp_spikes

RATE = BinRate(120)
SPEC = WindowSpec(RATE, n_bins=20, stride_bins=10)
N_BINS = 600
START_NS = 3 * NS_PER_S


@dataclass
class RampSource:
    """Five seconds of ramp, from session second three on."""

    batch_ns: int = 10_000_000
    shown: Sequence[Mark] = ()
    stream: str = "probeA"
    run: str = RUN
    label: str = "ramp"
    population: Population = field(default_factory=ramp_population)
    n_spikes: int | None = None
    span_ns: tuple[int, int] | None = (START_NS, START_NS + 5 * NS_PER_S)

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches."""
        first = RATE.bin_of(START_NS)
        times, units = ramp_spikes(RATE, first, first + N_BINS)
        order = np.argsort(times, kind="stable")
        block = SpikeBlock(START_NS, START_NS + 5 * NS_PER_S, times[order], units[order])
        blocks = [block] if self.batch_ns <= NS_PER_S else []
        yield from cut_batches(blocks, stream=self.stream, run=self.run, batch_ns=self.batch_ns)

    def marks(self) -> Iterator[Mark]:
        """Yield the marks."""
        yield from self.shown

    def close(self) -> None:
        """Let go of nothing."""


class RecordingPublisher(SpikePublisher):
    """Keeps what is sent, and when, in place of a socket."""

    def __init__(self, clock: ManualClock, *, subscribers: Callable[[], int] = lambda: 1) -> None:
        self.sent: list[tuple[int, SpikeBatch | Mark]] = []
        self.totals = StreamTotals()
        self.n_ends = self.n_served = 0
        self.refuses = False
        self._clock = clock
        self._how_many = subscribers

    @property
    def n_subscribers(self) -> int:  # type: ignore[override]
        """Who listens now."""
        return self._how_many()

    def serve(self, *, wait_ms: int = 0) -> None:
        """Count the looks around."""
        self.n_served += 1

    def send(
        self, message: SpikeBatch | Mark, *, should_give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """Keep the message, or wait until it is given up."""
        while self.refuses:
            if should_give_up():
                return False
        self.sent.append((self._clock.now_ns(), message))
        self.totals.n_batches += isinstance(message, SpikeBatch)
        self.totals.n_marks += isinstance(message, Mark)
        self.totals.n_spikes += message.n_spikes if isinstance(message, SpikeBatch) else 0
        return True

    def send_end(
        self,
        end: StreamEnd | None = None,
        *,
        should_give_up: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Count the ends."""
        self.n_ends += 1
        return not self.refuses

    @property
    def batches(self) -> list[SpikeBatch]:
        """The batches that were sent."""
        return [message for _, message in self.sent if isinstance(message, SpikeBatch)]


def windows_of(batches: Sequence[SpikeBatch]) -> list[list[int]]:
    ring = BinRing(RATE, 16, capacity_bins=1000, window_bins=SPEC.n_bins)
    cutter, windows = WindowCutter(SPEC, ManualClock()), []
    for batch in batches:
        ring.add(batch)
        windows += [ramp_numbers(window.counts) for window in cutter.ready(ring)]
    return windows


@pytest.mark.parametrize("speed", [0.5, 1, 50, None])
def test_any_speed_gives_the_same_windows(speed: float | None):
    """Each window spells its own bins, whatever the pace and the length of a batch."""
    clock = ManualClock()
    publisher = RecordingPublisher(clock)
    batch_ns = 10_000_000 if speed else 100_000_000
    report = play(RampSource(batch_ns), publisher, clock, speed=speed)
    first = RATE.bin_of(START_NS)
    assert windows_of(publisher.batches) == [
        list(range(start, start + 20)) for start in range(first, first + N_BINS - 19, 10)
    ]
    assert report.duration_s == pytest.approx(5 / speed if speed else 0)
    assert report.max_lateness_s == 0
    assert publisher.n_ends == 1


@pytest.mark.parametrize("speed", [0.5, 1, 50])
def test_batch_leaves_when_its_last_nanosecond_is_over(speed: float):
    """A batch's moment on the host clock is its end, scaled by the speed; never before."""
    clock = ManualClock(7)
    publisher = RecordingPublisher(clock)
    play(RampSource(), publisher, clock, speed=speed)
    for sent_ns, message in publisher.sent:
        assert abs(sent_ns - 7 - (message.stop_ns - START_NS) / speed) <= 1


def test_lateness_is_told_and_caught_up():
    """A pause of the machine is in the report, and the schedule does not slip by it."""
    clock = ManualClock()

    def stumble(batch: SpikeBatch) -> None:
        clock.ns += 300_000_000 if batch.seq == 100 else 0

    publisher = RecordingPublisher(clock)
    report = play(RampSource(), publisher, clock, speed=1, on_batch=stumble)
    assert report.max_lateness_s == pytest.approx(0.3)
    assert report.duration_s == pytest.approx(5)


def test_pacer_does_not_drift():
    """A thousandth of real time over a day of session is exact to the nanosecond."""
    clock = ManualClock(0)
    pacer = Pacer(clock, 1000)
    assert pacer.due_in_ns(0) == 0
    assert pacer.due_in_ns(86_400 * NS_PER_S) == 86_400 * NS_PER_S // 1000


def test_greets_while_it_waits_for_a_slow_batch():
    """At a crawl the publisher is served ten times a second all the same."""
    clock = ManualClock()
    publisher = RecordingPublisher(clock)
    play(RampSource(batch_ns=NS_PER_S), publisher, clock, speed=0.1)
    assert publisher.n_served >= 10 * 50


def test_waits_for_its_subscribers():
    """Nothing is sent before so many listen."""
    seen = iter([0, 0, 1, 1, 2])
    publisher = RecordingPublisher(ManualClock(), subscribers=lambda: next(seen, 2))
    play(RampSource(), publisher, ManualClock(), speed=None, wait_for_subscribers=2)
    assert publisher.n_served >= 4
    assert publisher.totals.n_batches == 500


def test_full_speed_pauses_while_nobody_listens():
    """A lossless replay that has lost its daemon waits for the next; nothing goes nowhere."""
    seen = iter([1, *[1] * 10, *[0] * 5, 1])
    publisher = RecordingPublisher(ManualClock(), subscribers=lambda: next(seen, 1))
    report = play(RampSource(), publisher, ManualClock(), speed=None, wait_for_subscribers=1)
    assert publisher.n_served == 5
    assert report.n_batches == 500


def test_mark_comes_before_the_batch_in_which_it_begins():
    """Those over before the first batch are left out; the others keep their order."""
    marks = [
        Mark("probeA", RUN, START_NS + start, START_NS + stop, "movie", number)
        for number, (start, stop) in enumerate(
            [(-20, -10), (-5, 5), (0, 0), (10_000_000, 20_000_000), (9_000_000_000, 9_000_000_001)]
        )
    ]
    publisher = RecordingPublisher(ManualClock())
    report = play(RampSource(shown=marks), publisher, ManualClock(), speed=None)
    heard = [
        message.presentation_id if isinstance(message, Mark) else "batch"
        for _, message in publisher.sent
    ]
    assert heard[:5] == [1, 2, "batch", 3, "batch"]
    assert report.n_marks == 3


def test_asked_to_stop_it_says_its_end():
    """The end is sent, and the report says that it was stopped."""
    publisher = RecordingPublisher(ManualClock())
    report = play(
        RampSource(),
        publisher,
        ManualClock(),
        speed=1,
        should_stop=lambda: publisher.totals.n_batches >= 10,
    )
    assert report.was_stopped
    assert (report.n_batches, publisher.n_ends) == (10, 1)


def test_asked_to_stop_it_does_not_wait_for_a_slow_batch():
    """At a thousandth of real time a stop is noticed within a tenth of a second."""
    clock = ManualClock(0)
    publisher = RecordingPublisher(clock)
    report = play(
        RampSource(batch_ns=NS_PER_S),
        publisher,
        clock,
        speed=0.001,
        should_stop=lambda: clock.ns > NS_PER_S,
    )
    assert report.was_stopped
    assert report.duration_s <= 1.2


def test_asked_to_stop_it_does_not_wait_for_a_stalled_receiver():
    """A lossless replay whose receiver hangs can still be stopped."""
    publisher = RecordingPublisher(ManualClock())
    publisher.refuses = True
    asked = iter(range(1000))
    report = play(
        RampSource(), publisher, ManualClock(), speed=None, should_stop=lambda: next(asked) > 20
    )
    assert report.was_stopped
    assert report.n_batches == 0


def test_asked_to_stop_before_anybody_listens():
    """A source that nobody ever joined ends without a batch."""
    publisher = RecordingPublisher(ManualClock(), subscribers=lambda: 0)
    asked = iter([False, False, True])
    report = play(
        RampSource(),
        publisher,
        ManualClock(),
        speed=None,
        wait_for_subscribers=1,
        should_stop=lambda: next(asked, True),
    )
    assert report.was_stopped
    assert report.n_batches == 0


def test_source_without_batches_is_an_end():
    """An empty recording is played: no batch, one end."""
    publisher = RecordingPublisher(ManualClock())
    report = play(RampSource(batch_ns=2 * NS_PER_S), publisher, ManualClock(), speed=None)
    assert (report.n_batches, report.was_stopped, publisher.n_ends) == (0, False, 1)


def test_real_socket_stalls_and_is_stopped():
    """Over a real line: the receiver never reads, the stop is noticed, nothing hangs."""
    with zmq.Context() as context, context.socket(zmq.SUB) as stalled:
        stalled.set(zmq.LINGER, 0)
        stalled.set(zmq.RCVHWM, 1)
        stalled.set(zmq.RCVBUF, 4096)
        stalled.subscribe(b"")
        source = RampSource(batch_ns=100_000)
        publisher = SpikePublisher(
            context,
            "tcp://127.0.0.1:*",
            hello=_hello(source),
            clock=ManualClock(),
            is_lossless=True,
        )
        publisher._socket.set(zmq.SNDBUF, 4096)
        stalled.connect(publisher.endpoint)
        n_before: list[int] = []

        def has_stalled() -> bool:
            n_before.append(publisher.totals.n_batches)
            return n_before[-1] > 0 and n_before[-5:] == n_before[-1:] * 5

        report = play(
            source,
            publisher,
            ManualClock(),
            speed=None,
            wait_for_subscribers=1,
            should_stop=has_stalled,
        )
        publisher.close()
    assert report.was_stopped
    assert 0 < report.n_batches < 50_000


def _hello(source: RampSource):
    from contracts.spikes import Hello

    return Hello(source.stream, source.run, source.label, source.population)
