"""LSL markers as marks of a live source: when they are, what is refused, who comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

import numpy as np
import pytest
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark, SpikeBatch
from contracts.wire import pack, unpack
from stream_sources.live import publish_live
from stream_sources.rigs.lsl_marks import (
    WINDOW_S,
    HostOffset,
    LslMarkedSource,
    LslMarksOptions,
)
from stream_sources.source import new_run
from tests.support.lsl import outlet_of, unique, wait_for_consumer
from tests.support.wait_until import wait_until

CLOCK = HostClock()
OFFSET_NS = 3 * NS_PER_S
"""Of the host's clock from session time, in these tests."""

NEAR_NS = 50_000_000
"""liblsl measures the step between two clocks, here one and the same, to 0.1 ms on a quiet machine;
what these tests tell apart differs by more."""


class EmptyRig:
    """A rig in which nothing fires: each batch ends `delay_ns` before it is asked for."""

    def __init__(self, *, delay_ns: int = 0) -> None:
        self.stream, self.run, self.label = "rig", new_run(), "a rig"
        self.population = Population([Unit("1")])
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = None
        self.delay_ns = delay_ns

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield batches without end."""
        seq = 0
        empty = np.empty(0, np.int64), np.empty(0, np.uint32)
        while True:
            yield None
            CLOCK.sleep_ns(1_000_000)
            stop_ns = CLOCK.now_ns() - OFFSET_NS - self.delay_ns
            yield SpikeBatch(self.stream, self.run, seq, stop_ns - 1000, stop_ns, *empty)
            seq += 1

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (one for one in self.messages() if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield none."""
        return iter(())

    def close(self) -> None:
        """Nothing to close."""


def _take(source: LslMarkedSource, n: int) -> list[Mark]:
    """Return the first marks; every one is legal on the wire."""
    marks: list[Mark] = []
    for message in source.messages():
        if isinstance(message, Mark):
            assert unpack(pack(message)) == message
            marks.append(message)
        if len(marks) == n:
            break
    return marks


def _until_read(source: LslMarkedSource, outlet) -> None:
    """Run the source until it reads the stream."""
    for _ in source.messages():
        if outlet.have_consumers():
            return


def test_a_marker_is_a_mark_at_its_own_time():
    """On the session's clock, to the delay of a batch; in order, and numbered."""
    name = unique("markers")
    outlet = outlet_of(name)
    source = LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)
    with closing(source):
        _until_read(source, outlet)
        sent_ns = [CLOCK.now_ns(), CLOCK.now_ns() + 5_000_000]
        for text, at_ns in zip(("stimulus on", "Reiz aus, 終"), sent_ns, strict=True):
            outlet.push_sample([text], at_ns / 1e9)
        marks = _take(source, 2)
    assert [mark.stimulus for mark in marks] == ["stimulus on", "Reiz aus, 終"]
    assert [mark.presentation_id for mark in marks] == [0, 1]
    assert all((mark.stream, mark.run) == ("rig", source.run) for mark in marks)
    for mark, at_ns in zip(marks, sent_ns, strict=True):
        assert mark.start_ns == mark.stop_ns == pytest.approx(at_ns - OFFSET_NS, abs=NEAR_NS)
    assert source.counters.n_marks == 2


@pytest.mark.parametrize("delay_ms", [0.0, 200.0])
def test_the_delay_of_the_acquisition_is_what_marks_are_early_by(delay_ms):
    """And what the option makes up for."""
    name = unique("markers")
    outlet = outlet_of(name)
    rig = EmptyRig(delay_ns=200_000_000)
    with closing(LslMarkedSource(rig, LslMarksOptions(name, delay_ms), CLOCK)) as source:
        _until_read(source, outlet)
        at_ns = CLOCK.now_ns()
        outlet.push_sample(["on"], at_ns / 1e9)
        (mark,) = _take(source, 1)
    early_ns = 200_000_000 - round(delay_ms * 1e6)
    assert mark.start_ns == pytest.approx(at_ns - OFFSET_NS - early_ns, abs=NEAR_NS)


def test_what_is_no_mark_is_refused_and_the_next_one_taken():
    """A text too long for the wire, and stamps that are no time."""
    name = unique("markers")
    outlet = outlet_of(name)
    with closing(LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)) as source:
        _until_read(source, outlet)
        now_s = CLOCK.now_ns() / 1e9
        outlet.push_sample(["x" * 1025], now_s)
        outlet.push_sample(["never"], 1e300)
        outlet.push_sample(["fits" + "x" * 1020], now_s)
        (mark,) = _take(source, 1)
        assert mark.stimulus.startswith("fits")
        assert source.counters.n_refused == 2


