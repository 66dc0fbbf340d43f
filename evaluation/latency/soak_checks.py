"""What a soak says: each rule with the numbers that it was judged by. No process here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.latency.disturbances import GOES_ON, KILLED, SLOW, STOPPED
from evaluation.latency.process_usage import Footprint
from evaluation.latency.sample import Event, Log, Sample
from evaluation.latency.trend import Trend, trend

WARM_SHARE = 0.1
"""Of a soak, at its beginning, that no drift is judged by."""

SETTLED_SHARE, SETTLED_S = 0.5, 240.0
"""Memory is judged in the second half, and not in the first four minutes: the pools of the
interpreter, of its libraries and of the C library fill for so long, by a megabyte or two, and then
stay (docs/latency.md)."""

MAX_GROWTH = 0.05
"""Of a process's memory in an hour: it would double within a day. In ten minutes less cannot be
told from pools that still fill; a soak of hours shows it."""

MAX_RISE_MB = 10.0
"""Of the daemon's memory while the narrator stands still: four windows of eight populations at
24 x 24 x 1024 would take more."""

SETTLE_S = 5.0
"""After an event, until descriptors are counted again: connections come and go."""

CLOSING_S = 2.0
"""Before the end, in which processes let go of what they hold: no stretch between events."""

MIN_RATE = 0.95
"""Of the windows that the source's data hold must be cut, whatever the narrator does."""

MIN_STOP_S = 4.0
"""Of a stop, or its windows are too few to be counted once a second."""

MAX_AGE_STRIDES, MAX_AGE_MS = 2.0, 100.0
"""How old the first window after a stop may be: two strides, and a moment for encoding it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule.

    Attributes
    ----------
    name : str
    is_ok : bool or None
        None where there is too little to tell.
    text : str
        The numbers.
    """

    name: str
    is_ok: bool | None
    text: str

    def line(self) -> str:
        """Say it."""
        word = {True: "ok", False: "NOT OK", None: "too short to tell"}[self.is_ok]
        return f"{word}: {self.name}: {self.text}"


def verdicts(
    log: Log, source: dict[str, Any], daemon: dict[str, Any], *, rate: float
) -> list[Verdict]:
    """Judge a soak.

    Parameters
    ----------
    log : Log
        What was seen each second.
    source, daemon : dict
        What each said of itself at its end.
    rate : float
        Windows per second that the data hold.

    Returns
    -------
    list of Verdict
    """
    counters = daemon["counters"]
    found = [_spikes(source, counters), _windows(counters)]
    settled = _after(log.samples, SETTLED_SHARE)
    found += [_memory(name, settled) for name in ("daemon", "worker", "source")]
    found += _steady(log)
    found.append(_drift(_after(log.samples, WARM_SHARE), rate))
    at = {event.name: event for event in log.events}
    if STOPPED in at and GOES_ON in at:
        found += _while_stopped(log, at[STOPPED], at[GOES_ON], rate)
    if KILLED in at:
        found.append(_killed(log, at[KILLED], counters))
    if SLOW in at:
        found.append(_slow(log.samples, at[SLOW]))
    return found


def _spikes(source: dict[str, Any], counters: dict[str, Any]) -> Verdict:
    sent, received, binned = (
        source["n_spikes"],
        *(counters[name] for name in ("spikes_received", "spikes_binned")),
    )
    text = f"{sent:,} sent, {received:,} received, {binned:,} binned"
    return Verdict("spikes", sent == received == binned, text)


def _windows(counters: dict[str, Any]) -> Verdict:
    """Say where every window went: those that were skipped or came with a gap were lost."""
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
    """Judge the longest stretch in which the process was the same."""
    stretch = _longest_life([(each.t_s, getattr(each, name)) for each in samples])
    rss = np.array([each.rss_mb for _, each in stretch])
    found = trend(np.array([t_s for t_s, _ in stretch]), rss)
    if found is None:
        return Verdict(f"memory of the {name}", None, f"{len(rss)} seconds")
    most = MAX_GROWTH * float(rss.mean())
    text = f"{rss.mean():.1f} MB, {rss.min():.1f} to {rss.max():.1f}; {found.text('MB')}"
    is_settled = stretch[0][0] >= SETTLED_S
    return Verdict(f"memory of the {name}", found.low <= most if is_settled else None, text)


def _steady(log: Log) -> Iterator[Verdict]:
    """Judge whether descriptors and threads stay the same from an event to the next."""
    stretches = list(_stretches(log))
    for what, label in (("n_descriptors", "descriptors"), ("n_threads", "threads")):
        texts, is_ok, n_seen = [], True, 0
        for name in ("daemon", "worker", "source"):
            ranges = []
            for start, stop in stretches:
                inside = [each for each in log.samples if start <= each.t_s < stop]
                feet = [getattr(each, name) for each in inside]
                counts = [getattr(foot, what) for foot in feet if foot is not None]
                if counts:
                    ranges.append((min(counts), max(counts)))
            n_seen += len(ranges)
            is_ok &= all(low == high for low, high in ranges)
            texts.append(f"{name} {_ranges(ranges)}")
        yield Verdict(label, is_ok if n_seen else None, ", ".join(texts))


def _stretches(log: Log) -> Iterator[tuple[float, float]]:
    """Yield the times between events, from when what was done has been recovered from."""
    after_s = {each.event: each.after_s for each in log.recoveries}
    begins = [SETTLE_S, *(e.t_s + after_s.get(e.name, 0.0) + SETTLE_S for e in log.events)]
    last_s = max((each.t_s for each in log.samples), default=0.0) - CLOSING_S
    ends = [*(event.t_s for event in log.events), last_s]
    yield from zip(begins, ends, strict=True)


