"""Blocks in work: matched here one by one, or by several processes beside each other.

A block's spikes depend on no other block, so blocks may be matched in any order. They are taken out
in the order in which they came.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from threading import Thread

from contracts.errors import ChildError
from stream_sources.online_sorter.blocks import VoltageBlock
from stream_sources.online_sorter.matching import FoundSpikes, Matcher, check_templates
from stream_sources.online_sorter.templates import SorterTemplates

CHANNELS_OF_A_WORKER = 192
"""What one core matches in real time with the default method (docs/online-sorter.md)."""

BLOCKS_OF_A_WORKER = 2
"""The one that it works on and the next, so that it does not wait for us."""

START_S = 600.0
"""Compiling takes a minute on a quiet machine."""

HAS_ENDED = (
    "a worker process of the sorter has ended. If memory is short, give --workers 1; its error, if "
    "there was one, is above."
)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedBlock:
    """A block, and what was found in it within `took_s` seconds."""

    block: VoltageBlock
    found: FoundSpikes
    took_s: float


def automatic_workers(n_channels: int) -> int:
    """Return how many workers a probe is given, at most one for each core."""
    return max(1, min(-(-n_channels // CHANNELS_OF_A_WORKER), len(os.sched_getaffinity(0))))


class MatchPool:
    """Matches blocks: one worker is this process, several are so many others.

    Parameters
    ----------
    methods : tuple of str
        What `submit` may ask for.

    Attributes
    ----------
    margin : int
        Samples that a block must have on each side.

    Raises
    ------
    UserError
        As `Matcher`.
    ChildError
        If a process ends while it starts.
    """

    def __init__(
        self, templates: SorterTemplates, methods: tuple[str, ...], *, n_workers: int
    ) -> None:
        check_templates(templates)  # a process would not say why it ended
        self.n_workers = n_workers
        self._pending: deque[Future[MatchedBlock]] = deque()
        self._submit: Callable[[VoltageBlock, str], Future[MatchedBlock]]
        if n_workers == 1:
            matchers = _Matchers(templates, methods)
            self.margin, self._submit, self._end = matchers.margin, matchers.submit, matchers.close
        else:
            processes, self.margin = _start(templates, methods, n_workers)
            self._submit = lambda block, method: processes.submit(_match, block, method)
            self._end = partial(processes.shutdown, cancel_futures=True)

    @property
    def n_pending(self) -> int:
        """Blocks that were submitted and not taken."""
        return len(self._pending)

    def submit(self, block: VoltageBlock, method: str) -> None:
        """Have a block matched.

        Raises
        ------
        ChildError
            If a process has ended.
        """
        try:
            self._pending.append(self._submit(block, method))
        except BrokenProcessPool as error:
            raise ChildError(HAS_ENDED) from error

    def take(self, *, at_most_pending: int | None = None) -> list[MatchedBlock]:
        """Return the oldest blocks that are done; wait until no more than so many are left.

        Raises
        ------
        ChildError
            If a process has ended.
        """
        limit = self.n_workers * BLOCKS_OF_A_WORKER if at_most_pending is None else at_most_pending
        taken = []
        try:
            while self._pending and (len(self._pending) > limit or self._pending[0].done()):
                taken.append(self._pending.popleft().result())
        except BrokenProcessPool as error:
            raise ChildError(HAS_ENDED) from error
        return taken

    def close(self) -> None:
        """End the processes, and release what the methods hold."""
        self._end()


class _Matchers:
    """The matcher of each method, with a common margin."""

    def __init__(self, templates: SorterTemplates, methods: tuple[str, ...]) -> None:
        self._by_method = {method: Matcher(templates, method) for method in methods}
        self.margin = max(matcher.margin for matcher in self._by_method.values())

    def match(self, block: VoltageBlock, method: str) -> MatchedBlock:
        started = time.perf_counter()
        found = self._by_method[method].match(block, self.margin)
        return MatchedBlock(block, found, time.perf_counter() - started)

    def submit(self, block: VoltageBlock, method: str) -> Future[MatchedBlock]:
        done: Future[MatchedBlock] = Future()
        done.set_result(self.match(block, method))
        return done

    def close(self) -> None:
        for matcher in self._by_method.values():
            matcher.close()


def _start(
    templates: SorterTemplates, methods: tuple[str, ...], n_workers: int
) -> tuple[ProcessPoolExecutor, int]:
    """Start the processes, and return once all have compiled their methods.

    Raises
    ------
    ChildError
        If one ends.
    """
    # Spawned, not forked: this process has threads, and libraries that start some.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    processes = ProcessPoolExecutor(
        n_workers,
        mp_context=context,
        initializer=_begin_worker,
        initargs=(templates, methods, context.Barrier(n_workers)),
    )
    try:
        return processes, max(processes.map(_margin, range(n_workers)))
    except BrokenProcessPool as error:
        processes.shutdown()
        raise ChildError(HAS_ENDED) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # it does not look for its end while it compiles
        processes.shutdown(cancel_futures=True)
        raise


# From here on in a worker process.

_of_this_process: list[_Matchers] = []


def _begin_worker(templates: SorterTemplates, methods: tuple[str, ...], barrier: Barrier) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C reaches us; the parent ends us
    Thread(target=_end_with_parent, daemon=True).start()
    _of_this_process.append(_Matchers(templates, methods))
    barrier.wait(START_S)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _margin(_number: int) -> int:
    return _of_this_process[0].margin


def _match(block: VoltageBlock, method: str) -> MatchedBlock:
    return _of_this_process[0].match(block, method)
