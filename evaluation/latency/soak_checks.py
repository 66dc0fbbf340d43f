"""The rules of a soak: each verdict with the numbers behind it. Runs no process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.latency.disturbances import (
    GOES_ON,
    KILLED,
    SLOW,
    SOURCE_GOES_ON,
    SOURCE_STOPPED,
    SOURCE_STOPPED_S,
    STOPPED,
)
from evaluation.latency.process_usage import Footprint
from evaluation.latency.recorder import SoakJournal
from evaluation.latency.sample import Event, Log, Recovery, Sample
from evaluation.latency.trend import trend

WARM_SHARE = 0.1  # Share of a soak, at its beginning, in which drift is not evaluated

SETTLED_SHARE, SETTLED_S = 0.5, 240.0
"""Memory is evaluated in the second half, and not in the first four minutes: for that long the
pools of the interpreter, its libraries and the C library grow by a megabyte or two; then they are
stable (docs/latency.md)."""

MAX_GROWTH = 0.05
"""Share of a process's memory in an hour: at this rate it doubles within a day. In ten minutes,
slower growth cannot be told from pools that are still filling; a soak of hours shows it."""

MAX_RISE_MB = 10.0
"""Of the daemon's memory while the narrator is stopped: four queued windows of eight populations
at 24 x 24 x 1024 would take more."""

SETTLE_S = 5.0  # After an event, until descriptors are counted again: connections open and close
CLOSING_S = 2.0  # Before the end, when processes close their sockets and files: not evaluated

MIN_RATE = 0.95
"""Share of the windows in the source's data that must be cut, whatever the narrator does."""

MIN_STOP_S = 4.0  # A shorter stop holds too few windows for counters that are read once a second

MAX_AGE_STRIDES, MAX_AGE_MS = 2.0, 100.0
"""How old the first window after a stop may be: two strides, and time to encode it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one rule."""

    name: str
    is_ok: bool | None  # None if the soak is too short to tell
    text: str  # The numbers behind it

    def line(self) -> str:
        """Return the verdict in one line."""
        word = {True: "ok", False: "NOT OK", None: "too short to tell"}[self.is_ok]
        return f"{word}: {self.name}: {self.text}"


PROCESSES = ("daemon", "worker", "source", "recorder")


def verdicts(
    log: Log,
    source: dict[str, Any],
    daemon: dict[str, Any],
    recorded: SoakJournal,
    *,
    rate: float,
) -> list[Verdict]:
    """Evaluate a soak.

    `source` and `daemon` are the summaries that the processes printed when they ended; `rate` is in
    windows per second in the source's data.
    """
    counters = daemon["counters"]
    found = [_spikes(source, counters), _windows(counters)]
    found += [_journal_spikes(recorded, source), _journal_narrations(recorded)]
    settled = _after(log.samples, SETTLED_SHARE)
    found += [_memory(name, settled) for name in PROCESSES]
    found += _steady(log)
    found.append(_drift(_after(log.samples, WARM_SHARE), rate))
    at = {event.name: event for event in log.events}
    if STOPPED in at and GOES_ON in at:
        found += _while_stopped(log, at[STOPPED], at[GOES_ON], rate)
    if KILLED in at:
        found.append(_killed(log, at[KILLED], counters))
    if SLOW in at:
        found.append(_slow(log.samples, at[SLOW]))
    if SOURCE_STOPPED in at and SOURCE_GOES_ON in at:
        found.append(_source_stopped(log, at[SOURCE_STOPPED], rate))
    return found


def _spikes(source: dict[str, Any], counters: dict[str, Any]) -> Verdict:
    """Account for every spike; a recording may have units that the encoder does not know."""
    sent, of_sources = source["n_spikes"], source["spikes_of_sources"]
    received, binned, late, unknown = (
        counters[f"spikes_{name}"] for name in ("received", "binned", "late", "unknown")
    )
    each = f" ({' + '.join(f'{n:,}' for n in of_sources)})" if len(of_sources) > 1 else ""
    text = (
        f"{sent:,} sent{each}, {received:,} received, {binned:,} binned, {late:,} late, "
        f"{unknown:,} of unknown units"
    )
    return Verdict("spikes", sent == received == binned + unknown, text)


