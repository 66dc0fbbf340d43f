"""Messages become batches: nothing is stated of time in which something may be missing."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import UserError
from contracts.spikes import Mark, SpikeBatch
from stream_sources.rigs.open_ephys.acquisition import Acquisition
from stream_sources.rigs.open_ephys.plugin_format import (
    DataBlock,
    OtherMessage,
    PluginMessage,
    SortedSpike,
    TtlEdge,
)

RATE_HZ = 30_000.0
BLOCK = 600  # 20 ms
MS_NS = 1_000_000
UNIT = ("E1", 1)


class Gui:
    """Numbers messages as the plugin does."""

    def __init__(self, **options: object) -> None:
        self.acquisition = Acquisition({UNIT: 0}, stream="rig", **options)  # type: ignore[arg-type]
        self.number = 0
        self.sent: list[SpikeBatch | Mark] = []

    def send(self, message: PluginMessage) -> None:
        """Send one under the next number."""
        self.number += 1
        self.sent += self.acquisition.add(message._replace(number=self.number))

    def block(self, index: int, *spikes: int, stream: str = "AP", rate_hz: float = RATE_HZ) -> None:
        """Send spikes, then the data of a block."""
        for sample in spikes:
            self.spike(sample)
        self.send(DataBlock(0, stream, index * BLOCK, BLOCK, rate_hz))

    def spike(self, sample: int, *, electrode: str = "E1", sorted_id: int = 1) -> None:
        """Send one spike."""
        self.send(SortedSpike(0, "AP", electrode, sample, sorted_id))

    @property
    def batches(self) -> list[SpikeBatch]:
        """What was sent as batches."""
        return [one for one in self.sent if isinstance(one, SpikeBatch)]

    @property
    def spans_ms(self) -> list[tuple[float, float]]:
        """Of runs of batches that touch."""
        spans: list[tuple[float, float]] = []
        for batch in self.batches:
            start, stop = batch.start_ns / MS_NS, batch.stop_ns / MS_NS
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], stop)
            else:
                spans.append((start, stop))
        return spans

    def counts(self, *names: str) -> tuple[int, ...]:
        """Return some counters."""
        return tuple(asdict(self.acquisition.counters)[name] for name in names)


def test_blocks_are_the_clock_and_empty_ones_too():
    """Time is covered up to 5 ms before the end of the newest block, with or without spikes."""
    gui = Gui()
    for index in range(3):
        gui.block(index, *([100] if index == 0 else []))
    assert gui.spans_ms == [(0, 55)]
    assert [batch.n_spikes for batch in gui.batches] == [1, 0, 0]
    assert gui.batches[0].spike_time_ns.tolist() == [round(100 * 1e9 / RATE_HZ)]
    assert [batch.seq for batch in gui.batches] == [0, 1, 2]


def test_spike_that_comes_a_block_later_is_in_time():
    """The detector sends what peaks at the end of a block with the next one."""
    gui = Gui()
    gui.block(0)
    gui.block(1, BLOCK - 10)
    assert sum(batch.n_spikes for batch in gui.batches) == 1
    gui.block(2, 30)
    assert gui.counts("n_sent", "n_late", "n_received") == (1, 1, 2)


def test_other_channels_of_a_block_change_nothing():
    """A message for each channel is one block."""
    gui = Gui()
    for index in range(3):
        for _ in range(4):
            gui.block(index)
    assert len(gui.batches) == 3


def test_time_in_which_messages_were_lost_is_not_covered():
    """From what was covered to the end of the first block after the hole."""
    gui = Gui()
    gui.block(0)
    gui.number += 3
    gui.block(1, BLOCK + 5)
    gui.block(2, BLOCK - 5)
    gui.block(3)
    assert gui.spans_ms == [(0, 15), (40, 75)]
    names = ("n_messages_lost", "n_gaps", "n_in_gaps", "n_sent", "n_runs")
    assert gui.counts(*names) == (3, 1, 2, 0, 1)
    assert gui.acquisition.counters.gap_s == pytest.approx(0.025)


def test_lost_data_of_other_channels_are_no_gap():
    """Between two messages of one block there are no spikes."""
    gui = Gui()
    gui.block(0)
    gui.number += 3
    gui.block(0)
    gui.block(1)
    assert gui.spans_ms == [(0, 35)]
    assert gui.counts("n_messages_lost", "n_gaps") == (3, 0)


def test_joining_in_the_middle_states_nothing_of_the_first_block():
    """Its first spikes may have been sent before."""
    gui = Gui()
    gui.number = 500
    gui.block(10, 10 * BLOCK + 3)
    gui.block(11)
    assert gui.spans_ms == [(220, 235)]
    assert gui.counts("n_in_gaps", "n_messages_lost") == (1, 0)


def test_a_restart_of_the_acquisition_is_a_new_run():
    """Message 1 again: the old run is finished, and the new one begins at its own zero."""
    gui = Gui()
    gui.block(50)
    gui.block(51)
    gui.number = 0
    gui.block(0)
    runs = [batch.run for batch in gui.batches]
    assert gui.spans_ms == [(1000, 1040), (0, 15)]
    assert len(set(runs)) == 2
    assert [batch.seq for batch in gui.batches if batch.run == runs[-1]] == [0]
    assert gui.acquisition.run == runs[-1]


def test_sample_numbers_that_go_back_are_a_new_run():
    """A clock that was set back; no message was lost."""
    gui = Gui()
    gui.block(50)
    gui.block(2)
    assert gui.spans_ms == [(1000, 1020), (40, 55)]
    assert gui.counts("n_runs", "n_gaps") == (2, 0)


def test_samples_that_the_acquisition_skipped_are_a_gap():
    """What came before them is complete."""
    gui = Gui()
    gui.block(0)
    gui.block(3, BLOCK - 5)
    assert gui.spans_ms == [(0, 20), (60, 75)]
    assert gui.counts("n_gaps", "n_sent") == (1, 1)


def test_a_long_gap_is_a_new_run():
    """The daemon bridges up to a second within a run."""
    gui = Gui()
    gui.block(0)
    gui.block(100)
    assert gui.counts("n_runs", "n_gaps") == (2, 1)
    assert gui.batches[0].run != gui.batches[-1].run


def test_long_blocks_are_cut():
    """A batch may span a second."""
    gui = Gui()
    gui.send(DataBlock(0, "AP", 0, 90_000, RATE_HZ))
    assert gui.spans_ms == [(0, 2995)]
    assert max(batch.stop_ns - batch.start_ns for batch in gui.batches) == 500 * MS_NS


def test_unsorted_and_unknown_spikes_are_counted_by_name():
    """Neither is sent as some unit."""
    gui = Gui()
    gui.spike(5, sorted_id=0)
    gui.spike(6, sorted_id=2)
    gui.spike(7, electrode="E2")
    gui.block(0)
    assert gui.counts("n_received", "n_unsorted", "n_not_in_table", "n_sent") == (3, 1, 2, 0)
    assert gui.acquisition.unknown_units == {("E1", 2): 1, ("E2", 1): 1}


def test_another_stream_is_passed_over():
    """The first stream is followed unless one is named."""
    gui = Gui(gui_stream="AP")
    gui.block(0, stream="LFP", rate_hz=2500.0)
    gui.block(0)
    assert len(gui.batches) == 1
    assert gui.counts("n_messages_other_stream") == (1,)
    assert gui.acquisition.other_streams == {"LFP"}


def test_a_pulse_of_a_ttl_line_is_a_mark():
    """From its rise to its fall; what was high before is no pulse."""
    gui = Gui()
    gui.block(0)
    gui.send(TtlEdge(0, "AP", 610, 0, is_high=False))
    gui.send(TtlEdge(0, "AP", 630, 0, is_high=True))
    gui.send(TtlEdge(0, "AP", 660, 4, is_high=True))
    gui.send(TtlEdge(0, "AP", 690, 0, is_high=False))
    marks = [one for one in gui.sent if isinstance(one, Mark)]
    assert [(m.start_ns, m.stop_ns, m.stimulus) for m in marks] == [
        (21 * MS_NS, 23 * MS_NS, "TTL line 1")
    ]


def test_a_pulse_with_lost_messages_in_it_is_no_mark():
    """Its end may be that of another pulse."""
    gui = Gui()
    gui.block(0)
    gui.send(TtlEdge(0, "AP", 630, 0, is_high=True))
    gui.number += 2
    gui.send(TtlEdge(0, "AP", 690, 0, is_high=False))
    assert gui.counts("n_marks") == (0,)


@pytest.mark.parametrize("rate_hz", [2500.0, 0.5, 1e9])
def test_a_wrong_sampling_rate_is_the_users_error(rate_hz: float):
    """An LFP stream, say."""
    gui = Gui(rate_hz=RATE_HZ)
    with pytest.raises(UserError, match="must have 30000 samples per second"):
        gui.block(0, rate_hz=rate_hz)


def test_a_version_without_a_rate_needs_one():
    """Plugins of the first years did not send it."""
    with pytest.raises(UserError, match="give --sampling-rate-hz"):
        Gui().send(DataBlock(0, "", 0, BLOCK, None))
    gui = Gui(rate_hz=RATE_HZ)
    gui.send(DataBlock(0, "", 0, BLOCK, None))
    assert gui.spans_ms == [(0, 15)]


def test_a_stop_covers_the_newest_block():
    """Once nothing more comes, nothing more can belong to it."""
    gui = Gui()
    gui.block(0, BLOCK - 3)
    gui.sent += gui.acquisition.flush()
    assert gui.spans_ms == [(0, 20)]
    assert gui.counts("n_sent") == (1,)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["spike", "block", "channel", "lose", "restart", "other", "jump"])),
    st.randoms(use_true_random=False),
)
def test_every_spike_is_sent_or_counted(steps: list[str], random):
    """In any order of events, and batches of a run never go back or overlap."""
    gui, index = Gui(), 0
    for step in steps:
        match step:
            case "spike":
                gui.spike(index * BLOCK + random.randrange(-200, BLOCK), sorted_id=1)
            case "block":
                gui.block(index)
                index += 1
            case "channel":
                gui.block(max(0, index - 1))
            case "lose":
                gui.number += random.randrange(1, 9)
            case "restart":
                gui.number, index = 0, random.randrange(100)
            case "jump":
                index += random.randrange(100)
            case "other":
                gui.send(OtherMessage(0))
    pending = len(gui.acquisition._pending)
    received, *rest = gui.counts("n_received", "n_sent", "n_late", "n_in_gaps")
    assert received == sum(rest) + pending
    for _, run in itertools.groupby(gui.batches, lambda batch: batch.run):
        batches = list(run)
        assert [batch.seq for batch in batches] == list(range(len(batches)))
        assert all(a.stop_ns <= b.start_ns for a, b in itertools.pairwise(batches))
