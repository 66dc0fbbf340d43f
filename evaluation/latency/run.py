"""Latency and throughput of runs at fixed rates of windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from contracts.clock import second_to_ns
from contracts.errors import UserError
from contracts.manifest import load_manifest
from contracts.narration import Narration, Status
from contracts.temporary_folder import TemporaryFolder
from contracts.trigger import Trigger
from contracts.window import WindowSpec
from evaluation.latency.inputs import TrialInputs
from evaluation.latency.knee import Point
from evaluation.latency.messages import (
    TimedMessage,
    middle_ms,
    percentiles,
    read,
    stage_percentiles,
)
from evaluation.latency.rate import WARM_S, RateRun, SentBatch, WindowRate, run_rate
from evaluation.progress import progress
from evaluation.trial import QUEUE_MESSAGES
from subscribers.listener import Received


@dataclass(frozen=True, slots=True)
class RateResult:
    """Figures of one rate. Durations in milliseconds, as p50, p95, p99, max and n."""

    pace: WindowRate
    seconds: float  # Wall seconds that were measured
    # Of the whole run: ``cut``, ``narrated``, ``dropped`` by reason, ``skipped``
    windows: dict[str, Any]
    # Cut, and narrated for every population, after the warm-up
    measured_windows: int
    measured_narrated: int
    narrations_per_s: float  # Published without failure, after the warm-up
    tokens_per_s: float
    stages_ms: dict[str, dict[str, float]]  # Of narrations, ``total`` last
    # Mean stages of typical narrations, which sum to nearly the median total
    middle_ms: dict[str, float]
    # From the source's stamp on the last batch of a window to the daemon's, and from the daemon's
    # last stamp to this process. None where nothing was received or a batch was lost.
    sent_to_received_ms: dict[str, float] | None
    published_to_here_ms: dict[str, float] | None
    # By kind of rule (``probe``, ``word``, ``likeness``): ``n``, ``per_s``, ``stages_ms``,
    # ``middle_ms``, ``published_to_here_ms``. Empty without rules.
    triggers: dict[str, Any]
    spikes: dict[str, int]  # ``sent``, ``received``, ``binned``, ``batches_lost``
    source_late_ms: float  # The furthest that the source fell behind its own schedule

    @property
    def share(self) -> float:
        """Share of the measured windows that were narrated."""
        return self.measured_narrated / self.measured_windows if self.measured_windows else 0.0

    @property
    def p95_ms(self) -> float:
        """95th percentile of the whole latency; infinite if nothing was narrated."""
        return self.stages_ms["total"]["p95"] if self.stages_ms else float("inf")

    @property
    def point(self) -> Point:
        """Point of the curve in which the knee is looked for."""
        return Point(self.pace.rate, self.share, self.p95_ms)

    def to_json(self) -> dict[str, Any]:
        """Return every number."""
        return {**asdict(self), "share_narrated": self.share}


def measure_rates(
    inputs: TrialInputs,
    rates: Sequence[WindowRate],
    *,
    seconds: float,
    is_stopped: Callable[[], bool],
) -> Iterator[RateResult]:
    """Run one rate after the other; a rate that was stopped does not count.

    `seconds` of wall time are measured at each rate, after the warm-up. `is_stopped` is called at
    least every 50 ms.
    """
    spec = load_manifest(inputs.bundle, check_hashes=False).window_spec
    wall_s = seconds + WARM_S
    with TemporaryFolder("neurrate-bench-") as folder:
        for number, rate in enumerate(rates):
            plan = replace(
                rate.plan(inputs, seconds=wall_s),
                queue_messages=QUEUE_MESSAGES,
                listens_to_spikes=True,
            )
            title = f"{rate.rate:g} windows/s ({number + 1} of {len(rates)})"
            with progress(
                title, wall_s, unit="s", label=f"bench: {title}", is_timed=True
            ) as on_second:
                run = run_rate(
                    plan, folder / str(number), is_stopped=is_stopped, on_second=on_second
                )
            if run is None:
                return
            of_run = replace(spec, stride_bins=rate.stride_bins)
            yield summarise(run, rate, spec=of_run, populations=inputs.populations)


def summarise(
    run: RateRun, rate: WindowRate, *, spec: WindowSpec, populations: Collection[str]
) -> RateResult:
    """Turn the messages of a run into numbers.

    `spec` has the stride of the run; `populations` are all that should have been narrated.

    Raises
    ------
    ChildError
        If a narration was published and did not arrive, or its parts do not sum to its whole.
    UserError
        If the recording ends before a window can be measured.
    """
    counters = run.summary.counters
    narrations = _read(run.messages, Narration)
    run.summary.check_received("narrations", len(narrations))
    edge_ns, n_before = _warm_edge(run.batches, rate, spec)
    n_cut = counters["windows"] + counters["windows_gap_skipped"]
    measured = [
        narration
        for narration in narrations
        if narration.window_stop_ns >= edge_ns and narration.status != Status.FAILED.value
    ]
    n_measured = n_cut - n_before
    if n_measured < 1:
        raise UserError(
            f"a rate needs a window after the first {WARM_S:g} s, and {n_cut} were cut in all. "
            "Give more --seconds-per-rate, or a longer recording."
        )
    seconds = n_measured / rate.rate
    return RateResult(
        pace=rate,
        seconds=seconds,
        windows=_windows(counters),
        measured_windows=n_measured,
        measured_narrated=_n_whole(measured, len(populations)),
        narrations_per_s=len(measured) / seconds,
        tokens_per_s=sum(narration.n_tokens for narration in measured) / seconds,
        stages_ms=stage_percentiles(measured) if measured else {},
        middle_ms=middle_ms(measured),
        sent_to_received_ms=_sent_to_received(measured, run.batches, counters),
        published_to_here_ms=percentiles(_delivery_ms(measured)),
        triggers=_of_triggers(_read(run.messages, Trigger), edge_ns, seconds),
        spikes={
            "sent": run.summary.source["n_spikes"],
            **{name: counters[f"spikes_{name}"] for name in ("received", "binned", "late")},
            "batches_lost": counters["batches_lost"],
        },
        source_late_ms=1e3 * run.summary.source["max_lateness_s"],
    )


def _read(
    messages: Sequence[Received], kind: type[Narration] | type[Trigger]
) -> list[TimedMessage]:
    """Return the times of the messages of one kind, without repeats."""
    timed = (read(message) for message in messages if isinstance(message.value, kind))
    return [message for message in timed if message is not None]


def _warm_edge(batches: Sequence[SentBatch], rate: WindowRate, spec: WindowSpec) -> tuple[int, int]:
    """Return the first stop of a measured window (session ns), and how many windows lie before."""
    if not batches:
        return 0, 0
    begin_ns = min(batch.start_ns for batch in batches)
    begin_bin = spec.rate.first_bin_at_or_after(begin_ns)
    first_bin = spec.first_start_at_or_after(begin_bin)
    first_stop_ns = spec.rate.start_ns(first_bin + spec.n_bins)
    edge_ns = first_stop_ns + second_to_ns(WARM_S * rate.speed)
    n_before = 0
    while spec.rate.start_ns(first_bin + n_before * spec.stride_bins + spec.n_bins) < edge_ns:
        n_before += 1
    return edge_ns, n_before


def _windows(counters: Mapping[str, Any]) -> dict[str, Any]:
    dropped = {reason: n for reason, n in counters["windows_dropped"].items() if n}
    return {
        "cut": counters["windows"],
        "narrated": counters["windows"] - sum(dropped.values()),
        "dropped": dropped,
        "skipped": counters["windows_gap_skipped"],
    }


def _n_whole(narrations: Sequence[TimedMessage], n_populations: int) -> int:
    """Count the windows that were narrated for every population."""
    populations: dict[int, set[str]] = {}
    for narration in narrations:
        populations.setdefault(narration.window_seq, set()).add(narration.name)
    return sum(len(names) == n_populations for names in populations.values())


def _delivery_ms(messages: Sequence[TimedMessage]) -> list[float]:
    return [(message.received_ns - message.published_ns) / 1e6 for message in messages]


def _sent_to_received(
    narrations: Sequence[TimedMessage], batches: Sequence[SentBatch], counters: Mapping[str, Any]
) -> dict[str, float] | None:
    """Find the batch that completed each window; both of its stamps are of this host's clock."""
    is_whole = all(later.seq == earlier.seq + 1 for earlier, later in pairwise(batches))
    if not batches or not is_whole or counters["batches_lost"]:
        return None
    stops = np.array([batch.stop_ns for batch in batches])
    first_ns = {narration.window_stop_ns: narration.first_ns for narration in narrations}
    waits_ms = []
    for window_stop_ns, received_ns in first_ns.items():
        row = int(np.searchsorted(stops, window_stop_ns))
        if row < len(batches):  # the end of the stream may complete the last window
            waits_ms.append((received_ns - batches[row].sent_host_ns) / 1e6)
    return percentiles(waits_ms)


def _of_triggers(triggers: Sequence[TimedMessage], edge_ns: int, seconds: float) -> dict[str, Any]:
    by_kind: dict[str, list[TimedMessage]] = {}
    for trigger in triggers:
        if trigger.window_stop_ns >= edge_ns:
            by_kind.setdefault(trigger.kind, []).append(trigger)
    return {
        kind: {
            "n": len(of_kind),
            "per_s": len(of_kind) / seconds,
            "stages_ms": stage_percentiles(of_kind),
            "middle_ms": middle_ms(of_kind),
            "published_to_here_ms": percentiles(_delivery_ms(of_kind)),
        }
        for kind, of_kind in by_kind.items()
    }
