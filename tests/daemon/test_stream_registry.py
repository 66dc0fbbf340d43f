"""The registry: which streams there are, in which order of units, and what was lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import NS_PER_S
from contracts.errors import PopulationMismatchError
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch, StreamEnd
from daemon.stream_registry import Accepted, StreamRegistry, StreamState
from tests.support.daemon_components import hello_of
from tests.support.ramp_population import RUN, ramp_population

OTHER_RUN = "f" * 16


def batch(
    seq: int = 0, *units: int, stream: str = "probeA", run: str = RUN, host_ns: int = 0
) -> SpikeBatch:
    times = np.full(len(units), seq * 10, dtype=np.int64)
    return SpikeBatch(
        stream=stream,
        run=run,
        seq=seq,
        start_ns=seq * 10,
        stop_ns=seq * 10 + 10,
        spike_time_ns=times,
        unit_index=np.array(units, dtype=np.uint32),
        received_host_ns=host_ns,
    )


def registry(n_units: int = 4, extra_units="refuse", **streams: Population) -> StreamRegistry:
    new = StreamRegistry(ramp_population(n_units), extra_units)
    for name, population in streams.items():
        new.register(hello_of(population, stream=name), host_ns=0)
    return new


def rows(accepted) -> list[int]:
    (batch,) = accepted.batches
    return [int(row) for row in batch.unit_index]


def test_batch_before_its_hello_is_dropped_with_the_reason():
    """Without a unit table an index means nothing."""
    assert registry().accept(batch()).dropped == "no_hello"


def test_same_table_is_passed_on_untouched():
    """Where the tables agree nothing is copied, and foreign indices are left to the ring."""
    one = batch(0, 3, 0, 99)
    assert registry(probeA=ramp_population(4)).accept(one).batches == (one,)


@given(st.permutations(range(6)), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_permuted_table_is_translated(order: list[int], units: list[int]):
    """Indices become the encoder's rows; those that are no unit become one past the last."""
    theirs = Population([ramp_population(6).units[row] for row in order])
    accepted = registry(6, probeA=theirs).accept(batch(0, *units))
    assert rows(accepted) == [order[unit] if unit < 6 else 6 for unit in units]


def test_extra_units_are_refused_with_their_names():
    """The first stream's error names the units on both sides."""
    theirs = Population([Unit("0"), Unit("7"), Unit("8")])
    with pytest.raises(PopulationMismatchError) as raised:
        registry(2, probeA=theirs)
    assert (raised.value.missing, raised.value.extra) == (("1",), ("7", "8"))


def test_probes_tell_the_units_of_an_error_apart():
    """The same id on another probe is named with both probes, and is no contradiction."""
    encoder = StreamRegistry(Population([Unit("5", probe="probeA")]), "refuse")
    with pytest.raises(PopulationMismatchError) as raised:
        encoder.register(hello_of(Population([Unit("5", probe="probeB")])), host_ns=0)
    assert (raised.value.missing, raised.value.extra) == (("probeA/5",), ("probeB/5",))
    assert "unit_id probeA/5" in str(raised.value)


def test_extra_units_are_ignored_on_demand():
    """Their spikes go to the row outside, the others to their own."""
    theirs = Population([Unit("7"), Unit("1"), Unit("0")])
    assert rows(registry(2, "ignore", probeA=theirs).accept(batch(0, 0, 1, 2))) == [2, 1, 0]


def test_same_unit_id_on_two_probes_is_two_units():
    """A unit is identified by probe and id."""
    encoder = Population([Unit("5", probe="A"), Unit("5", probe="B")])
    both = StreamRegistry(encoder, "refuse")
    both.register(hello_of(Population([Unit("5", probe="B")]), stream="b"), host_ns=0)
    assert both.missing_units() == ["A/5"]
    assert rows(both.accept(batch(0, 0, stream="b"))) == [1]
    both.register(hello_of(Population([Unit("5", probe="A")]), stream="a"), host_ns=0)
    assert both.missing_units() == []


def test_streams_cover_the_population_together():
    """Two probes with half of the units each leave none missing."""
    units = ramp_population(4).units
    halves = registry(4, left=Population(units[:2]))
    assert halves.missing_units() == ["2", "3"]
    halves.register(hello_of(Population(units[2:]), stream="right"), host_ns=0)
    assert halves.missing_units() == []
    assert rows(halves.accept(batch(0, 0, 1, stream="right"))) == [2, 3]


def test_holes_in_seq_are_loss():
    """Each batch says how many are missing before it."""
    one = registry(probeA=ramp_population(4))
    assert [one.accept(batch(seq)).n_lost for seq in (0, 1, 4, 5, 15)] == [0, 0, 2, 0, 9]
    assert one.streams["probeA"].n_lost == 11