def test_a_stream_of_numbers_is_taken_and_a_signal_is_not():
    """Markers of some programs are numbers; a stream with a sampling rate is none of events."""
    name = unique("markers")
    signal = outlet_of(name, rate=100.0, kind="float32")
    with closing(LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)) as source:
        outlet = outlet_of(name, kind="int32")
        _until_read(source, outlet)
        outlet.push_sample([17], CLOCK.now_ns() / 1e9)
        (mark,) = _take(source, 1)
        assert mark.stimulus == "17"
        assert not signal.have_consumers()


def test_a_program_that_comes_late_and_again_is_found():
    """The name stays; markers go on where it comes back."""
    name, source_id = unique("markers"), unique("id")
    with closing(LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)) as source:
        for text in ("first", "second"):
            outlet = outlet_of(name, source_id=source_id)
            _until_read(source, outlet)
            wait_for_consumer(outlet)
            outlet.push_sample([text], CLOCK.now_ns() / 1e9)
            assert [mark.stimulus for mark in _take(source, 1)] == [text]
            del outlet


def test_a_new_run_has_an_offset_of_its_own():
    """Its session time begins anew; a mark is never put on the clock of the run before."""
    name = unique("markers")
    outlet = outlet_of(name)
    rig = EmptyRig()
    with closing(LslMarkedSource(rig, LslMarksOptions(name), CLOCK)) as source:
        _until_read(source, outlet)
        rig.run, rig.delay_ns = new_run(), 100 * NS_PER_S
        next(one for one in source.messages() if one is not None)
        at_ns = CLOCK.now_ns()
        outlet.push_sample(["on"], at_ns / 1e9)
        (mark,) = _take(source, 1)
    assert mark.run == rig.run
    wanted_ns = at_ns - OFFSET_NS - 100 * NS_PER_S
    assert mark.start_ns == pytest.approx(wanted_ns, abs=NEAR_NS)


def test_the_source_goes_on_while_liblsl_asks_for_a_clock():
    """Before its first marker liblsl measures for half a second; batches do not wait for that."""
    name = unique("markers")
    outlet = outlet_of(name)
    with closing(LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)) as source:
        _until_read(source, outlet)
        outlet.push_sample(["on"], CLOCK.now_ns() / 1e9)
        n_batches = 0
        for message in source.messages():
            if isinstance(message, Mark):
                break
            n_batches += isinstance(message, SpikeBatch)
    assert n_batches > 10


def test_the_smallest_offset_of_a_minute():
    """A late batch changes nothing; what is older than a minute is forgotten."""
    offset = HostOffset()
    assert offset.ns is None
    for second in range(WINDOW_S):
        offset.add(second * NS_PER_S + 50, second * NS_PER_S)
        offset.add(second * NS_PER_S + 70, second * NS_PER_S + (10 if second else 65))
    assert offset.ns == 5
    offset.add(WINDOW_S * NS_PER_S + 90, WINDOW_S * NS_PER_S)
    assert offset.ns == 50


@pytest.mark.parametrize("name", ["", "it's", 'a"b'])
def test_a_name_that_lsl_cannot_look_for_is_refused(name):
    """A quotation mark would end its query."""
    with pytest.raises(UserError, match="--lsl-marks"):
        LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)


def test_marks_leave_with_the_spikes(context):
    """On the source's socket, after its hello, in its stream and run."""
    name = unique("markers")
    outlet = outlet_of(name)
    source = LslMarkedSource(EmptyRig(), LslMarksOptions(name), CLOCK)
    address: list[str] = []
    stop = Event()
    thread = Thread(
        target=publish_live,
        args=(source, "tcp://127.0.0.1:0", CLOCK),
        kwargs={"should_stop": stop.is_set, "on_bound": address.append},
    )
    thread.start()
    try:
        wait_until(lambda: address)
        wait_for_consumer(outlet)
        with context.socket(zmq.SUB) as socket:
            socket.set(zmq.RCVTIMEO, 60_000)
            socket.subscribe(b"")
            socket.connect(address[0])
            assert isinstance(unpack(socket.recv_multipart()), Hello)
            outlet.push_sample(["on"], CLOCK.now_ns() / 1e9)
            while not isinstance(message := unpack(socket.recv_multipart()), Mark):
                pass
    finally:
        stop.set()
        thread.join(60)
    assert (message.stream, message.run, message.stimulus) == ("rig", source.run, "on")
