"""What depends on wall time: silent streams, health, and the statistics of every second."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from contracts.clock import MAX_SESSION_NS, NS_PER_S, Clock, ns_to_second, second_to_ns
from contracts.errors import PopulationMismatchError, listed
from contracts.narration_wire import load
from daemon.bin_ring import BinRing
from daemon.ingest import Ingest
from daemon.service.ingest_lag import IngestLag, remedy
from daemon.service.logs import n_lines_dropped
from daemon.service.settings import Settings
from daemon.service.stats import StreamStats, stats_message
from daemon.service.wiring import Components
from daemon.stream_registry import StreamRegistry, StreamState

STATS_EVERY_NS = NS_PER_S
LOG_EVERY_NS = 60 * NS_PER_S
NOT_READY_NS = 10 * NS_PER_S
"""After so long a daemon that is not ready says why, and again with every summary."""

STALL_S = 1.0
"""Beyond ``ingest.stream_timeout_s``, the longest that a batch may take to arrive."""

LOSS_MEMORY_NS = 60 * NS_PER_S
"""A source that is left unread fills some thousand messages of queues between two losses."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _WatermarkProgress:
    """Where the watermark was when it last moved, and when that was."""

    complete_until: int
    generation: int
    messages_received: int
    host_ns: int


@dataclass(slots=True)
class _Losses:
    """Of one stream: how many batches it had lost, and when it last lost some while it led."""

    n_lost: int
    host_ns: int


class RunawayWatch:
    """Finds streams that lead so far that they are left unread, and lose batches by it.

    A replay that loses nothing waits at the same lead; a clock that runs fast cannot.
    """

    def __init__(self) -> None:
        self._losses: dict[str, _Losses] = {}

    def problems(self, registry: StreamRegistry, ring: BinRing, *, now_ns: int) -> list[str]:
        """Return a sentence for each; called once a second."""
        problems = []
        for name, stream in registry.streams.items():
            if stream.state is not StreamState.LIVE:
                continue
            lead_ns = ring.covered_until_ns(name) - ring.complete_until_ns
            losses = self._losses.setdefault(name, _Losses(stream.n_lost, -LOSS_MEMORY_NS))
            if stream.n_lost > losses.n_lost and lead_ns > ring.capacity_ns // 2 - NS_PER_S:
                losses.host_ns = now_ns
            losses.n_lost = stream.n_lost
            if now_ns - losses.host_ns < LOSS_MEMORY_NS:
                problems.append(
                    f"{name} is {_distance(lead_ns)}, left unread meanwhile, and loses batches: "
                    "its clock runs fast, or another source is slow"
                )
        return problems


