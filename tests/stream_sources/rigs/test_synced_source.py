"""A source on the clock of another: what is sent, what is dropped, and what is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from threading import Event, Thread

import numpy as np
import pytest
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark, SpikeBatch
from stream_sources.publisher import SpikePublisher
from stream_sources.rigs.clock_sync import TOLERANCE_NS
from stream_sources.rigs.reference_stream import ReferenceStream
from stream_sources.rigs.synced_source import SyncedSource
from stream_sources.source import new_run
from tests.support.wait_until import wait_until

Message = SpikeBatch | Mark
BATCH_NS = NS_PER_S // 10
PULSE = "sync bit 6"


def session(
    *, seconds: int = 30, offset_ns: int = 0, ppm: float = 0.0, period_ns: int | None = None
) -> list[Message]:
    """Return batches of 0.1 s, each with spikes at known moments, and irregular sync pulses.

    The same moments for every clock, by which they are told.
    """
    rng = np.random.default_rng(5)
    run = new_run()
    pulses_ns = np.cumsum(rng.integers(NS_PER_S // 3, NS_PER_S, 3 * seconds))
    if period_ns is not None:
        pulses_ns = np.arange(1, seconds) * period_ns
    spikes_ns = np.sort(rng.integers(0, seconds * NS_PER_S, seconds * 200))

    def clock(times_ns: np.ndarray) -> np.ndarray:
        return times_ns + offset_ns + np.rint(times_ns * ppm * 1e-6).astype(np.int64)

    messages: list[Message] = []
    for number, start_ns in enumerate(range(0, seconds * NS_PER_S, BATCH_NS)):
        ends_ns = np.array([start_ns, start_ns + BATCH_NS])
        for pulse_ns in pulses_ns[(pulses_ns >= ends_ns[0]) & (pulses_ns < ends_ns[1])]:
            begin, end = clock(np.array([pulse_ns, pulse_ns + 1000])).tolist()
            messages.append(Mark("s", run, begin, end, PULSE, 0))
        inside = spikes_ns[(spikes_ns >= ends_ns[0]) & (spikes_ns < ends_ns[1])]
        start, stop = clock(ends_ns).tolist()
        units = np.zeros(len(inside), np.uint32)
        messages.append(SpikeBatch("s", run, number, start, stop, clock(inside), units))
    return messages


@dataclass
class ListedSource:
    """Gives what a list has."""

    listed: list[Message]
    stream: str = "s"
    run: str = field(default_factory=new_run)
    label: str = "listed"
    n_spikes: None = None
    span_ns: None = None
    population: Population = field(default_factory=lambda: Population([Unit("1")]))

    def messages(self) -> Iterator[Message | None]:
        yield from self.listed

    def batches(self) -> Iterator[SpikeBatch]:
        return (one for one in self.listed if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        return iter(())

    def close(self) -> None:
        return


class ListedReference:
    """Gives what a list has, as far as the source has come."""

    address = "tcp://reference"

    def __init__(self, listed: list[Message]) -> None:
        self._listed = listed

    def messages(self) -> Iterator[Message]:
        if self._listed:
            yield self._listed.pop(0)

    def close(self) -> None:
        return


def synced(
    ours: list[Message], reference: list[Message], *, within_s: float | None = None
) -> SyncedSource:
    return SyncedSource(
        ListedSource(ours),
        ListedReference(list(reference)),
        pulse=PULSE,
        reference_pulse=PULSE,
        within_s=within_s,
    )


def batches_of(source: SyncedSource) -> list[SpikeBatch]:
    with closing(source):
        return list(source.batches())


def test_spikes_come_on_the_clock_of_the_reference():
    """24 ms and 50 millionths apart: every spike that is sent is where the reference has it."""
    ours = session(offset_ns=24_000_000 + 3 * NS_PER_S, ppm=50.0)
    reference = session()
    source = synced(ours, reference)
    batches = batches_of(source)
    counters = source.counters
    sent_ns = np.concatenate([batch.spike_time_ns for batch in batches])
    truth_ns = np.concatenate(
        [one.spike_time_ns for one in reference if isinstance(one, SpikeBatch)]
    )
    assert counters.n_fits == 1
    assert counters.n_spikes_dropped + len(sent_ns) == len(truth_ns)
    assert np.abs(sent_ns - truth_ns[-len(sent_ns) :]).max() < 1000
    assert counters.offset_ms == pytest.approx(-3024.0, abs=1.0)
    assert counters.rate_error_ppm == pytest.approx(-50.0, abs=0.1)


def test_batches_touch_and_are_numbered_from_zero():
    """Whatever the fit does between them."""
    rng = np.random.default_rng(0)
    reference = [
        replace(one, start_ns=one.start_ns + int(rng.integers(0, 33_000)))
        if isinstance(one, Mark)
        else one
        for one in session()
    ]
    reference = [
        replace(one, stop_ns=one.start_ns + 1000) if isinstance(one, Mark) else one
        for one in reference
    ]
    batches = batches_of(synced(session(ppm=20.0), reference))
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    assert {batch.run for batch in batches} == {batches[0].run}
    starts, stops = [b.start_ns for b in batches], [b.stop_ns for b in batches]
    assert starts[1:] == stops[:-1]


def test_nothing_is_sent_before_the_clocks_are_known(caplog: pytest.LogCaptureFixture):
    """The reason is logged once, not for every pulse."""
    ours = session(seconds=4)
    source = synced(ours, ours)
    with caplog.at_level(logging.WARNING):
        assert batches_of(source) == []
    assert source.counters.n_batches_dropped == 40
    reasons = [r.why for r in caplog.records]  # type: ignore[attr-defined]
    assert len(reasons) <= 2
    assert "pulses have come, and 8 are needed" in reasons[-1]


def test_a_jump_of_the_clock_begins_a_new_run():
    """What comes before the new fit is dropped; wrong times end after two pulses."""
    ours, reference = session(seconds=40), session(seconds=40)
    half = len(ours) // 2

    def later(one: Message, by_ns: int) -> Message:
        if isinstance(one, Mark):
            return replace(one, start_ns=one.start_ns + by_ns, stop_ns=one.stop_ns + by_ns)
        return replace(
            one,
            start_ns=one.start_ns + by_ns,
            stop_ns=one.stop_ns + by_ns,
            spike_time_ns=one.spike_time_ns + by_ns,
        )

    ours = [*ours[:half], *(later(one, 24_000_000) for one in ours[half:])]
    source = synced(ours, reference)
    batches = batches_of(source)
    assert source.counters.n_fits == 2
    runs = {batch.run for batch in batches}
    assert len(runs) == 2
    last = [batch for batch in batches if batch.run == batches[-1].run]
    truth_ns = np.concatenate(
        [one.spike_time_ns for one in reference if isinstance(one, SpikeBatch)]
    )
    sent_ns = np.concatenate([batch.spike_time_ns for batch in last])
    assert np.abs(sent_ns - truth_ns[-len(sent_ns) :]).max() < TOLERANCE_NS // 1000
    wrong = [b for b in batches if b.run == batches[0].run and b.start_ns > 20 * NS_PER_S]
    assert len(wrong) * BATCH_NS < 3 * NS_PER_S


def test_a_restart_of_the_reference_is_a_new_clock():
    """Its next run counts from anywhere."""
    first, second = session(seconds=20), session(seconds=20, offset_ns=100 * NS_PER_S)
    ours = [*first, *(replace(one, run=first[0].run) for one in session(seconds=40)[len(first) :])]
    source = synced(ours[: len(first) * 2], [*first, *second])
    assert len({batch.run for batch in batches_of(source)}) >= 1
    assert source.counters.n_fits >= 1
    assert source._follower.problem != ""


def test_periodic_pulses_end_the_source_with_what_to_do():
    """After 30 of them; nothing was sent."""
    ours = session(seconds=40, period_ns=NS_PER_S)
    source = synced(ours, ours)
    with pytest.raises(UserError, match=r"too regular.*--sync-within") as caught:
        batches_of(source)
    assert "'sync bit 6'" in str(caught.value)
    assert source.counters.n_batches_sent == 0


def test_periodic_pulses_with_a_limit_are_followed():
    """As for two files that SpikeGLX has begun together."""
    ours = session(seconds=40, period_ns=NS_PER_S, offset_ns=24_000_000)
    source = synced(ours, session(seconds=40, period_ns=NS_PER_S), within_s=0.3)
    assert len(batches_of(source)) > 300
    assert source.counters.offset_ms == pytest.approx(-24.0, abs=0.01)


def test_a_source_behind_the_reference_waits_for_pulses_of_the_same_time():
    """It reads old pulses at first: these say nothing about the clocks, which agree."""
    whole = session(seconds=400, period_ns=NS_PER_S)

    def part(first_s: int, last_s: int) -> list[Message]:
        return [one for one in whole if first_s * NS_PER_S <= one.start_ns < last_s * NS_PER_S]

    # 60 s of old data; the reference is 120 s ahead and then waits for nobody.
    ours = [*part(0, 60), *part(60, 300)]
    source = synced(ours, part(120, 400), within_s=0.3)
    batches = batches_of(source)
    assert source.counters.n_fits == 1
    assert source.counters.offset_ms == pytest.approx(0.0, abs=0.01)
    assert batches[0].start_ns > 120 * NS_PER_S


def test_clocks_that_are_further_apart_than_was_said_are_waited_for(
    caplog: pytest.LogCaptureFixture,
):
    """Nothing is sent, and a warning has the times of both, and comes again while it lasts."""
    ours = session(seconds=60, period_ns=NS_PER_S, offset_ns=500 * NS_PER_S)
    source = synced(ours, session(seconds=60, period_ns=NS_PER_S), within_s=0.3)
    with caplog.at_level(logging.WARNING):
        assert batches_of(source) == []
    reasons = [r.why for r in caplog.records]  # type: ignore[attr-defined]
    assert len(reasons) <= 5
    assert re.search(r"of the same time: ours are from 501.0 to 508.0 s, the ref", reasons[-2])
    assert caplog.records[-1].for_s >= 30  # type: ignore[attr-defined]
    assert caplog.records[-1].pulses.endswith("'sync bit 6' here")  # type: ignore[attr-defined]


def test_the_reason_for_a_new_begin_is_logged_once(caplog: pytest.LogCaptureFixture):
    """Though the number of pulses since then changes with each."""
    first = session(seconds=20)
    second = session(seconds=6)
    source = synced([*first, *second], [*first, *second])
    with caplog.at_level(logging.WARNING):
        batches_of(source)
    reasons = [str(getattr(record, "why", "")) for record in caplog.records]
    again = [reason for reason in reasons if "new run" in reason]
    assert 1 <= len(again) <= 2


def test_pulses_that_stop_end_the_fit():
    """After a minute: the sync cable is out, and drift is unknown."""
    ours = session(seconds=100)
    ours = [one for one in ours if isinstance(one, SpikeBatch) or one.start_ns < 20 * NS_PER_S]
    source = synced(ours, ours)
    batches = batches_of(source)
    assert batches[-1].stop_ns == pytest.approx(80 * NS_PER_S, abs=NS_PER_S)
    assert "no pulse" in source._follower.problem


def test_no_sync_signal_is_said(caplog: pytest.LogCaptureFixture):
    """A reference that sends no pulses."""
    ours = session(seconds=30)
    source = synced(ours, [one for one in ours if isinstance(one, SpikeBatch)])
    with caplog.at_level(logging.WARNING):
        assert batches_of(source) == []
    assert source.counters.n_reference_pulses == 0
    assert "0 pulses have come, and 8 are needed" in source._follower.problem


def test_the_reference_is_read_from_its_socket():
    """Marks and batches as another process publishes them; noise is passed over."""
    population = Population([Unit("1")])
    listed = session(seconds=1)
    hello = Hello("s", listed[0].run, "listed", population)
    stop = Event()
    with zmq.Context() as context:
        publisher = SpikePublisher(context, "tcp://127.0.0.1:*", hello, HostClock())

        def publish() -> None:
            while publisher.n_subscribers < 1 and not stop.is_set():
                publisher.serve(wait_ms=10)
            publisher._socket.send_multipart([b"mark.s", b"noise"])
            for message in listed:
                publisher.send(message)

        thread = Thread(target=publish)
        thread.start()
        received: list[Message] = []
        with closing(ReferenceStream(publisher.endpoint)) as reference:

            def is_complete() -> bool:
                received.extend(reference.messages())
                return len(received) == len(listed)

            try:
                wait_until(is_complete)
            finally:
                stop.set()
                thread.join()
                publisher.close(is_urgent=True)
    publisher.wait()
    assert [type(one) for one in received] == [type(one) for one in listed]
    assert [one.start_ns for one in received] == [one.start_ns for one in listed]


def test_an_address_that_is_none_is_refused():
    """By its option."""
    with pytest.raises(UserError, match="--sync-to"):
        ReferenceStream("127.0.0.1")