def test_duplicates_and_stragglers_are_dropped():
    """A number that has passed does not come again, and does not count as loss."""
    one = registry(probeA=ramp_population(4))
    dropped = [one.accept(batch(seq)).dropped for seq in (0, 2, 2, 1, 0, 3)]
    assert dropped == ["", "", "duplicate", "duplicate", "duplicate", ""]
    assert one.streams["probeA"].n_lost == 1


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 10))
def test_every_number_is_accepted_or_lost(seqs: list[int], first: int):
    """Up to the newest number, what was not accepted is lost; nothing is accepted twice."""
    one = StreamRegistry(ramp_population(4), "refuse")
    one.register(hello_of(ramp_population(4), next_seq=first), host_ns=0)
    taken = [seq for seq in seqs if one.accept(batch(seq)).batches]
    stream = one.streams["probeA"]
    assert taken == sorted(set(taken))
    assert len(taken) + stream.n_lost == stream.next_seq - first


def test_late_joiner_has_lost_nothing():
    """The hello says where the stream is; what was sent before was never asked for."""
    one = StreamRegistry(ramp_population(4), "refuse")
    one.register(hello_of(ramp_population(4), next_seq=500), host_ns=0)
    assert one.accept(batch(500)).n_lost == 0


def test_repeated_hello_changes_nothing():
    """The hello that comes every second leaves the numbers alone."""
    one = registry(probeA=ramp_population(4))
    one.accept(batch(0))
    assert not one.register(hello_of(ramp_population(4), next_seq=7), host_ns=5)
    assert one.accept(batch(1)).n_lost == 0


def test_restart_begins_from_the_new_hello():
    """A new run counts from its own hello; the old run's stragglers are dropped, the loss stays."""
    one = registry(probeA=ramp_population(4))
    one.accept(batch(3))
    assert one.register(hello_of(ramp_population(4), run=OTHER_RUN), host_ns=9)
    assert one.accept(batch(4)).dropped == "no_hello"
    assert one.accept(batch(0, run=OTHER_RUN)).n_lost == 0
    assert one.streams["probeA"].n_lost == 3


def test_restart_with_foreign_units_keeps_the_old_table():
    """A refused hello leaves what was known, so that its batches are dropped, not misread."""
    one = registry(2, probeA=ramp_population(2))
    with pytest.raises(PopulationMismatchError):
        one.register(hello_of(Population([Unit("9")]), run=OTHER_RUN), host_ns=0)
    assert one.accept(batch(0, 0, run=OTHER_RUN)).dropped == "no_hello"
    assert one.accept(batch(0, 1)).dropped == ""


def test_end_counts_the_tail():
    """Only the end can say that the last batches were lost; it says so once."""
    one = registry(probeA=ramp_population(4))
    one.accept(batch(0))
    end = StreamEnd("probeA", RUN, n_batches=5, n_spikes=0)
    assert one.end(end) == 4
    assert one.end(end) == 0
    assert one.streams["probeA"].n_lost == 4
    assert one.have_all_ended


def test_end_of_another_run_is_no_end():
    """An end that belongs to no known run changes nothing."""
    one = registry(probeA=ramp_population(4))
    assert one.end(StreamEnd("probeA", OTHER_RUN, 5, 0)) is None
    assert one.end(StreamEnd("probeB", RUN, 5, 0)) is None
    assert one.streams["probeA"].state is StreamState.LIVE


def test_all_ended_needs_a_stream():
    """Nobody has ended where nobody has begun, nor while one continues."""
    assert not registry().have_all_ended
    units = ramp_population(4).units
    two = registry(4, a=Population(units[:2]), b=Population(units[2:]))
    two.end(StreamEnd("a", RUN, 0, 0))
    assert not two.have_all_ended


def test_silent_stream_turns_blind_once_and_comes_back():
    """Blind after the timeout, reported once, live again with its next batch; ended never."""
    units = ramp_population(4).units
    two = registry(4, a=Population(units[:2]), b=Population(units[2:]))
    two.end(StreamEnd("b", RUN, 0, 0))
    two.accept(batch(0, stream="a", host_ns=100))
    assert two.newly_silent(host_ns=150, timeout_ns=50) == {}
    assert two.newly_silent(host_ns=151, timeout_ns=50) == {"a": StreamState.BLIND}
    assert two.newly_silent(host_ns=999, timeout_ns=50) == {}
    assert two.accept(batch(1, stream="a", host_ns=1000)).came_back
    assert two.streams["a"].state is StreamState.LIVE
    assert two.newly_silent(host_ns=1051, timeout_ns=50) == {"a": StreamState.BLIND}


