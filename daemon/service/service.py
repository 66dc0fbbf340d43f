"""The life of the daemon: start, wait for the narrator, run, shut down.

Start-up makes every room and waits until the narrator has loaded its model; only then does the
daemon listen to the sources, so that nothing is lost to loading. The first signal stops gently,
in order and with a deadline; the second stops at once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import zmq

from contracts.clock import MAX_SESSION_NS, NS_PER_S, Clock, HostClock, ns_to_second
from contracts.errors import DependencyError
from contracts.narration_wire import load
from daemon.pipeline import check_population
from daemon.service.settings import Settings
from daemon.service.signals import StopRequest, stop_on_signal
from daemon.service.stats import StreamStats, stats_message
from daemon.service.wiring import Components, wire
from daemon.stream_registry import StreamState
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.worker.narrator_client import NarratorClient

POLL_MS = 50
"""How soon the loop notices a signal or a silent stream when no message comes."""

STATS_EVERY_NS = NS_PER_S
LOG_EVERY_NS = 60 * NS_PER_S

STALL_S = 1.0
"""Beyond ``ingest.stream_timeout_s``, the longest that a batch may take to arrive."""

MAX_START_FAILURES = 3
"""Times that a worker may die before its first word, until start-up gives up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _WatermarkProgress:
    """Where the watermark was when it last moved, and when that was."""

    complete_until: int
    generation: int
    messages_received: int
    host_ns: int