def _journal_spikes(recorded: SoakJournal, source: dict[str, Any]) -> Verdict:
    """Account for every spike that was sent: in the journal, or sent while no recorder ran."""
    missing = recorded.missing
    text = (
        f"{recorded.n_spikes:,} in the journal, as they were sent; {missing.n_spikes:,} in "
        f"{missing.n_batches:,} batches are not"
    )
    if recorded.unrecorded_s:
        text += (
            f", sent in the {recorded.unrecorded_s:.1f} s without a recorder or up to "
            f"{missing.lost_before_kill_s:.2f} s before its kill, but for "
            f"{missing.n_batches_unexplained:,}"
        )
    holes = recorded.holes.get("spikes", 0)
    text += f"; the journal's numbers have holes of {holes:,} batches"
    if missing.n_changed:
        text += f", and {missing.n_changed:,} batches are not as they were sent"
    is_ok = (
        source["n_spikes"] == recorded.n_spikes_sent == recorded.n_spikes + missing.n_spikes
        and holes == missing.n_batches
        and not missing.n_batches_unexplained
        and not missing.n_changed
        and not recorded.accounts.get("overflowed")
    )
    return Verdict("journal, spikes", is_ok, text)


def _journal_narrations(recorded: SoakJournal) -> Verdict:
    missing = recorded.missing
    text = (
        f"{recorded.n_published - missing.n_published:,} of {recorded.n_published:,} narrations "
        f"and triggers; {recorded.n_bytes / 1e6:,.1f} MB in {recorded.n_parts} parts"
    )
    return Verdict("journal, narrations", not missing.n_published_unexplained, text)


def _windows(counters: dict[str, Any]) -> Verdict:
    """Account for every window; those skipped or with a gap are lost."""
    dropped = {reason: n for reason, n in counters["windows_dropped"].items() if n}
    n_narrated = counters["windows"] - sum(dropped.values())
    reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in dropped.items())
    n_lost = counters["windows_gap_skipped"] + counters["gap_bins"]
    text = (
        f"{counters['windows']:,} cut, {n_narrated:,} narrated, dropped {reasons or 'none'}; "
        f"{counters['windows_gap_skipped']:,} skipped, {counters['gap_bins']:,} bins with a gap"
    )
    return Verdict("windows", n_lost == 0, text)


def _memory(name: str, samples: Sequence[Sample]) -> Verdict:
    """Evaluate the longest interval without a restart of the process."""
    life = _longest_life([(sample.t_s, getattr(sample, name)) for sample in samples])
    rss = np.array([usage.rss_mb for _, usage in life])
    slope = trend(np.array([t_s for t_s, _ in life]), rss)
    if slope is None:
        return Verdict(f"memory of the {name}", None, f"{len(rss)} seconds")
    most = MAX_GROWTH * float(rss.mean())
    text = f"{rss.mean():.1f} MB, {rss.min():.1f} to {rss.max():.1f}; {slope.text('MB')}"
    is_settled = life[0][0] >= SETTLED_S
    return Verdict(f"memory of the {name}", slope.low <= most if is_settled else None, text)


def _steady(log: Log) -> Iterator[Verdict]:
    """Check that descriptors and threads are constant between one event and the next."""
    quiet = list(_between_events(log))
    for attribute, label in (("n_descriptors", "descriptors"), ("n_threads", "threads")):
        texts, is_ok, n_seen = [], True, 0
        for name in PROCESSES:
            ranges = []
            for start, stop in quiet:
                inside = [sample for sample in log.samples if start <= sample.t_s < stop]
                usages = [getattr(sample, name) for sample in inside]
                counts = [getattr(usage, attribute) for usage in usages if usage is not None]
                if counts:
                    ranges.append((min(counts), max(counts)))
            n_seen += len(ranges)
            is_ok &= all(low == high for low, high in ranges)
            texts.append(f"{name} {_ranges(ranges)}")
        yield Verdict(label, is_ok if n_seen else None, ", ".join(texts))


