"""The lag between the responses of two probes: planted lags, and responses that are none."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.spikes import Mark, SpikeBatch
from stream_sources.rigs.probe_agreement import ProbeAgreement, compare_responses
from stream_sources.source import new_run

MS = 1_000_000


def marks(n: int = 60) -> NDArray[np.int64]:
    return np.arange(1, n + 1) * NS_PER_S


def population(
    marks_ns: NDArray[np.int64], *, delay_ms: float, seed: int, n_evoked: int = 40
) -> NDArray[np.int64]:
    """Return spikes at 400 Hz, and a burst about `delay_ms` after each mark."""
    rng = np.random.default_rng(seed)
    span_ns = int(marks_ns[-1]) + NS_PER_S
    spontaneous = rng.integers(0, span_ns, 400 * span_ns // NS_PER_S)
    evoked = marks_ns[:, None] + rng.normal(delay_ms * MS, 12 * MS, (len(marks_ns), n_evoked))
    return np.sort(np.concatenate([spontaneous, evoked.ravel().astype(np.int64)]))


@pytest.mark.parametrize("lag_ms", [-24.0, 0.0, 24.0])
def test_a_planted_lag_is_within_the_interval(lag_ms: float):
    """And an alarm at 15 ms goes off for 24 ms alone."""
    ours = population(marks(), delay_ms=60 + lag_ms, seed=1)
    reference = population(marks(), delay_ms=60, seed=2)
    result = compare_responses(ours, reference, marks())
    assert result.low_ms <= lag_ms <= result.high_ms
    assert result.high_ms - result.low_ms < 15
    assert result.p < 0.01
    assert result.is_outside(0.0, 15.0) is (lag_ms != 0)
    assert not result.is_outside(lag_ms, 15.0)


def test_the_interval_holds_the_lag_as_often_as_it_says():
    """Nearly always in 40 draws with few spikes: 99 % is nominal."""
    marks_ns = marks(50)
    n_within = 0
    for seed in range(40):
        ours = population(marks_ns, delay_ms=70, seed=2 * seed, n_evoked=15)
        reference = population(marks_ns, delay_ms=60, seed=2 * seed + 1, n_evoked=15)
        result = compare_responses(ours, reference, marks_ns)
        n_within += result.low_ms <= 10.0 <= result.high_ms
    assert n_within >= 36


def test_a_probe_that_does_not_answer_raises_no_alarm():
    """Whatever lag its noise has: of 20 draws, one may be called a response."""
    reference = population(marks(), delay_ms=60, seed=0)
    results = [
        compare_responses(
            population(marks(), delay_ms=60, seed=seed, n_evoked=0), reference, marks(), seed=seed
        )
        for seed in range(1, 21)
    ]
    assert sum(result.is_outside(0.0, 15.0) for result in results) <= 1
    assert sum(result.p < 0.5 for result in results) < 18


def batches(times_ns: NDArray[np.int64], until_ns: int) -> Iterator[SpikeBatch]:
    run = new_run()
    for seq, start_ns in enumerate(range(0, until_ns, NS_PER_S // 2)):
        inside = times_ns[(times_ns >= start_ns) & (times_ns < start_ns + NS_PER_S // 2)]
        units = np.zeros(len(inside), np.uint32)
        yield SpikeBatch("s", run, seq, start_ns, start_ns + NS_PER_S // 2, inside, units)


@pytest.mark.parametrize(("lag_ms", "event"), [(24, "probes disagree"), (0, "probes compared")])
def test_probes_are_compared_while_they_are_streamed(
    lag_ms: int, event: str, caplog: pytest.LogCaptureFixture
):
    """After 50 marks that both have covered; sync pulses are no marks."""
    marks_ns = marks(80)
    agreement = ProbeAgreement(pulses=["sync"])
    until_ns = 60 * NS_PER_S
    pending = [Mark("r", new_run(), at, at + MS, "gratings", 0) for at in marks_ns.tolist()]
    pairs = zip(
        batches(population(marks_ns, delay_ms=60 + lag_ms, seed=1), until_ns),
        batches(population(marks_ns, delay_ms=60, seed=2), until_ns),
        strict=True,
    )
    with caplog.at_level(logging.INFO):
        for ours, reference in pairs:
            while pending and pending[0].start_ns < reference.stop_ns:
                mark = pending.pop(0)
                agreement.add_reference(mark)
                agreement.add_reference(Mark("r", mark.run, 5, 6, "sync", 0))
            agreement.add_reference(reference)
            agreement.add(ours)
    assert [r.message.split(":")[0] for r in caplog.records] == [event]
    assert agreement.newest is not None
    assert agreement.newest.n_marks >= 50


def test_a_clock_that_begins_again_forgets_what_was(caplog: pytest.LogCaptureFixture):
    """Spikes of two runs are never put together."""
    marks_ns = marks(80)
    agreement = ProbeAgreement()
    for run in range(2):
        spikes = population(marks_ns, delay_ms=60, seed=run)
        with caplog.at_level(logging.INFO):
            for batch in batches(spikes, 40 * NS_PER_S):
                if batch.start_ns in marks_ns:
                    agreement.add_reference(
                        Mark("r", batch.run, batch.start_ns, batch.stop_ns, "x", 0)
                    )
                agreement.add_reference(batch)
                agreement.add(batch)
    assert caplog.records == []
    assert agreement.newest is None