class Service:
    """One daemon.

    Parameters
    ----------
    settings : Settings
    clock : Clock, optional
    stop : StopRequest, optional
        To stop it from outside; signals make it too.
    on_bound : callable, optional
        Told once where the daemon can be reached: ``publish`` and ``http`` addresses.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        stop: StopRequest | None = None,
        on_bound: Callable[[dict[str, str]], None] = lambda _: None,
    ) -> None:
        self._on_bound = on_bound
        self._settings = settings
        self._clock = clock or HostClock()
        self._stop = stop or StopRequest()
        self._started_ns = self._clock.now_ns()
        self._first_hello_ns = 0
        self._next_stats_ns = 0
        self._next_log_ns = self._started_ns + LOG_EVERY_NS
        self._progress = _WatermarkProgress(-MAX_SESSION_NS, 0, 0, self._started_ns)

    def run(self) -> dict[str, Any]:
        """Run until asked to stop, or until the end if the settings say so.

        Returns
        -------
        summary : dict
            Counters, latencies and streams, as in the ``stats`` message.

        Raises
        ------
        UserError, DependencyError
            If it cannot start.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with stop_on_signal(self._stop):
                rooms = wire(self._settings, context, self._clock)
                try:
                    self._on_bound(_addresses(rooms, self._settings))
                    self._wait_for_narrator(rooms)
                    self._listen(rooms)
                    self._serve(rooms)
                finally:
                    summary = self._shut_down(rooms)
        finally:
            gc.unfreeze()
            context.destroy(linger=0)
        return summary

    # -- the life story --------------------------------------------------------------------

    def _wait_for_narrator(self, rooms: Components) -> None:
        """Let the narrator load its model; the HTTP pages and the publish socket answer."""
        logger.info("waiting for the narrator", extra={"backend": self._settings.narrator.backend})
        poller = _poller(rooms.publisher.socket, *rooms.port.sockets)
        while rooms.port.problem and not self._stop.is_made:
            poller.poll(POLL_MS)
            for _ in rooms.port.collect():
                pass  # nothing was offered, so nothing can have been narrated
            rooms.publisher.serve()
            self._tick(rooms)
            _give_up_if_it_cannot_start(rooms.port)

    def _listen(self, rooms: Components) -> None:
        # What start-up made stays; looking through it for garbage would stop the loop for 0.1 s.
        gc.collect()
        gc.freeze()
        rooms.loop.ingest.connect(self._settings.ingest.connect)
        logger.info(
            "daemon listens",
            extra={
                "sources": ",".join(self._settings.ingest.connect),
                "publish": rooms.publisher.address,
                "populations": ",".join(self._settings.populations),
                "bundle": rooms.manifest.sha256[:12],
            },
        )

    def _serve(self, rooms: Components) -> None:
        others = [rooms.publisher.socket, *rooms.port.sockets]
        if rooms.triggers:
            others += rooms.triggers.sockets
        while not (self._stop.is_made or self._has_ended(rooms)):
            _poller(*rooms.loop.ingest.sockets, *others).poll(POLL_MS)
            rooms.loop.step()
            if rooms.triggers:
                rooms.triggers.poll()
            rooms.publisher.serve()
            self._tick(rooms)

    def _shut_down(self, rooms: Components) -> dict[str, Any]:
        """Stop listening, let the narrator finish, say the last word, let go of everything."""
        if self._stop.is_made:
            asked_by = self._stop.signal_name or "standard input"
            logger.info("asked to stop", extra={"asked_by": asked_by})
        deadline_ns = self._clock.now_ns() + round(self._settings.service.shutdown_s * NS_PER_S)
        with ExitStack() as last:  # whatever fails, each room is let go of
            if rooms.http:
                last.callback(rooms.http.close)
            last.callback(rooms.publisher.close)
            rooms.loop.ingest.close()
            with ExitStack() as speakers:
                speakers.callback(self._close_port, rooms, deadline_ns)
                if rooms.triggers:
                    speakers.callback(self._close_triggers, rooms.triggers, deadline_ns)
                self._let_finish(rooms, deadline_ns)
            self._take_port_counts(rooms)
            summary = self._publish_stats(rooms)
        logger.info("daemon stopped", extra={"uptime_s": round(summary["uptime_s"], 1)})
        return summary

    def _let_finish(self, rooms: Components, deadline_ns: int) -> None:
        """Publish what is still being said and judged, until the deadline."""
        poller = _poller(*rooms.port.sockets, *(rooms.triggers.sockets if rooms.triggers else ()))
        while (rooms.port.n_unfinished or _is_judging(rooms)) and (
            self._clock.now_ns() < deadline_ns
        ):
            poller.poll(POLL_MS)
            self._publish(rooms)
        self._publish(rooms)
        rooms.counters.windows_dropped["shutdown"] += rooms.port.n_unfinished

    def _publish(self, rooms: Components) -> None:
        rooms.loop.publish_narrated()
        if rooms.triggers:
            rooms.triggers.poll()

    def _close_triggers(self, triggers: TriggerEvaluator, deadline_ns: int) -> None:
        # Half of what is left: a sink that hangs must not leave the worker no time to end.
        triggers.close(deadline_s=self._remaining_s(deadline_ns) / 2)

    def _close_port(self, rooms: Components, deadline_ns: int) -> None:
        rooms.port.close(deadline_s=self._remaining_s(deadline_ns))

    def _remaining_s(self, deadline_ns: int) -> float:
        return max(0.1, ns_to_second(deadline_ns - self._clock.now_ns()))

    def _has_ended(self, rooms: Components) -> bool:
        return (
            self._settings.service.exit_at_end
            and rooms.loop.ingest.is_settled  # else another probe may still come
            and rooms.registry.have_all_ended
            and rooms.loop.is_idle
            and not _is_judging(rooms)
        )

    # -- once in a while -------------------------------------------------------------------

    def _tick(self, rooms: Components) -> None:
        """Look after what depends on wall time: silence, health, statistics."""
        now_ns = self._clock.now_ns()
        rooms.health.tick()
        timeout_ns = round(self._settings.ingest.stream_timeout_s * NS_PER_S)
        if rooms.loop.ingest.is_drained:
            silent = rooms.registry.newly_blind(
                host_ns=now_ns,
                timeout_ns=timeout_ns,
                except_for=rooms.loop.ingest.waiting_streams(),
            )
            for name in silent:
                silent_s = ns_to_second(timeout_ns)
                logger.warning("stream is blind", extra={"stream": name, "silent_s": silent_s})
                rooms.loop.stop_waiting_for(name)
        if rooms.registry.streams:
            self._first_hello_ns = self._first_hello_ns or now_ns
            check_population(
                rooms.loop.ingest,
                first_hello_ns=self._first_hello_ns,
                timeout_s=self._settings.ingest.population_timeout_s,
                now_ns=now_ns,
            )
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = now_ns + STATS_EVERY_NS
            self._take_port_counts(rooms)
            self._update_health(rooms, now_ns)
            summary = self._publish_stats(rooms)
            if now_ns >= self._next_log_ns:
                self._next_log_ns = now_ns + LOG_EVERY_NS
                logger.info("summary", extra=_flat(summary))

    def _update_health(self, rooms: Components, now_ns: int) -> None:
        rooms.health.set("narrator", not rooms.port.problem, rooms.port.problem)
        if rooms.triggers:
            rooms.health.set("triggers", not rooms.triggers.problem, rooms.triggers.problem)
        problem = _stream_problem(rooms) or self._stall(rooms, now_ns)
        rooms.health.set("streams", not problem, problem)
        ring = rooms.loop.ring
        rooms.gauges.streams_waiting = len(rooms.loop.ingest.waiting_streams())
        rooms.gauges.handover_windows = rooms.port.n_waiting
        rooms.gauges.narrator_windows = rooms.port.n_unfinished
        rooms.gauges.ring_fill_bins = ring.head_bin - ring.complete_until
        rooms.gauges.stream_lag_seconds = {
            name: ns_to_second(now_ns - stream.last_heard_host_ns)
            for name, stream in rooms.registry.streams.items()
        }

    def _stall(self, rooms: Components, now_ns: int) -> str:
        """Return why no window becomes complete although batches arrive; empty if some do."""
        ring, received = rooms.loop.ring, rooms.counters.messages_received
        seen = self._progress
        if ring.complete_until > seen.complete_until or ring.generation != seen.generation:
            self._progress = _WatermarkProgress(
                ring.complete_until, ring.generation, received, now_ns
            )
            return ""
        stalled_s = ns_to_second(now_ns - seen.host_ns)
        limit_s = self._settings.ingest.stream_timeout_s + STALL_S
        if stalled_s < limit_s or received - seen.messages_received < stalled_s:
            return ""  # nothing arrives: an end, or a silence, which says its own name
        behind = ", ".join(ring.blind_streams) or "each other"
        return f"no window was completed for {stalled_s:.0f} s; streams wait for {behind}"

    def _take_port_counts(self, rooms: Components) -> None:
        rooms.counters.windows_dropped.update(rooms.port.dropped)
        rooms.counters.worker_restarts = rooms.port.n_restarts

    def _publish_stats(self, rooms: Components) -> dict[str, Any]:
        now_ns = self._clock.now_ns()
        ring = rooms.loop.ring
        rooms.counters.published_messages = rooms.publisher.n_published
        waiting = rooms.loop.ingest.waiting_streams()
        streams = {
            name: StreamStats(
                ns_to_second(ring.covered_until_ns(name)),
                "waiting" if name in waiting else stream.state.value,
            )
            for name, stream in rooms.registry.streams.items()
        }
        parts = stats_message(
            host_ns=now_ns,
            uptime_s=ns_to_second(now_ns - self._started_ns),
            session_s=None if ring.begin_bin is None else ns_to_second(ring.complete_until_ns),
            counters=rooms.counters,
            latency_ms=rooms.latencies.summary(),
            reasons=rooms.health.reasons(),
            streams=streams,
            queue={"waiting": rooms.port.n_waiting, "unfinished": rooms.port.n_unfinished},
        )
        rooms.publisher.publish(parts)
        return load(parts[1])


def _is_judging(rooms: Components) -> bool:
    """Whether a rule waits for what a narration is like."""
    return rooms.triggers is not None and rooms.triggers.n_unfinished > 0


def _addresses(rooms: Components, settings: Settings) -> dict[str, str]:
    http = f"http://{settings.http.host}:{rooms.http.port}" if rooms.http else ""
    return {"publish": rooms.publisher.address, "http": http}


def _poller(*sockets: zmq.Socket[bytes]) -> zmq.Poller:
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    return poller


def _stream_problem(rooms: Components) -> str:
    streams = rooms.registry.streams
    if not streams:
        return "no source has said hello; start one with 'neurrate stream' or see ingest.connect"
    missing = rooms.registry.missing_units()
    if missing:
        return f"{len(missing)} units of the encoder have not been announced by any stream"
    blind = [name for name, stream in streams.items() if stream.state is StreamState.BLIND]
    if blind:
        return f"silent for too long: {', '.join(blind)}"
    return ""


def _give_up_if_it_cannot_start(port: NarratorClient) -> None:
    if port.n_restarts >= MAX_START_FAILURES:
        raise DependencyError(
            f"the narrator worker died {port.n_restarts} times before its first word; "
            "its log lines above say why"
        )


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
