"""The life of the daemon: start, wait for the narrator, run, shut down.

Start-up builds every component and waits until the narrator has loaded its model; only then does
the daemon subscribe to the sources, so that nothing is lost to loading. The first signal stops
gently, in order and with a deadline; the second stops at once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import zmq

from contracts.clock import NS_PER_S, Clock, HostClock, ns_to_second
from contracts.daemon_json import pack_daemon
from contracts.displays import pack_encoder
from contracts.errors import DependencyError
from daemon.service.monitor import Monitor
from daemon.service.settings import Settings
from daemon.service.signals import StopRequest, stop_on_signal
from daemon.service.wiring import Components, window_spec, wire
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.worker.narrator_client import NarratorClient

POLL_MS = 50
"""How soon the loop notices a signal or a silent stream when no message comes."""

MAX_START_FAILURES = 3
"""Times that a worker may die before its first narration, until start-up gives up."""

logger = logging.getLogger(__name__)


class Service:
    """One daemon.

    `stop` stops it from outside; signals make it too. `on_bound` is given the addresses of the
    daemon once: ``publish`` and ``http``.
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

    def run(self) -> dict[str, Any]:
        """Run until asked to stop, or to the end if the settings say so; return the last ``stats``.

        Raises
        ------
        UserError, DependencyError
            If it cannot start.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with stop_on_signal(self._stop):
                components = wire(self._settings, context, self._clock)
                monitor = Monitor(
                    components, self._settings, self._clock, started_ns=self._started_ns
                )
                try:
                    self._on_bound(_addresses(components, self._settings))
                    self._publish_identity(components)
                    self._wait_for_narrator(components, monitor)
                    self._measure_capacity(components, monitor)
                    self._subscribe(components)
                    self._serve(components, monitor)
                finally:
                    summary = self._shut_down(components, monitor)
        finally:
            gc.unfreeze()
            context.destroy(linger=0)
        return summary

    def _publish_identity(self, components: Components) -> None:
        """Publish software, settings and encoder, for who records or displays the session."""
        components.publisher.publish(
            pack_daemon(
                bundle=components.manifest.sha256,
                settings=self._settings.model_dump(mode="json"),
                host_ns=self._started_ns,
            )
        )
        manifest, triggers = components.manifest, components.triggers
        components.publisher.publish(
            pack_encoder(
                manifest,
                window_spec(self._settings, manifest),
                components.selections,
                self._settings.populations,
                triggers.concepts if triggers else (),
            )
        )

    def _wait_for_narrator(self, components: Components, monitor: Monitor) -> None:
        """Wait until the model is loaded; HTTP and the publish socket answer meanwhile."""
        logger.info("waiting for the narrator", extra={"backend": self._settings.narrator.backend})
        narrator_client = components.narrator_client
        poller = _poller(components.publisher.socket, *narrator_client.sockets)
        while narrator_client.problem and not self._stop.is_made:
            poller.poll(POLL_MS)
            for _ in narrator_client.collect():
                pass  # nothing was offered, so nothing can have been narrated
            components.publisher.serve()
            monitor.tick()
            _give_up_if_it_cannot_start(narrator_client)

    def _measure_capacity(self, components: Components, monitor: Monitor) -> None:
        """Say how much of the loop's time encoding takes, once the narrator no longer loads."""
        if self._stop.is_made:
            return
        capacity = components.measure_capacity()
        logger.info("encoder measured: %s", capacity.summary)
        if capacity.problem:
            logger.warning("the encoder cannot keep up: %s", capacity.problem)
        monitor.capacity_problem = capacity.problem

    def _subscribe(self, components: Components) -> None:
        # What start-up made stays; looking through it for garbage would stop the loop for 0.1 s.
        gc.collect()
        gc.freeze()
        components.loop.ingest.connect(self._settings.ingest.connect, components.keys.sources)
        logger.info(
            "daemon listens",
            extra={
                "sources": ",".join(self._settings.ingest.connect),
                "publish": components.publisher.address,
                "populations": ",".join(self._settings.populations),
                "bundle": components.manifest.sha256[:12],
            },
        )

    def _serve(self, components: Components, monitor: Monitor) -> None:
        triggers = components.triggers
        ingest = components.loop.ingest
        others = [components.publisher.socket, *components.narrator_client.sockets]
        if triggers:
            others += triggers.sockets
        poll_fds, poller = ingest.poll_fds, _poller(*ingest.poll_fds, *others)
        while not (self._stop.is_made or self._has_ended(components)):
            # Which sources are read depends on what they have covered.
            if poll_fds != (wanted := ingest.poll_fds):
                poll_fds, poller = wanted, _poller(*wanted, *others)
            poller.poll(0 if ingest.has_messages else POLL_MS)
            components.loop.step()
            if triggers:
                triggers.poll()
            components.publisher.serve()
            monitor.tick()

    def _has_ended(self, components: Components) -> bool:
        return (
            self._settings.service.exit_at_end
            and components.loop.ingest.is_settled  # else another probe may still come
            and components.registry.have_all_ended
            and components.loop.is_idle
            and not _has_pending_triggers(components)
        )

    def _shut_down(self, components: Components, monitor: Monitor) -> dict[str, Any]:
        """Stop reading, let the narrator finish, publish the last statistics, close everything."""
        if self._stop.is_made:
            asked_by = self._stop.signal_name or "standard input"
            logger.info("asked to stop", extra={"asked_by": asked_by})
        deadline_ns = self._clock.now_ns() + round(self._settings.service.shutdown_s * NS_PER_S)
        with ExitStack() as last:  # whatever fails, every component is closed
            if components.http:
                last.callback(components.http.close)
            last.callback(components.publisher.close)
            components.loop.ingest.close()
            with ExitStack() as producers:
                producers.callback(self._close_narrator, components.narrator_client, deadline_ns)
                if components.triggers:
                    producers.callback(self._close_triggers, components.triggers, deadline_ns)
                self._let_finish(components, deadline_ns)
            summary = monitor.publish_stats()
        logger.info("daemon stopped", extra={"uptime_s": round(summary["uptime_s"], 1)})
        return summary

    def _let_finish(self, components: Components, deadline_ns: int) -> None:
        """Publish what is still being narrated and evaluated, until the deadline."""
        narrator_client, triggers = components.narrator_client, components.triggers
        poller = _poller(*narrator_client.sockets, *(triggers.sockets if triggers else ()))
        while (narrator_client.n_unfinished or _has_pending_triggers(components)) and (
            self._clock.now_ns() < deadline_ns
        ):
            poller.poll(POLL_MS)
            _publish_finished(components)
        _publish_finished(components)
        components.counters.windows_dropped["shutdown"] += narrator_client.n_unfinished

    def _close_triggers(self, triggers: TriggerEvaluator, deadline_ns: int) -> None:
        # Half of what is left: a sink that hangs must not leave the worker no time to end.
        triggers.close(deadline_s=self._remaining_s(deadline_ns) / 2)

    def _close_narrator(self, narrator_client: NarratorClient, deadline_ns: int) -> None:
        narrator_client.close(deadline_s=self._remaining_s(deadline_ns))

    def _remaining_s(self, deadline_ns: int) -> float:
        return max(0.1, ns_to_second(deadline_ns - self._clock.now_ns()))


def _publish_finished(components: Components) -> None:
    components.loop.publish_narrated()
    if components.triggers:
        components.triggers.poll()


def _has_pending_triggers(components: Components) -> bool:
    """Whether a rule waits for the comparison of a narration with its sentences."""
    return components.triggers is not None and components.triggers.n_unfinished > 0


def _addresses(components: Components, settings: Settings) -> dict[str, str]:
    http = f"http://{settings.http.host}:{components.http.port}" if components.http else ""
    return {"publish": components.publisher.address, "http": http}


def _poller(*sockets: zmq.Socket[bytes] | int) -> zmq.Poller:
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    return poller


def _give_up_if_it_cannot_start(narrator_client: NarratorClient) -> None:
    if narrator_client.n_restarts >= MAX_START_FAILURES:
        raise DependencyError(
            f"the narrator worker died {narrator_client.n_restarts} times before it was ready; "
            "its log lines above say why"
        )