class Monitor:
    """Looks at a daemon's components whenever the fast loop has made a step."""

    def __init__(
        self, components: Components, settings: Settings, clock: Clock, *, started_ns: int
    ) -> None:
        self._components = components
        self._settings = settings
        self._clock = clock
        self._started_ns = started_ns
        self._first_hello_ns = 0
        self._n_streams = 0
        self._last_joined_ns = 0
        self._next_stats_ns = 0
        self._next_log_ns = self._started_ns + LOG_EVERY_NS
        self._next_not_ready_ns = self._started_ns + NOT_READY_NS
        self._progress = _WatermarkProgress(-MAX_SESSION_NS, 0, 0, started_ns)
        self._runaways = RunawayWatch()
        self._lag = IngestLag(
            components.loop.ingest.lag_ns,
            clock,
            remedy=remedy(is_sequential=settings.is_sequential),
        )
        components.health.ask("ingest", self._lag.problem)
        # Set by the service: what start-up found of the encoder; shown with `Health.notes`.
        self.capacity_problem = ""

    def tick(self) -> None:
        """Look for silence; once a second update health and publish statistics."""
        now_ns = self._clock.now_ns()
        self._components.health.tick()
        self._components.gauges.ingest_lag_seconds = self._lag.tick()
        self._find_silent_streams(now_ns)
        self._check_population(now_ns)
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = now_ns + STATS_EVERY_NS
            self._update_health(now_ns)
            summary = self.publish_stats()
            self._log_not_ready(summary["reasons"], now_ns)
            if now_ns >= self._next_log_ns:
                self._next_log_ns = now_ns + LOG_EVERY_NS
                logger.info("summary", extra=_flat(summary))

    def _log_not_ready(self, reasons: list[str], now_ns: int) -> None:
        """Log what ``/readyz`` says, for a user who looks nowhere else."""
        if not reasons:
            self._next_not_ready_ns = now_ns + NOT_READY_NS
        elif now_ns >= self._next_not_ready_ns:
            self._next_not_ready_ns = now_ns + LOG_EVERY_NS
            logger.warning("not ready", extra={"reasons": "; ".join(reasons)})

    def _find_silent_streams(self, now_ns: int) -> None:
        ingest = self._components.loop.ingest
        if not ingest.is_drained:  # its messages may be among those that are yet to be read
            return
        timeout_s = self._settings.ingest.stream_timeout_s
        registry, loop = self._components.registry, self._components.loop
        silent = registry.newly_silent(
            host_ns=now_ns,
            timeout_ns=second_to_ns(timeout_s),
            except_for=ingest.waiting_streams(),
        )
        for name, state in silent.items():
            if state is StreamState.BLIND:
                logger.warning("stream is blind", extra={"stream": name, "silent_s": timeout_s})
                loop.stop_waiting_for(name)
            else:
                ahead_s = ns_to_second(registry.clocks.offset_ns(name))
                logger.warning("stream is set aside", extra={"stream": name, "ahead_s": ahead_s})
                loop.set_aside(name)

    def _check_population(self, now_ns: int) -> None:
        """Give up where the run should end with its streams, and they cannot begin."""
        ingest = self._components.loop.ingest
        if ingest.is_settled:
            return
        if ingest.registry.streams:
            self._first_hello_ns = self._first_hello_ns or now_ns
            if self._settings.ingest.missing_units == "mean":
                self._begin_without_missing(now_ns)
        if not self._settings.service.exit_at_end:
            return  # a source may be restarted with other units; until then /readyz says why
        for refusal in ingest.refusals.values():
            raise refusal.error
        if ingest.registry.streams:
            check_population(
                ingest,
                first_hello_ns=self._first_hello_ns,
                timeout_s=self._settings.ingest.population_timeout_s,
                now_ns=now_ns,
            )

    def _begin_without_missing(self, now_ns: int) -> None:
        """Begin without the units that no further stream can be expected to announce."""
        ingest, settings = self._components.loop.ingest, self._settings.ingest
        registry = ingest.registry
        missing = registry.missing_units()
        n_streams = len(registry.streams)
        if n_streams != self._n_streams:
            self._n_streams, self._last_joined_ns = n_streams, now_ns
        is_complete = ingest.have_all_said_hello and (
            now_ns - self._last_joined_ns >= second_to_ns(settings.stream_timeout_s)
        )
        waited_ns = now_ns - self._first_hello_ns
        is_late = waited_ns >= second_to_ns(settings.population_timeout_s)
        if len(missing) < registry.n_units and (is_complete or is_late):
            fields = {"n_units": len(missing), "units": listed(missing)}
            logger.warning("units that no source sends are held at their mean", extra=fields)
            self._components.loop.settle()

    def _update_health(self, now_ns: int) -> None:
        components = self._components
        narrator_client, triggers = components.narrator_client, components.triggers
        health, gauges, ring = components.health, components.gauges, components.loop.ring
        health.set("narrator", not narrator_client.problem, narrator_client.problem)
        if triggers:
            health.set("triggers", not triggers.problem, triggers.problem)
        problems = stream_problems(
            components.loop.ingest,
            ring,
            now_ns=now_ns,
            memory_ns=second_to_ns(self._settings.ingest.stream_timeout_s + STALL_S),
            does_without_missing=components.loop.does_without_missing,
        )
        problems += self._runaways.problems(components.registry, ring, now_ns=now_ns)
        problem = "; ".join(problems) or self._stall(now_ns)
        health.set("streams", not problem, problem)
        missing = components.registry.missing_units()
        gauges.units_missing = len(missing)
        notes = [self.capacity_problem] if self.capacity_problem else []
        if missing and components.loop.does_without_missing:
            units = listed(missing)
            notes.append(f"{len(missing)} units are held at their mean: no source sends {units}")
        health.notes = tuple(notes)
        gauges.streams_waiting = len(components.loop.ingest.waiting_streams())
        gauges.handover_windows = narrator_client.n_waiting
        gauges.narrator_windows = narrator_client.n_unfinished
        gauges.ring_fill_bins = ring.head_bin - ring.complete_until
        gauges.stream_lag_seconds = {
            name: ns_to_second(now_ns - stream.last_received_host_ns)
            for name, stream in components.registry.streams.items()
        }
        clocks = components.loop.ingest.source_clocks.report()
        gauges.source_delay_seconds = clocks.delay_s
        gauges.source_clock_offset_seconds = clocks.offset_s
        gauges.source_clock_error_seconds = clocks.error_s

    def _stall(self, now_ns: int) -> str:
        """Return why no window becomes complete although batches arrive; empty if some do."""
        ring = self._components.loop.ring
        received = self._components.counters.messages_received
        last = self._progress
        if ring.complete_until > last.complete_until or ring.generation != last.generation:
            progress = _WatermarkProgress(ring.complete_until, ring.generation, received, now_ns)
            self._progress = progress
            return ""
        stalled_s = ns_to_second(now_ns - last.host_ns)
        limit_s = self._settings.ingest.stream_timeout_s + STALL_S
        if stalled_s < limit_s or received - last.messages_received < stalled_s:
            return ""  # nothing arrives: an end, or a silence, which is reported as such
        behind = ", ".join(ring.blind_streams) or "each other"
        return f"no window was completed for {stalled_s:.0f} s; streams wait for {behind}"

    def publish_stats(self) -> dict[str, Any]:
        """Publish the ``stats`` message, and return it."""
        components, now_ns = self._components, self._clock.now_ns()
        counters, ring = components.counters, components.loop.ring
        narrator_client = components.narrator_client
        counters.windows_dropped.update(narrator_client.dropped)
        counters.worker_restarts = narrator_client.n_restarts
        counters.log_lines_dropped = n_lines_dropped()
        counters.published_messages = components.publisher.n_published
        counters.requests_ignored = components.publisher.n_ignored
        counters.subscribers_dropped.update(components.publisher.dropped)
        counters.sources_dropped.update(components.loop.ingest.dropped())
        if components.http is not None:
            counters.http_refused = components.http.n_refused
        waiting = components.loop.ingest.waiting_streams()
        streams = {
            name: StreamStats(
                ns_to_second(ring.covered_until_ns(name)),
                "waiting" if name in waiting else stream.state.value,
            )
            for name, stream in components.registry.streams.items()
        }
        parts = stats_message(
            host_ns=now_ns,
            uptime_s=ns_to_second(now_ns - self._started_ns),
            session_s=None if ring.begin_bin is None else ns_to_second(ring.complete_until_ns),
            counters=counters,
            latency_ms=components.latencies.summary(),
            reasons=components.health.reasons(),
            notes=components.health.notes,
            streams=streams,
            queue={
                "waiting": narrator_client.n_waiting,
                "unfinished": narrator_client.n_unfinished,
            },
        )
        components.publisher.publish(parts)
        return load(parts[1])


