"""The same session gives the same triggers, however it comes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from contracts.binning import BinRate
from contracts.embedding import PatchEmbedding
from contracts.trigger import Trigger, unpack_trigger
from contracts.window import Window, WindowSpec
from daemon.bin_ring import BinRing
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.probes import PopulationProbes
from daemon.triggers.rule_file import RuleBook
from daemon.window_cutter import WindowCutter
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import batch_of
from tests.support.tiny_bundle import TINY_GRID
from tests.support.triggers import concept_probes, rule

S = 1_000_000_000
SPEC = WindowSpec(BinRate(120), n_bins=6, stride_bins=3)
RULES = (
    rule('probe "car" of all > 0.6', "eager"),
    rule('probe "car" of all > 0.6 for 2 windows', "slow", release=0.4, refractory_s=0.3),
    rule('probe "car" of all < 0.4 for 2 windows', "gone", release=0.5),
)


class _Kept:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []

    def publish(self, parts: Sequence[bytes]) -> None:
        """Keep one."""
        self.triggers.append(unpack_trigger(parts[1]))

    def has_subscriber(self, topic: bytes) -> bool:
        """Nobody asks for scores."""
        return False


def _embedding(window: Window) -> PatchEmbedding:
    """Make the more car of a window, the more spikes it has."""
    patches = np.zeros((TINY_GRID.n_patches, TINY_GRID.dim), np.float32)
    patches[:, 0] = 0.5 * (float(window.counts.sum()) - 12)
    return PatchEmbedding(window, "all", window.counts.shape[1], TINY_GRID, patches)


def _triggers(
    times: NDArray[np.int64], units: NDArray[np.uint32], cuts: list[int]
) -> list[tuple[str, int, int, float]]:
    kept = _Kept()
    evaluator = TriggerEvaluator(
        RuleBook(RULES, {}),
        probes=PopulationProbes(concept_probes(), {"all": "all"}),
        publisher=cast(Publisher, kept),
        counters=Counters(),
        latencies=TriggerLatencies(CollectorRegistry()),
        clock=ManualClock(),
        bundle="",
    )
    ring = BinRing(SPEC.rate, 4, capacity_bins=1000, window_bins=SPEC.n_bins)
    ring.add_stream("probeA")
    cutter = WindowCutter(SPEC, ManualClock())
    for seq, (start_ns, stop_ns) in enumerate(pairwise(cuts)):
        ring.add(batch_of(times, units, start_ns, stop_ns, seq=seq))
        for window in cutter.ready(ring):
            evaluator.evaluate([_embedding(window)])
    return [(each.name, each.seq, each.window.seq, each.score) for each in kept.triggers]


@given(
    seed=st.integers(0, 2**32 - 1),
    inner=st.lists(st.integers(1, 4 * S - 1), max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_any_cutting_gives_the_same_triggers(seed: int, inner: list[int]):
    """Batches of any length give the rules, windows and scores that batches of a second give."""
    rng = np.random.default_rng(seed)
    rate = rng.choice([20, 240, 480], 16).repeat(S // 4 // 1_000_000)
    ms = np.flatnonzero(rng.random(len(rate)) < rate / 1000)
    times = (ms * 1_000_000).astype(np.int64)
    units = rng.integers(0, 4, len(times)).astype(np.uint32)
    whole = [second * S for second in range(5)]
    expected = _triggers(times, units, whole)
    assert _triggers(times, units, sorted({*whole, *inner})) == expected


def test_the_session_of_this_test_has_triggers():
    """Every rule fires in some session, so that equal lists are not empty ones."""
    ms = np.concatenate([np.arange(first, first + 250) for first in (500, 1500, 2500)])
    units = np.zeros(len(ms), np.uint32)
    found = _triggers(ms * 1_000_000, units, [second * S for second in range(5)])
    assert [name for name, *_ in found].count("eager") == 3
    assert {name for name, *_ in found} == {"eager", "slow", "gone"}