def test_stream_that_sends_only_nonsense_is_set_aside():
    """Times from anywhere are never confirmed: after the timeout it is aside, then blind."""
    one = registry(4, probeA=ramp_population(4))
    one.accept(batch(0, host_ns=1))
    for seq in range(1, 30):
        start_ns = seq**4 * 10**10
        far = replace(batch(seq, host_ns=seq), start_ns=start_ns, stop_ns=start_ns + 10)
        assert not one.accept(far).batches
    assert one.newly_silent(host_ns=30, timeout_ns=20) == {"probeA": StreamState.ASIDE}
    assert one.newly_silent(host_ns=31, timeout_ns=20) == {}
    assert one.newly_silent(host_ns=50, timeout_ns=20) == {"probeA": StreamState.BLIND}
    assert one.clocks.n_dropped == 29


def test_second_source_of_a_name_is_refused_while_the_first_lives():
    """A hello over another connection waits until the stream is blind; then it is a restart."""
    one = registry(4, probeA=ramp_population(4))
    second = hello_of(ramp_population(4), run=OTHER_RUN)
    assert one.is_taken("probeA", OTHER_RUN, connection=1, host_ns=7)
    assert one.accept(batch(0)).batches
    assert one.accept(batch(5, run=OTHER_RUN, host_ns=8)).dropped == "taken"
    assert one.streams["probeA"].rival_host_ns == 8
    one.newly_silent(host_ns=100, timeout_ns=50)
    assert not one.is_taken("probeA", OTHER_RUN, connection=1, host_ns=101)
    assert one.register(second, host_ns=101, connection=1)
    assert one.is_taken("probeA", RUN, connection=0, host_ns=102)  # now that one is the second


def test_two_sources_of_a_name_on_one_connection_are_told_apart():
    """Behind a proxy: the first one sends on after the second one's hello, and is back."""
    one = registry(4, probeA=ramp_population(4))
    one.accept(batch(0))
    assert not one.is_taken("probeA", OTHER_RUN, connection=0, host_ns=0)  # it may be a restart
    assert one.register(hello_of(ramp_population(4), run=OTHER_RUN), host_ns=0)
    assert one.accept(batch(0, run=OTHER_RUN)).batches
    dropped = [one.accept(batch(seq)).dropped for seq in (1, 2, 3, 4)]
    assert dropped == ["no_hello", "no_hello", "no_hello", ""]
    assert one.accept(batch(1, run=OTHER_RUN)).dropped == "taken"
    assert one.is_taken("probeA", OTHER_RUN, connection=0, host_ns=0)


def test_hello_of_a_replaced_run_gives_its_stream_back():
    """The first source's own repeated hello shows that it lives."""
    one = registry(4, probeA=ramp_population(4))
    one.register(hello_of(ramp_population(4), run=OTHER_RUN), host_ns=0)
    assert not one.is_taken("probeA", RUN, connection=0, host_ns=5)
    assert one.streams["probeA"].hello.run == RUN
    assert one.streams["probeA"].rival_run == OTHER_RUN


def state_of(one: StreamRegistry) -> list[object]:
    streams = one.streams.values()
    counted = [(s.next_seq, s.n_lost, s.state, s.last_in_step_host_ns) for s in streams]
    return [counted, one.clocks._clocks, one.clocks.n_dropped]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from([0, 0, 0, 0, 1, -1]),  # numbers left out
            st.sampled_from([0, 0, 0, 0, 5, -5, 2 * NS_PER_S, 10**13]),  # a jump in time
        ),
        max_size=100,
    )
)
def test_usual_batches_are_accepted_alike(steps):
    """`take_usual` accepts what `accept` would, and leaves the same behind."""
    units = ramp_population(4).units
    tables = {"a": Population(units[:2]), "b": Population(units[2:])}
    plain, quick = registry(4, **tables), registry(4, **tables)
    seqs, starts_ns = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0)
    for n, (name, n_left_out, jump_ns) in enumerate(steps):
        seq, start_ns = max(0, seqs[name] + n_left_out), starts_ns[name] + jump_ns
        seqs[name], starts_ns[name] = seq + 1, start_ns + 10_000_000
        empty = batch(seq, stream=name, host_ns=n)
        sent = replace(empty, start_ns=start_ns, stop_ns=starts_ns[name])
        expected = plain.accept(sent)
        usual = quick.take_usual(sent)
        accepted = quick.accept(sent) if usual is None else Accepted(batches=(usual,))
        assert [one.seq for one in accepted.batches] == [one.seq for one in expected.batches]
        assert replace(accepted, batches=()) == replace(expected, batches=())
        assert state_of(plain) == state_of(quick)