def check_population(ingest: Ingest, *, first_hello_ns: int, timeout_s: float, now_ns: int) -> None:
    """Give up on units that no stream has announced for too long after the first hello.

    Raises
    ------
    PopulationMismatchError
        With the missing unit ids.
    """
    if ingest.is_settled or now_ns - first_hello_ns < timeout_s * NS_PER_S:
        return
    sources = ", ".join(stream.hello.source for stream in ingest.registry.streams.values())
    raise PopulationMismatchError(ingest.registry.missing_units(), [], source=sources)


def stream_problems(
    ingest: Ingest,
    ring: BinRing,
    *,
    now_ns: int,
    memory_ns: int,
    does_without_missing: bool = False,
) -> list[str]:
    """Return why not all streams can be narrated, one sentence each.

    Units that no stream announces are no problem if the loop `does_without_missing`. A refused
    source, or a second one of a name, is reported until `memory_ns` after its last message.
    """
    registry = ingest.registry
    problems = [
        f"a source is refused: {refusal.error}"
        for refusal in ingest.refusals.values()
        if now_ns - refusal.host_ns <= memory_ns
    ]
    missing = registry.missing_units()
    if not registry.streams and not problems:
        problems.append(
            "no source has said hello; start one with 'neurrate stream' or see ingest.connect"
        )
    elif missing and not problems and not does_without_missing:
        problems.append(
            f"{len(missing)} units of the encoder have not been announced by any stream: "
            f"{listed(missing)}"
        )
    return problems + _state_problems(registry, ring, now_ns=now_ns, memory_ns=memory_ns)


def _state_problems(
    registry: StreamRegistry, ring: BinRing, *, now_ns: int, memory_ns: int
) -> list[str]:
    """Return what is wrong with streams that have said hello."""
    problems = []
    by_state = {
        state: [name for name, stream in registry.streams.items() if stream.state is state]
        for state in StreamState
    }
    if blind := by_state[StreamState.BLIND]:
        problems.append(f"silent for too long: {', '.join(blind)}")
    of = (
        "the others" if by_state[StreamState.LIVE] else "where it was, and does not go on regularly"
    )
    problems += [
        f"{name} is set aside: its time is {_distance(registry.clocks.offset_ns(name), of)}. "
        "Correct its clock, or restart every source"
        for name in by_state[StreamState.ASIDE]
    ]
    for name in by_state[StreamState.LIVE]:
        if (behind_ns := ring.behind_ns(name)) > NS_PER_S:
            problems.append(
                f"{name} is {_distance(-behind_ns)} and catches up; its spikes are late until then"
            )
        stream = registry.streams[name]
        if stream.rival_run and now_ns - stream.rival_host_ns <= memory_ns:
            problems.append(
                f"two sources send a stream named {name}; the second one (run "
                f"{stream.rival_run}) is refused. Stop it, or give it a name of its own"
            )
    return problems


def _distance(offset_ns: int, of: str = "the others") -> str:
    side = "ahead of" if offset_ns > 0 else "behind"
    return f"{ns_to_second(abs(offset_ns)):.1f} s {side} {of}"


def _flat(summary: dict[str, Any]) -> dict[str, object]:
    counters = summary["counters"]
    total = summary["latency_ms"].get("total", {})
    return {
        "session_s": summary["session_s"],
        "windows": counters["windows"],
        "narrations": sum(counters["narrations"].values()),
        "dropped": sum(counters["windows_dropped"].values()),
        "batches_lost": counters["batches_lost"],
        "p50_ms": round(total.get("p50", 0.0), 1),
        "p99_ms": round(total.get("p99", 0.0), 1),
    }