def _drift(samples: Sequence[Sample], rate: float) -> Verdict:
    drift = [(each.t_s, each.drift_ms) for each in samples if each.drift_ms is not None]
    at_s = np.array([t_s for t_s, _ in drift])
    values = np.array([ms for _, ms in drift])
    found = trend(at_s, values)
    if found is None:
        return Verdict("drift", None, f"{len(values)} seconds")
    passed_ms = abs(found.slope) * (at_s[-1] - at_s[0]) / 3600
    text = (
        f"{values.min():+.1f} to {values.max():+.1f} ms of data time against wall time; "
        f"{found.text('ms')}"
    )
    return Verdict("drift", _is_flat(found) or passed_ms < 1e3 / rate, text)


def _while_stopped(log: Log, stopped: Event, goes_on: Event, rate: float) -> Iterator[Verdict]:
    inside = [each for each in log.samples if stopped.t_s < each.t_s <= goes_on.t_s]
    before = [each for each in log.samples if each.t_s <= stopped.t_s]
    seconds = inside[-1].counted_s - inside[0].counted_s if inside else 0.0
    if seconds < MIN_STOP_S or not before:
        yield Verdict("narrator stopped", None, f"{seconds:.1f} seconds")
    else:
        lasted_s = goes_on.t_s - stopped.t_s
        yield _goes_on_without(inside, before, rate=rate, seconds=seconds, lasted_s=lasted_s)
        rise_mb = _rss(inside) - _rss(before)
        text = f"the daemon's memory rose by {rise_mb:.1f} MB at most, and may by {MAX_RISE_MB:g}"
        yield Verdict("memory while it is stopped", rise_mb <= MAX_RISE_MB, text)
    yield _resumed(log, rate)


def _goes_on_without(
    inside: Sequence[Sample],
    before: Sequence[Sample],
    *,
    rate: float,
    seconds: float,
    lasted_s: float,
) -> Verdict:
    """Judge whether the fast loop waited for a narrator that stood still."""
    n_windows = inside[-1].counters["windows"] - inside[0].counters["windows"]
    n_lost = inside[-1].counters["batches_lost"]
    text = (
        f"for {lasted_s:.1f} s; {n_windows / seconds:.2f} windows/s were cut of {rate:g}, {n_lost} "
        f"batches of spikes lost, {_triggers(inside)} (before: {_triggers(before)})"
    )
    is_ok = n_windows >= MIN_RATE * rate * seconds - 1 and not n_lost
    return Verdict("narrator stopped", is_ok, text)


def _resumed(log: Log, rate: float) -> Verdict:
    found = next((each for each in log.recoveries if each.event == GOES_ON), None)
    if found is None:
        return Verdict("narrator goes on", False, "nothing was narrated after it")
    oldest_ms = MAX_AGE_STRIDES * 1e3 / rate + MAX_AGE_MS
    text = (
        f"the first sentence begun after it came {found.after_s:.2f} s later, of a window that was "
        f"{found.age_ms:.0f} ms old when it was taken up (at most {oldest_ms:.0f})"
    )
    return Verdict("narrator goes on", found.age_ms <= oldest_ms, text)


def _killed(log: Log, killed: Event, counters: dict[str, Any]) -> Verdict:
    found = next((each for each in log.recoveries if each.event == KILLED), None)
    n_restarts = counters["worker_restarts"]
    if found is None:
        text = f"{n_restarts} restarts, and nothing was narrated after it"
        is_late = log.samples[-1].t_s - killed.t_s < SETTLE_S
        return Verdict("narrator killed", None if is_late else False, text)
    text = (
        f"{n_restarts} restart, the first sentence {found.after_s:.1f} s later, of a window that "
        f"was {found.age_ms:.0f} ms old when it was taken up"
    )
    return Verdict("narrator killed", n_restarts == 1, text)


def _slow(samples: Sequence[Sample], slow: Event) -> Verdict:
    """Judge the daemon's memory after a subscriber joined that reads nothing."""
    after = [each for each in samples if each.t_s > slow.t_s + SETTLE_S]
    said = sum(each.n_narrations for each in after)
    found = trend(
        np.array([each.t_s for each in after if each.daemon]),
        np.array([each.daemon.rss_mb for each in after if each.daemon]),
    )
    text = f"{said:,} narrations reached the others meanwhile"
    if found is None:
        return Verdict("slow subscriber", None, text)
    return Verdict("slow subscriber", said > 0, f"{text}; the daemon's memory {found.text('MB')}")


def _after(samples: Sequence[Sample], share: float) -> list[Sample]:
    return [each for each in samples if each.t_s >= share * samples[-1].t_s]


def _longest_life(
    feet: Sequence[tuple[float, Footprint | None]],
) -> list[tuple[float, Footprint]]:
    lives: dict[int, list[tuple[float, Footprint]]] = {}
    for t_s, foot in feet:
        if foot is not None:
            lives.setdefault(foot.pid, []).append((t_s, foot))
    return max(lives.values(), key=len, default=[])


def _is_flat(found: Trend) -> bool:
    return found.low <= 0 <= found.high


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Say the counts of each stretch, once where they are the same."""
    texts = [f"{low}" if low == high else f"{low} to {high}" for low, high in ranges]
    return " then ".join(dict.fromkeys(texts)) or "not seen"


def _triggers(samples: Sequence[Sample]) -> str:
    n = sum(each.n_triggers for each in samples)
    if not n:
        return "no triggers"
    p99 = [each.trigger_ms["p99"] for each in samples if each.trigger_ms]
    return f"{n / len(samples):.2f} triggers/s, p99 of the worst second {max(p99):.1f} ms"


def _rss(samples: Sequence[Sample]) -> float:
    return max((each.daemon.rss_mb for each in samples if each.daemon), default=0.0)
