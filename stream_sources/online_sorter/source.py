"""The online sorter as a source: voltages in, spikes of the templates' units out.

Theory of operation
-------------------
Chunks of any length are filtered as they come. Blocks on a fixed grid wait for their margin, are
matched, and become batches. So the spikes depend on the voltages alone, unless the sorter falls
behind and was told to save time.

Samples that are missing end the interval: what came before is sorted to its end, the filter begins
anew, and the time between is not covered, so that the daemon marks it as a gap. A new run of the
voltages, or a gap of more than `MAX_HOLE_S`, is a new run of ours.

Invariants (``tests/stream_sources/online_sorter/test_source.py``):

1. Any cutting into chunks gives the same spikes, and these are what the method finds offline:
   ``test_any_cutting_gives_the_spikes_of_the_offline_run``
2. No batch states time of which the voltages are missing, or that was skipped:
   ``test_missing_samples_are_not_covered``, ``test_skipped_blocks_are_not_covered``
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from contracts.clock import Clock, HostClock
from contracts.errors import UserError, listed
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch
from stream_sources.live import MAX_HOLE_S
from stream_sources.online_sorter.blocks import BlockCutter, VoltageBlock
from stream_sources.online_sorter.causal_filter import CausalFilter
from stream_sources.online_sorter.match_pool import MatchPool, automatic_workers
from stream_sources.online_sorter.matching import (
    CHEAPEST,
    DEFAULT_METHOD,
    FoundSpikes,
    check_method,
)
from stream_sources.online_sorter.sorter_load import BEHIND_S, SorterLoad, check_when_behind
from stream_sources.online_sorter.templates import SorterTemplates
from stream_sources.online_sorter.unit_tracking import UnitTracker
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.voltages import VoltageChunk, VoltageSource
from stream_sources.source import check_stream_name, new_run

logger = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
"""Of sorted time."""

MAX_UV = 1e6
"""Beyond a volt, or NaN, is no voltage of a probe: amplifiers end at some millivolts."""

BLOCK_MS = (10.0, 500.0)
"""Shorter blocks are mostly margin; longer ones would be half of the span of a batch or more."""


MAX_WORKERS = 64
"""Each takes some 500 MB."""


@dataclass(frozen=True, slots=True)
class SorterOptions:
    """How to sort.

    Attributes
    ----------
    stream : str
        Name of our stream.
    method : str
        One of `matching.METHODS`.
    block_ms : float
        Length of a block: the latency, and in reverse the cost of the margins.
    when_behind : str
        One of `sorter_load.WHEN_BEHIND`.
    speed : float or None
        Recorded seconds per second of the voltages; None where they wait for us.
    n_workers : int
        Blocks that are matched at the same time; 0 takes `match_pool.automatic_workers`.
    """

    stream: str = "sorter"
    method: str = DEFAULT_METHOD
    block_ms: float = 100.0
    when_behind: str = "wait"
    speed: float | None = 1.0
    n_workers: int = 0

    def check(self) -> None:
        """Refuse what cannot be.

        Raises
        ------
        UserError
            With what can.
        """
        check_method(self.method)
        check_when_behind(self.when_behind, self.method, self.speed)
        check_stream_name(self.stream)
        shortest, longest = BLOCK_MS
        if not shortest <= self.block_ms <= longest:
            raise UserError(
                f"--block-ms must be from {shortest:g} to {longest:g}, got {self.block_ms:g}."
            )
        if not 0 <= self.n_workers <= MAX_WORKERS:
            raise UserError(f"--workers must be from 0 to {MAX_WORKERS}, got {self.n_workers}.")


@dataclass(slots=True)
class SorterCounters:
    """What was sorted, over all runs."""

    n_runs: int = 1
    n_chunks: int = 0
    n_chunks_refused: int = 0  # with what is no voltage: left out, as a gap
    n_blocks: int = 0
    n_blocks_nearest: int = 0  # matched by the cheapest method, as the sorter was behind
    n_blocks_skipped: int = 0
    n_gaps: int = 0
    gap_s: float = 0.0
    n_spikes: int = 0
    n_unassigned: int = 0  # peaks of no unit
    n_marks: int = 0


@dataclass(slots=True)
class _SortedRun:
    """One run of ours."""

    run: str
    voltages: str  # the run that the chunks belong to; empty before the first
    seq: int = 0
    covered: int | None = None  # sample; None before the first


class OnlineSorterSource:
    """Sorts one probe; a `stream_sources.live.LiveSource`.

    Parameters
    ----------
    voltages : VoltageSource
        Closed with this source.

    Raises
    ------
    UserError
        If an option is not allowed, or the templates are of other voltages. The voltages are then
        left open.
    """

    def __init__(
        self,
        voltages: VoltageSource,
        templates: SorterTemplates,
        options: SorterOptions | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.options = options or SorterOptions()
        self.options.check()
        templates.check_fit(voltages.rate_hz, voltages.layout, label=voltages.label)
        self.stream = self.options.stream
        self.label = f"sorter:{voltages.label}"
        self.population: Population = templates.population
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = None
        self.session_start_utc = voltages.session_start_utc
        self.table = f"templates of {templates.origin}, sorted online by {self.options.method}"
        self.counters = SorterCounters()
        self.load = SorterLoad(clock or HostClock(), self.options.speed)
        self.units = UnitTracker(templates)
        self._voltages = voltages
        self._rate_hz, self._channel_ids = voltages.rate_hz, voltages.layout.channel_ids
        self._filter = CausalFilter(templates.preprocessing, templates.rate_hz)
        methods = {self.options.method, CHEAPEST}
        if self.options.when_behind != CHEAPEST:
            methods = {self.options.method}
        self._pool = MatchPool(
            templates,
            tuple(sorted(methods)),
            n_workers=self.options.n_workers or automatic_workers(templates.n_channels),
        )
        # Of the templates' nominal rate, so that a calibration is cut at the same samples.
        block = max(1, round(self.options.block_ms / 1e3 * templates.rate_hz))
        self._cutter = BlockCutter(block, self._pool.margin, templates.n_channels)
        self._run = _SortedRun(new_run(), "")
        self._is_behind = False
        self._skipped_s = 0.0  # in a row
        self._filter_s = 0.0  # time that it took since the last block
        self._logged_s = 0.0

    @property
    def run(self) -> str:
        """Name of the run, new where the voltages begin anew."""
        return self._run.run

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield batches and marks as they come, and None while there are no voltages."""
        for item in self._voltages.chunks():
            yield from self._matched()
            if item is None:
                self._catch_up()
                yield None
                continue
            if item.run != self._run.voltages:
                yield from self._follow(item.run)
            if isinstance(item, Mark):
                self.counters.n_marks += 1
                yield replace(item, stream=self.stream, run=self.run)
            else:
                yield from self._take(item)
        yield from self._sort_rest()

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (one for one in self.messages() if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield nothing: marks come among `messages`."""
        return iter(())

    def close(self) -> None:
        """Release the voltages, the processes and what the methods hold; `messages` ends."""
        self._voltages.close()
        self._pool.close()

    def _follow(self, voltages_run: str) -> Iterator[SpikeBatch]:
        """Go over to another run of the voltages."""
        if not self._run.voltages:  # the first one: our hello has our name already
            self._run.voltages = voltages_run
            return
        yield from self._sort_rest()
        self._begin_run(voltages_run, "the voltages began anew")
        self.load.restart()

    def _take(self, chunk: VoltageChunk) -> Iterator[SpikeBatch]:
        self.counters.n_chunks += 1
        if not np.abs(chunk.voltages_uv).max(initial=0.0) <= MAX_UV:
            # It would stay in the filter for ever. What is missing becomes a gap.
            self._refuse(chunk)
            return
        if self._run.covered is None:
            self._begin_at(chunk.first_sample)
        elif chunk.first_sample < self._cutter.stop:
            yield from self._sort_rest()
            self._begin_run(chunk.run, "sample numbers went back")
            self.load.restart()
            self._begin_at(chunk.first_sample)
        elif chunk.first_sample > self._cutter.stop:
            yield from self._sort_rest()
            self._begin_at(chunk.first_sample)
        self.load.take((chunk.first_sample + len(chunk.voltages_uv)) / self._rate_hz)
        started = time.perf_counter()
        filtered = self._filter.apply(chunk.voltages_uv)
        self._filter_s += time.perf_counter() - started
        for block in self._cutter.add(filtered):
            yield from self._sort(block)

    def _refuse(self, chunk: VoltageChunk) -> None:
        """Count a chunk that is not sorted, and say so before anybody waits for spikes."""
        self.counters.n_chunks_refused += 1
        self.load.take((chunk.first_sample + len(chunk.voltages_uv)) / self._rate_hz)
        n = self.counters.n_chunks_refused
        if n.bit_count() == 1:  # the first, second, fourth, ...
            is_wrong = ~(np.abs(chunk.voltages_uv) <= MAX_UV)
            names = [
                self._channel_ids[row] for row in np.flatnonzero(is_wrong.any(axis=0)).tolist()
            ]
            why = f"NaN or more than {MAX_UV / 1e6:g} V on {listed(names)}"
            fields = {"n": n, "first_sample": chunk.first_sample, "run": self.run}
            logger.warning("voltages refused: they are a gap", extra={**fields, "why": why})

    def _begin_at(self, sample: int) -> None:
        self._filter.reset()
        self._cutter.begin(sample)
        if self._run.covered is None:
            self._run.covered = sample
            fields = {"source": self.label, "run": self.run, "first_sample": sample}
            logger.info("sorting begins", extra={**fields, "method": self.options.method})

    def _begin_run(self, voltages_run: str, reason: str) -> None:
        self._run = _SortedRun(new_run(), voltages_run)
        self._skipped_s = 0.0
        self.counters.n_runs += 1
        logger.warning("new run", extra={"reason": reason, "run": self.run})

    def _sort_rest(self) -> Iterator[SpikeBatch]:
        for block in self._cutter.flush():
            yield from self._sort(block)
        yield from self._matched(at_most_pending=0)

    def _sort(self, block: VoltageBlock) -> Iterator[SpikeBatch]:
        """Have the spikes of a block found, unless it is skipped; yield what was found before."""
        duration_s = (block.stop - block.start) / self._rate_hz
        method = self.options.method
        if self._falls_behind():
            if self.options.when_behind == CHEAPEST:
                method = CHEAPEST
                self.counters.n_blocks_nearest += 1
            elif self.options.when_behind == "drop" and self._skipped_s + duration_s < MAX_HOLE_S:
                self._skipped_s += duration_s
                self.counters.n_blocks_skipped += 1
                return
        self._skipped_s = 0.0
        self._pool.submit(block, method)
        yield from self._matched()

    def _matched(self, *, at_most_pending: int | None = None) -> Iterator[SpikeBatch]:
        """Yield the batches of the blocks that are done, in order."""
        for matched in self._pool.take(at_most_pending=at_most_pending):
            block = matched.block
            self._track(block, matched.found)
            self.load.add_block(
                self._work_s(matched.took_s), (block.stop - block.start) / self._rate_hz
            )
            self._filter_s = 0.0
            yield self._batch(block, matched.found)
            self._report()

    def _work_s(self, match_s: float) -> float:
        """Return the time that a block takes from what can be sorted: its share of the workers."""
        n_workers = self._pool.n_workers
        if n_workers == 1:
            return match_s + self._filter_s
        return max(match_s / n_workers, self._filter_s)  # beside each other

    def _batch(self, block: VoltageBlock, found: FoundSpikes) -> SpikeBatch:
        self._note_gap(block.start)
        times_ns = samples_to_ns(np.array([block.start, *found.sample, block.stop]), self._rate_hz)
        run = self._run
        batch = SpikeBatch(
            stream=self.stream,
            run=run.run,
            seq=run.seq,
            start_ns=int(times_ns[0]),
            stop_ns=int(times_ns[-1]),
            spike_time_ns=times_ns[1:-1],
            unit_index=found.unit_index.astype(np.uint32),
        )
        run.seq += 1
        run.covered = block.stop
        self.counters.n_blocks += 1
        self.counters.n_spikes += batch.n_spikes
        self.counters.n_unassigned += found.n_unassigned
        return batch

    def _note_gap(self, start: int) -> None:
        """Count the time before a block that nothing was stated of; begin a run if it is long."""
        covered = self._run.covered
        if covered is None or covered == start:
            return
        gap_s = (start - covered) / self._rate_hz
        self.counters.n_gaps += 1
        self.counters.gap_s += gap_s
        logger.warning("gap", extra={"ms": round(gap_s * 1e3, 1), "run": self.run})
        if gap_s > MAX_HOLE_S:
            self._begin_run(self._run.voltages, f"a gap of {gap_s:.3f} s")

    def _falls_behind(self) -> bool:
        behind_s = self.load.behind_s
        if not self._is_behind and behind_s > BEHIND_S:
            self._is_behind = True
            fields = {"behind_s": round(behind_s, 3), "when_behind": self.options.when_behind}
            logger.warning("the sorter falls behind", extra={**fields, **self._pace()})
        return self._is_behind

    def _catch_up(self) -> None:
        """Note that all voltages that have come are sorted, or in work."""
        if self._pool.n_pending > self._pool.n_workers:
            return
        self.load.has_caught_up()
        if self._is_behind:
            self._is_behind = False
            skipped = {"n_blocks_skipped": self.counters.n_blocks_skipped}
            logger.warning("the sorter has caught up", extra={**skipped, **self._pace()})

    def _track(self, block: VoltageBlock, found: FoundSpikes) -> None:
        for change in self.units.add(block, self._pool.margin, found):
            unit = {"unit_id": self.population.units[change.row].label}
            if change.lost:
                logger.warning("unit lost", extra={**unit, "why": change.lost})
            else:
                logger.warning("unit is back", extra=unit)

    def _report(self) -> None:
        if self.load.sorted_s - self._logged_s < LOG_EVERY_S:
            return
        self._logged_s = self.load.sorted_s
        numbers = {"n_spikes": self.counters.n_spikes, "n_units_lost": self.units.n_lost}
        behind = {"behind_s": round(self.load.behind_s, 3)}
        logger.info("sorting", extra={"run": self.run, **numbers, **behind, **self._pace()})

    def _pace(self) -> dict[str, float]:
        figures = self.load.figures
        return {
            "real_time_factor_p50": round(figures.real_time_factor_p50, 3),
            "real_time_factor_p99": round(figures.real_time_factor_p99, 3),
        }
