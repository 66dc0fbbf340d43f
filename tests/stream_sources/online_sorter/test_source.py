"""Voltages become batches: equal to the offline run, and with nothing stated of what is missing."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.clock import NS_PER_S
from contracts.errors import UserError
from contracts.spikes import Mark
from stream_sources.online_sorter.causal_filter import CausalFilter
from stream_sources.online_sorter.matching import METHODS, matching_node
from stream_sources.online_sorter.sorter_metrics import SORTER_COUNTERS
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.rigs.voltages import ProbeLayout, VoltageChunk
from tests.support.ground_truth import ground_truth
from tests.support.listed_voltages import ListedVoltages, cut
from tests.support.manual_clock import ManualClock

RATE_HZ = 30_000.0
BLOCK = 3_000
N_SAMPLES = 40_000
"""More than a second, and no whole number of blocks."""


@pytest.fixture(scope="module")
def voltages():
    """Return raw samples, microvolts."""
    return ground_truth().recording.get_traces(end_frame=N_SAMPLES, return_in_uV=True)


def sorter(items, *, method="nearest", clock=None, when_behind="wait"):
    """Return a source of these items."""
    templates = ground_truth().templates
    options = SorterOptions(method=method, when_behind=when_behind)
    return OnlineSorterSource(
        ListedVoltages(templates.layout, items), templates, options, clock=clock
    )


def messages_of(items, **how):
    """Return everything that a source sends, without the Nones, and the source."""
    source = sorter(items, **how)
    sent = [message for message in source.messages() if message is not None]
    source.close()
    return sent, source


def spikes_of(batches):
    """Return (sample, unit) of each spike, in order."""
    pairs = [
        (round(time_ns * RATE_HZ / NS_PER_S), unit)
        for batch in batches
        for time_ns, unit in zip(
            batch.spike_time_ns.tolist(), batch.unit_index.tolist(), strict=True
        )
    ]
    return sorted(pairs)


@pytest.fixture(scope="module")
def offline(voltages):
    """Return the spikes of each method's offline run on the whole, filtered as online."""
    from spikeinterface.core import NumpyRecording
    from spikeinterface.core.node_pipeline import run_node_pipeline
    from spikeinterface.sortingcomponents.matching import find_spikes_from_templates

    templates = ground_truth().templates
    filtered = CausalFilter(templates.preprocessing, RATE_HZ).apply(voltages)
    recording = NumpyRecording([filtered], RATE_HZ)
    recording.set_probe(ground_truth().recording.get_probe())
    job = {"n_jobs": 1, "chunk_size": BLOCK, "progress_bar": False}
    found = {}
    for method in METHODS:
        if method == "tdc-peeler":  # its own threshold is set by random chunks of the recording
            spikes = run_node_pipeline(recording, [matching_node(templates, method)], job)
        else:
            spikes = find_spikes_from_templates(
                recording,
                templates.spikeinterface_templates(),
                method=method,
                method_kwargs={"noise_levels": templates.noise_uv} if method == "nearest" else {},
                job_kwargs=job,
            )
        spikes = spikes[spikes["cluster_index"] >= 0]
        pairs = zip(spikes["sample_index"].tolist(), spikes["cluster_index"].tolist(), strict=True)
        found[method] = sorted(pairs)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_any_cutting_gives_the_spikes_of_the_offline_run(method, voltages, offline):
    """Spike for spike, for chunks of one sample up to chunks longer than blocks."""
    assert len(offline[method]) > 100

    @settings(
        deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(lengths=st.lists(st.integers(1, 9_000), min_size=1, max_size=8))
    def any_cutting(lengths):
        if sum(lengths) / len(lengths) < 40:  # a thousand chunks are enough
            lengths = [*lengths, 5_000]
        batches, source = messages_of(cut(voltages, lengths), method=method)
        assert spikes_of(batches) == offline[method]
        assert source.counters.n_spikes == len(offline[method])

    any_cutting()


@pytest.mark.parametrize("method", METHODS)
def test_most_true_spikes_are_found(method, voltages):
    """Spikes are of the right units: most of the truth has one within 0.4 ms."""
    batches, _ = messages_of(cut(voltages, [3_000]), method=method)
    found = spikes_of(batches)
    truth = ground_truth().sorting.to_spike_vector()
    truth = truth[truth["sample_index"] < N_SAMPLES - 100]
    n_found = 0
    for sample, unit in zip(truth["sample_index"], truth["unit_index"], strict=True):
        n_found += any(abs(at - sample) <= 12 and row == unit for at, row in found)
    assert n_found / len(truth) > 0.7


def test_batches_cover_all_time_on_the_grid(voltages):
    """Batches touch, in order, and end with the last sample; the stream and the run are ours."""
    batches, source = messages_of(cut(voltages, [777]))
    edges = [0, *(batch.stop_ns for batch in batches)]
    assert [batch.start_ns for batch in batches] == edges[:-1]
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    assert edges[1:-1] == [round(k * 0.1 * NS_PER_S) for k in range(1, N_SAMPLES // BLOCK + 1)]
    assert edges[-1] == round(N_SAMPLES / RATE_HZ * NS_PER_S)
    assert {(batch.stream, batch.run) for batch in batches} == {("sorter", source.run)}


def test_missing_samples_are_not_covered(voltages):
    """A hole is left out of all batches, counted, and the filter begins anew after it."""
    run = "0" * 16
    before = cut(voltages[:10_000], [1_000], run=run)
    after = cut(voltages[16_000:30_000], [1_000], run=run, first=16_000)
    batches, source = messages_of([*before, *after])
    covered = [(batch.start_ns, batch.stop_ns) for batch in batches]
    (gap,) = [(stop, start) for (_, stop), (start, _) in pairwise(covered) if stop != start]
    assert gap == (round(10_000 / RATE_HZ * NS_PER_S), round(16_000 / RATE_HZ * NS_PER_S))
    assert (source.counters.n_gaps, source.counters.n_runs) == (1, 1)
    assert source.counters.gap_s == pytest.approx(0.2)
    alone, _ = messages_of(cut(voltages[16_000:30_000], [5_000], first=16_000))
    assert spikes_of(b for b in batches if b.start_ns >= gap[1]) == spikes_of(alone)


def test_a_long_hole_begins_a_run(voltages):
    """Beyond the second that a daemon bridges, the time goes on in a new run."""
    run = "1" * 16
    late = 6_000 + int(RATE_HZ)
    items = [
        *cut(voltages[:6_000], [6_000], run=run),
        *cut(voltages[:9_000], [9_000], run=run, first=late),
    ]
    batches, source = messages_of(items)
    runs = list(dict.fromkeys(batch.run for batch in batches))
    assert len(runs) == 2
    assert next(batch.seq for batch in batches if batch.run == runs[1]) == 0
    assert source.counters.n_runs == 2


@pytest.mark.parametrize("second_run", ["2" * 16, "3" * 16])
def test_a_new_start_of_the_voltages_is_a_new_run(voltages, second_run):
    """Another run, or sample numbers that go back, begin at their own sample 0."""
    items = [
        *cut(voltages[:9_000], [2_500], run="2" * 16),
        *cut(voltages[:9_000], [2_500], run=second_run),
    ]
    batches, source = messages_of(items)
    first, second = (
        [batch for batch in batches if batch.run == run]
        for run in dict.fromkeys(batch.run for batch in batches)
    )
    assert spikes_of(first) == spikes_of(second) != []
    assert [batch.start_ns for batch in first] == [batch.start_ns for batch in second]
    assert source.counters.n_runs == 2
    assert source.run == second[0].run


def test_marks_get_our_stream_and_run(voltages):
    """A mark keeps its time and its stimulus."""
    run = "4" * 16
    mark = Mark("", run, 5, 9, "sync", 3)
    sent, source = messages_of([*cut(voltages[:3_000], [3_000], run=run), mark])
    (got,) = [message for message in sent if isinstance(message, Mark)]
    assert got == Mark("sorter", source.run, 5, 9, "sync", 3)
    assert source.counters.n_marks == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e6])
def test_voltages_that_cannot_be_are_a_gap(voltages, value):
    """They would stay in the filter for ever: the chunk is left out, and the rest is sorted."""
    chunks = cut(voltages[:12_000], [3_000], run="5" * 16)
    broken = chunks[1].voltages_uv.copy()
    broken[7, 3] = value
    chunks[1] = VoltageChunk(chunks[1].run, chunks[1].first_sample, broken)
    batches, source = messages_of(chunks)
    assert (source.counters.n_chunks_refused, source.counters.n_gaps) == (1, 1)
    assert source.counters.gap_s == pytest.approx(0.1)
    assert all(np.isfinite(batch.spike_time_ns).all() for batch in batches)
    assert batches[-1].stop_ns == round(0.4 * NS_PER_S)


def at_pace(items, clock):
    """Yield items of 100 ms at the pace of a probe."""
    for item in items:
        yield item
        clock.sleep_ns(NS_PER_S // 10)


def test_refused_voltages_are_logged_with_their_channels(voltages, caplog):
    """At the first, the second, the fourth, ...: a source that is stuck on NaN is not silent."""
    chunks = cut(voltages[:9_000], [1_000], run="7" * 16)
    stuck = []
    for chunk in chunks:
        broken = chunk.voltages_uv.copy()
        broken[:, 3] = np.nan
        stuck.append(VoltageChunk(chunk.run, chunk.first_sample, broken))
    with caplog.at_level(logging.WARNING):
        batches, source = messages_of(stuck)
    assert batches == []
    refused = [record for record in caplog.records if record.message.startswith("voltages refused")]
    assert [record.n for record in refused] == [1, 2, 4, 8]
    assert refused[0].why.endswith(f"on {ground_truth().templates.layout.channel_ids[3]}")
    assert source.counters.n_chunks_refused == 9
    (metric,) = [m for m in SORTER_COUNTERS if m.name == "chunks_refused"]
    assert metric.value(source) == 9


def test_refused_voltages_are_not_waited_for(voltages):
    """They have come, so that the sorter is not behind by them."""
    clock = ManualClock()
    chunks = cut(voltages[:12_000], [3_000], run="8" * 16)
    broken = [VoltageChunk(c.run, c.first_sample, c.voltages_uv * np.nan) for c in chunks[1:]]
    source = sorter(at_pace([chunks[0], *broken], clock), clock=clock)
    assert len([one for one in source.messages() if one is not None]) > 0
    assert source.load.behind_s < 0.2
    source.close()


def test_sample_numbers_that_go_back_do_not_count_as_behind(voltages):
    """Time begins anew with them."""
    run, late = "9" * 16, round(600 * RATE_HZ)
    before = cut(voltages[:6_000], [3_000], run=run, first=late)
    _, source = messages_of([*before, *cut(voltages[:6_000], [3_000], run=run)])
    assert source.counters.n_runs == 2
    assert source.load.max_behind_s < 60


class SlowVoltages(ListedVoltages):
    """Chunks of 100 ms, between which the clock goes on for longer: the sorter is too slow."""

    def __init__(self, layout, items, clock, took_s):
        super().__init__(layout, items)
        self._clock, self._took_s = clock, took_s

    def chunks(self):
        yield None
        for item in super().chunks():
            if item is not None:
                self._clock.sleep_ns(round(self._took_s * NS_PER_S))
            yield item


def sort_slowly(voltages, when_behind, *, method="nearest", took_s=0.3):
    """Sort 100 ms chunks that each take longer; after the tenth nothing waits."""
    templates, clock = ground_truth().templates, ManualClock()
    chunks = cut(voltages[:36_000], [BLOCK], run="6" * 16)
    items = [*chunks[:10], None, *chunks[10:]]
    source = OnlineSorterSource(
        SlowVoltages(templates.layout, items, clock, took_s),
        templates,
        SorterOptions(method=method, when_behind=when_behind),
        clock=clock,
    )
    batches = [message for message in source.messages() if message is not None]
    source.close()
    return batches, source


def test_waiting_loses_nothing(voltages, caplog):
    """The sorter says that it falls behind and that it has caught up, and sorts everything."""
    with caplog.at_level(logging.WARNING):
        batches, source = sort_slowly(voltages, "wait")
    expected, _ = messages_of(cut(voltages[:36_000], [BLOCK]))
    assert spikes_of(batches) == spikes_of(expected)
    notices = [record.message for record in caplog.records if "sorter" in record.message]
    assert notices == ["the sorter falls behind", "the sorter has caught up"]
    assert source.load.max_behind_s == pytest.approx(2.0)
    assert source.load.behind_s < 0.7


def test_skipped_blocks_are_not_covered(voltages):
    """Blocks are skipped while the sorter is behind, in gaps that a run survives."""
    batches, source = sort_slowly(voltages, "drop")
    counters = source.counters
    assert counters.n_blocks_skipped > 3
    assert counters.n_blocks + counters.n_blocks_skipped == 12
    assert counters.n_runs == 1
    covered_s = sum(batch.stop_ns - batch.start_ns for batch in batches) / NS_PER_S
    assert covered_s + counters.gap_s == pytest.approx(1.2)
    assert counters.gap_s == pytest.approx(0.1 * counters.n_blocks_skipped)
    everything, _ = messages_of(cut(voltages[:36_000], [BLOCK]))
    starts = {batch.start_ns for batch in batches}
    assert spikes_of(batches) == spikes_of(b for b in everything if b.start_ns in starts)


def test_the_cheapest_method_is_counted(voltages):
    """While it is behind, blocks are matched by nearest; all time is covered."""
    batches, source = sort_slowly(voltages, "nearest", method="tdc-peeler")
    by_nearest, _ = messages_of(cut(voltages[:36_000], [BLOCK]), method="nearest")
    by_tdc, _ = messages_of(cut(voltages[:36_000], [BLOCK]), method="tdc-peeler")
    n_nearest = source.counters.n_blocks_nearest
    assert 3 < n_nearest < 12
    assert source.counters.n_gaps == 0
    same_as = [
        (
            np.array_equal(ours.unit_index, cheap.unit_index),
            np.array_equal(ours.unit_index, full.unit_index),
        )
        for ours, cheap, full in zip(batches, by_nearest, by_tdc, strict=True)
    ]
    assert sum(cheap for cheap, _ in same_as) >= n_nearest
    assert sum(full for _, full in same_as) >= len(batches) - n_nearest


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (SorterOptions(method="kilosort"), "--method must be one of nearest, tdc-peeler"),
        (SorterOptions(block_ms=5), "--block-ms must be from 10 to 500, got 5"),
        (SorterOptions(when_behind="hope"), "--when-behind must be one of wait, nearest, drop"),
        (SorterOptions(method="nearest", when_behind="nearest"), "nearest is the cheapest"),
        (SorterOptions(when_behind="drop", speed=None), "needs a pace"),
        (SorterOptions(stream="a b"), "--stream must be"),
    ],
)
def test_options_that_cannot_be_are_refused(options, found):
    """Each says what can be."""
    templates = ground_truth().templates
    with pytest.raises(UserError, match=found):
        OnlineSorterSource(ListedVoltages(templates.layout, []), templates, options)


def test_templates_of_another_probe_are_refused():
    """Nothing is sorted by templates that were made elsewhere."""
    templates = ground_truth().templates
    other = ProbeLayout(templates.layout.channel_ids, templates.layout.positions_um[::-1])
    with pytest.raises(UserError, match="elsewhere on the probe"):
        OnlineSorterSource(ListedVoltages(other, []), templates)
    with pytest.raises(UserError, match="samples per second"):
        OnlineSorterSource(ListedVoltages(templates.layout, [], rate_hz=32_000.0), templates)


def test_a_source_without_voltages_sends_nothing():
    """No batch states time that was never recorded."""
    sent, source = messages_of([None, None])
    assert sent == []
    assert source.counters.n_blocks == 0