def _between_events(log: Log) -> Iterator[tuple[float, float]]:
    """Yield start and stop of the intervals between events, each from the recovery on."""
    after_s = {recovery.event: recovery.after_s for recovery in log.recoveries}
    starts = [SETTLE_S, *(e.t_s + after_s.get(e.name, 0.0) + SETTLE_S for e in log.events)]
    last_s = max((sample.t_s for sample in log.samples), default=0.0) - CLOSING_S
    stops = [*(event.t_s for event in log.events), last_s]
    yield from zip(starts, stops, strict=True)


def _drift(samples: Sequence[Sample], rate: float) -> Verdict:
    drift = [(sample.t_s, sample.drift_ms) for sample in samples if sample.drift_ms is not None]
    time_s = np.array([t_s for t_s, _ in drift])
    values = np.array([ms for _, ms in drift])
    slope = trend(time_s, values)
    if slope is None:
        return Verdict("drift", None, f"{len(values)} seconds")
    total_ms = abs(slope.slope) * (time_s[-1] - time_s[0]) / 3600
    text = (
        f"{values.min():+.1f} to {values.max():+.1f} ms of data time against wall time; "
        f"{slope.text('ms')}"
    )
    is_flat = slope.low <= 0 <= slope.high
    return Verdict("drift", bool(is_flat or total_ms < 1e3 / rate), text)


def _while_stopped(log: Log, stopped: Event, resumed: Event, rate: float) -> Iterator[Verdict]:
    inside = [sample for sample in log.samples if stopped.t_s < sample.t_s <= resumed.t_s]
    before = [sample for sample in log.samples if sample.t_s <= stopped.t_s]
    seconds = inside[-1].counted_s - inside[0].counted_s if inside else 0.0
    if seconds < MIN_STOP_S or not before:
        yield Verdict("narrator stopped", None, f"{seconds:.1f} seconds")
    else:
        lasted_s = resumed.t_s - stopped.t_s
        yield _windows_while_stopped(inside, before, rate=rate, seconds=seconds, lasted_s=lasted_s)
        rise_mb = _rss(inside) - _rss(before)
        text = f"the daemon's memory rose by {rise_mb:.1f} MB at most, and may by {MAX_RISE_MB:g}"
        yield Verdict("memory while it is stopped", rise_mb <= MAX_RISE_MB, text)
    yield _resumed(log, rate)


def _windows_while_stopped(
    inside: Sequence[Sample],
    before: Sequence[Sample],
    *,
    rate: float,
    seconds: float,
    lasted_s: float,
) -> Verdict:
    """Check that the fast loop did not wait for the stopped narrator."""
    n_windows = inside[-1].counters["windows"] - inside[0].counters["windows"]
    n_lost = inside[-1].counters["batches_lost"]
    text = (
        f"for {lasted_s:.1f} s; {n_windows / seconds:.2f} windows/s were cut of {rate:g}, {n_lost} "
        f"batches of spikes lost, {_triggers(inside)} (before: {_triggers(before)})"
    )
    is_ok = n_windows >= MIN_RATE * rate * seconds - 1 and not n_lost
    return Verdict("narrator stopped", is_ok, text)


def _resumed(log: Log, rate: float) -> Verdict:
    recovery = _recovery(log, GOES_ON)
    if recovery is None:
        return Verdict("narrator goes on", False, "nothing was narrated after it")
    oldest_ms = MAX_AGE_STRIDES * 1e3 / rate + MAX_AGE_MS
    text = (
        f"the first sentence begun after it came {recovery.after_s:.2f} s later, of a window "
        f"that was {recovery.age_ms:.0f} ms old when it was taken up (at most {oldest_ms:.0f})"
    )
    return Verdict("narrator goes on", recovery.age_ms <= oldest_ms, text)


