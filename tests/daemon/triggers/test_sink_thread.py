"""A sink's thread: bounded and counted; nothing ends it, and it holds nobody up."""

from __future__ import annotations

import threading

import pytest

from daemon.triggers.sinks.command import CommandOutlet
from daemon.triggers.sinks.thread import FAILED_IN_A_ROW, Delivery, DeliveryError, SinkThread
from daemon.triggers.tables import CommandSinkTable
from tests.support.sinks import CLOCK, delivery_of, running
from tests.support.triggers import trigger
from tests.support.wait_until import wait_until


class Gate:
    """An outlet that delivers once it is opened."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_asked = threading.Event()
        self.delivered: list[int] = []
        self.is_closed = False

    def open(self) -> None:
        """Make ready."""

    def deliver(self, delivery: Delivery) -> None:
        self.is_asked.set()
        assert self.is_open.wait(10)
        self.delivered.append(delivery.trigger.seq)

    def tend(self) -> None:
        """Look after nothing."""

    def close(self, *, deadline_s: float) -> None:
        self.is_closed = True


def test_a_stuck_sink_costs_the_fast_loop_nothing():
    """What finds the queue full is dropped and counted; the rest comes out in order at the end."""
    gate = Gate()
    with running(gate, queue=3) as sink:
        sink.offer(delivery_of(0))
        assert gate.is_asked.wait(10)
        for seq in range(1, 8):
            sink.offer(delivery_of(seq))
        assert (sink.n_dropped, sink.n_sent) == (4, 0)
        gate.is_open.set()
    assert gate.delivered == [0, 1, 2, 3]
    assert (sink.n_sent, sink.n_lost, sink.n_failed, gate.is_closed) == (4, 4, 0, True)


def test_a_trigger_that_waited_too_long_is_dropped():
    """A sink that comes free late does not act on what is long over."""
    gate = Gate()
    gate.is_open.set()
    with running(gate, max_age_s=1.0) as sink:
        old = trigger(published_ns=CLOCK.now_ns() - 2 * 10**9)
        sink.offer(Delivery(old, b""))
        sink.offer(delivery_of(1))
        wait_until(lambda: sink.n_sent == 1, what="the newer one")
    assert (sink.n_stale, gate.delivered) == (1, [1])


def test_a_sink_left_behind_is_counted():
    """At the end of the time a stuck sink is left, with what it had not delivered."""
    gate = Gate()
    sink = SinkThread("sink", gate, queue=10, max_age_s=5, clock=CLOCK)
    sink.offer(delivery_of(0))
    assert gate.is_asked.wait(10)
    sink.offer(delivery_of(1))
    sink.close(deadline_s=0.01)
    assert sink.n_dropped == 1
    gate.is_open.set()


class Fickle(Gate):
    """An outlet with faults that no sink has foreseen."""

    def __init__(self, *, deliver: int = -1, is_sick: bool = False) -> None:
        super().__init__()
        self.is_open.set()
        self._fails_at = deliver
        self._is_sick = is_sick

    def deliver(self, delivery: Delivery) -> None:
        if delivery.trigger.seq == self._fails_at:
            raise RuntimeError("nobody thought of this")
        super().deliver(delivery)

    def tend(self) -> None:
        if self._is_sick:
            raise RuntimeError("nobody thought of this either")


def test_a_delivery_that_goes_wrong_in_any_way_is_counted(caplog: pytest.LogCaptureFixture):
    """Whatever one delivery raises, it is a failure, and the next one is tried."""
    with running(Fickle(deliver=1)) as sink:
        for seq in range(3):
            sink.offer(delivery_of(seq))
    assert (sink.n_sent, sink.n_failed, sink.n_lost) == (2, 1, 0)
    assert "nobody thought of this" in str([vars(record) for record in caplog.records])


class Weak(Gate):
    """An outlet through which only some triggers come."""

    def __init__(self, arrives: set[int]) -> None:
        super().__init__()
        self._arrives = arrives

    def deliver(self, delivery: Delivery) -> None:
        if delivery.trigger.seq not in self._arrives:
            raise DeliveryError("not this one")


def _offered(sink: SinkThread, seqs: range) -> str:
    """Offer triggers, wait until all were tried, and return the sink's problem."""
    n_tried = sink.n_sent + sink.n_failed + len(seqs)
    for seq in seqs:
        sink.offer(delivery_of(seq))
    wait_until(lambda: sink.n_sent + sink.n_failed == n_tried, what="the tries")
    return sink.problem


def test_deliveries_that_fail_in_a_row_are_a_problem():
    """A few failures are counted; many without a success between them are said, until one is."""
    n = FAILED_IN_A_ROW
    with running(Weak({n - 1, 2 * n}), queue=20) as sink:
        assert sink.problem == ""
        assert _offered(sink, range(2 * n - 1)) == ""
        said = _offered(sink, range(2 * n - 1, 2 * n))
        assert said.startswith(f"the last {n} deliveries to the sink sink failed")
        sink.offer(delivery_of(2 * n))
        wait_until(lambda: not sink.problem, what="the one that arrives")


def test_a_program_that_has_ended_is_a_problem():
    """A command that ends as soon as it is started takes few triggers, and its sink says so."""
    table = CommandSinkTable(kind="command", command=("false",))
    with running(CommandOutlet(table, CLOCK)) as sink:

        def is_said() -> bool:
            sink.offer(delivery_of())  # one that finds the program before its end is written to it
            return bool(sink.problem)

        wait_until(is_said, what="the problem")


def test_what_a_sink_that_has_ended_is_offered_is_counted():
    """Every trigger is in one of the counts, also where the thread itself came to an end."""
    outlet = Fickle(is_sick=True)
    with running(outlet) as sink:
        wait_until(lambda: not sink._thread.is_alive(), what="the thread's end")
        sink._queue.put(delivery_of(0))  # as if it had ended just then
        sink.offer(delivery_of(1))
        assert sink.n_dropped == 1
    assert (sink.n_sent, sink.n_failed, sink.n_lost) == (0, 0, 2)


def test_a_sink_finishes_before_it_is_waited_for():
    """Several sinks end at the same time: each is told, and goes on by itself."""
    gate = Gate()
    gate.is_open.set()
    with running(gate) as sink:
        sink.offer(delivery_of(0))
        sink.finish(deadline_s=5)
        wait_until(lambda: gate.is_closed, what="its end")
        assert sink.n_sent == 1


def test_a_sink_that_cannot_let_go_has_nothing_undelivered(caplog: pytest.LogCaptureFixture):
    """Once the queue was emptied nothing is left, whatever the end itself takes."""
    has_begun, may_end = threading.Event(), threading.Event()

    class Clinging(Gate):
        def close(self, *, deadline_s: float) -> None:
            has_begun.set()
            may_end.wait(10)

    sink = SinkThread("sink", Clinging(), queue=10, max_age_s=5, clock=CLOCK)
    sink.finish(deadline_s=0)
    assert has_begun.wait(10)
    sink.close(deadline_s=0)
    may_end.set()
    (left,) = [record for record in caplog.records if record.getMessage() == "sink left behind"]
    assert (vars(left)["undelivered"], sink.n_dropped) == (0, 0)