def _killed(log: Log, killed: Event, counters: dict[str, Any]) -> Verdict:
    recovery, n_restarts = _recovery(log, KILLED), counters["worker_restarts"]
    if recovery is None:
        text = f"{n_restarts} restarts, and nothing was narrated after it"
        is_late = log.samples[-1].t_s - killed.t_s < SETTLE_S
        return Verdict("narrator killed", None if is_late else False, text)
    text = (
        f"{n_restarts} restart, the first sentence {recovery.after_s:.1f} s later, of a window "
        f"that was {recovery.age_ms:.0f} ms old when it was taken up"
    )
    return Verdict("narrator killed", n_restarts == 1, text)


def _slow(samples: Sequence[Sample], slow: Event) -> Verdict:
    """Check that the other subscribers are served after one joined that never reads."""
    after = [sample for sample in samples if sample.t_s > slow.t_s + SETTLE_S]
    n_received = sum(sample.n_narrations for sample in after)
    slope = trend(
        np.array([sample.t_s for sample in after if sample.daemon]),
        np.array([sample.daemon.rss_mb for sample in after if sample.daemon]),
    )
    text = f"{n_received:,} narrations reached the others meanwhile"
    if slope is None:
        return Verdict("slow subscriber", None, text)
    text = f"{text}; the daemon's memory {slope.text('MB')}"
    return Verdict("slow subscriber", n_received > 0, text)


def _source_stopped(log: Log, stopped: Event, rate: float) -> Verdict:
    """Check that what a stopped source had to send is sent, and narrated in time again."""
    after = [sample for sample in log.samples if sample.counted_s > stopped.t_s]
    drifts = [sample.drift_ms for sample in after if sample.drift_ms is not None]
    if len(drifts) < MIN_STOP_S:
        return Verdict("source stopped", None, f"{len(drifts)} seconds since")
    n_lost = log.samples[-1].counters["batches_lost"]
    text = (
        f"for {SOURCE_STOPPED_S:g} s; data time against wall time {min(drifts):+.0f} ms at worst, "
        f"{drifts[-1]:+.0f} ms at the end; {n_lost} batches of spikes lost"
    )
    return Verdict("source stopped", not n_lost and drifts[-1] > -2e3 / rate, text)


def _after(samples: Sequence[Sample], share: float) -> list[Sample]:
    return [sample for sample in samples if sample.t_s >= share * samples[-1].t_s]


def _longest_life(
    usages: Sequence[tuple[float, Footprint | None]],
) -> list[tuple[float, Footprint]]:
    lives: dict[int, list[tuple[float, Footprint]]] = {}
    for t_s, usage in usages:
        if usage is not None:
            lives.setdefault(usage.pid, []).append((t_s, usage))
    return max(lives.values(), key=len, default=[])


def _recovery(log: Log, event: str) -> Recovery | None:
    return next((recovery for recovery in log.recoveries if recovery.event == event), None)


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Format the counts of all intervals, equal ones once."""
    texts = [f"{low}" if low == high else f"{low} to {high}" for low, high in ranges]
    return " then ".join(dict.fromkeys(texts)) or "not seen"


def _triggers(samples: Sequence[Sample]) -> str:
    n = sum(sample.n_triggers for sample in samples)
    if not n:
        return "no triggers"
    p99 = [sample.trigger_ms["p99"] for sample in samples if sample.trigger_ms]
    return f"{n / len(samples):.2f} triggers/s, p99 of the worst second {max(p99):.1f} ms"


def _rss(samples: Sequence[Sample]) -> float:
    return max((sample.daemon.rss_mb for sample in samples if sample.daemon), default=0.0)
