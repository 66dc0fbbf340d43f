"""Wiring: settings become components. The only place that knows how they are connected.

Everything that a user can get wrong (bundle, populations, ring, ports) is found here, before
the first spike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import zmq
from prometheus_client import CollectorRegistry

from contracts.address import check_host
from contracts.clock import Clock
from contracts.errors import SettingsError, UserError
from contracts.manifest import Manifest, load_manifest
from contracts.narration import Narration, Provenance
from contracts.population import Selection
from contracts.spikes import MAX_SPAN_NS
from contracts.trigger import TriggerKind
from contracts.window import WindowSpec
from daemon.absent_units import AbsentUnits
from daemon.confidence import load_confidence_of
from daemon.cores import check_cores, keep_to_cores, usable_cores
from daemon.counters import Counters
from daemon.encoders.auto import load_encoder
from daemon.encoders.window_encoder import WindowEncoder
from daemon.handover import Handover
from daemon.ingest import Ingest
from daemon.narration_publisher import NarrationPublisher
from daemon.narrators.auto import load_narrator
from daemon.pipeline import FastLoop, Turn
from daemon.publisher import Publisher
from daemon.rate_meter import RateMeter
from daemon.service.capacity import Capacity, Load, measure_capacity
from daemon.service.health import Health
from daemon.service.http import HttpServer
from daemon.service.keys import DaemonKeys, load_keys
from daemon.service.latencies import LatencyRecorder
from daemon.service.memory import check_populations, make_ring
from daemon.service.metrics import Gauges, make_registry, show_worker
from daemon.service.settings import NarratorSettings, Settings
from daemon.source_publisher import SourcePublisher
from daemon.stream_registry import StreamRegistry
from daemon.triggers.auto import load_rule_book, make_trigger_evaluator
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.rule_file import RuleBook
from daemon.window_cutter import WindowCutter
from daemon.worker.client import WorkerClient
from daemon.worker.narrator_client import InlineClient, NarratorClient

CONDITIONS = ("narrator", "streams")
"""What must be true before the daemon is ready."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Components:
    """Everything that one daemon is made of, connected."""

    manifest: Manifest
    keys: DaemonKeys
    counters: Counters
    gauges: Gauges
    latencies: LatencyRecorder
    health: Health
    registry: StreamRegistry
    publisher: Publisher
    http: HttpServer | None
    narrator_client: NarratorClient
    triggers: TriggerEvaluator | None
    loop: FastLoop
    selections: Sequence[Selection]
    measure_capacity: Callable[[], Capacity]


def window_spec(settings: Settings, manifest: Manifest) -> WindowSpec:
    """Return the manifest's window, with the stride of the settings if they give one."""
    stride_bins = settings.window.stride_bins
    spec = manifest.window_spec
    return spec if stride_bins is None else replace(spec, stride_bins=stride_bins)


def resolve(settings: Settings, manifest: Manifest) -> tuple[list[Selection], int]:
    """Return the populations to narrate, and the ring's capacity in bins.

    Raises
    ------
    SettingsError
        With every population that no unit matches, and the ring if it could not hold a window and
        two of the longest batches.
    """
    chosen, problems = [], []
    for name, expression in settings.populations.items():
        try:
            chosen.append(manifest.population.select(name, expression))
        except UserError as error:
            problems.append(f"populations.{name}: {error}")
    spec = window_spec(settings, manifest)
    longest_batch_bins = math.ceil(spec.rate.bins_per_s * MAX_SPAN_NS / 1e9)
    needed_bins = spec.n_bins + 2 * longest_batch_bins
    capacity_bins = math.ceil(settings.ring.capacity_s * spec.rate.bins_per_s)
    if capacity_bins < needed_bins:
        needed_s = needed_bins / spec.rate.bins_per_s
        problems.append(
            f"ring.capacity_s must hold a window of {spec.duration_s:.3f} s and two batches "
            f"of 1 s, {needed_s:.3f} s in all, got {settings.ring.capacity_s} s"
        )
    if problems:
        raise SettingsError(problems)
    return chosen, capacity_bins


def load_bundle(settings: Settings) -> Manifest:
    """Load the bundle that the settings name.

    Raises
    ------
    SettingsError
        If they name none.
    """
    if settings.encoder.bundle is None:
        raise SettingsError(
            [
                "encoder.bundle must name a bundle's folder, got none. Add --bundle DIR; "
                "'neurrate bundle random RECORDING DIR' makes one with random weights."
            ]
        )
    return load_manifest(settings.encoder.bundle)


def wire(settings: Settings, context: zmq.Context[zmq.Socket[bytes]], clock: Clock) -> Components:
    """Build every component. Nothing runs yet, but for the narrator's process and the HTTP thread.

    Raises
    ------
    UserError
        For whatever the user can mend: bundle, populations, ports.
    DependencyError
        If ONNX Runtime or the narrator's libraries are not installed.
    """
    keys = load_keys(settings)
    manifest = load_bundle(settings)
    settings = _keep_daemon_to_cores(settings)
    spec = window_spec(settings, manifest)
    chosen, capacity_bins = resolve(settings, manifest)
    ring = make_ring(spec, len(manifest.population), capacity_bins)
    check_populations(settings, manifest, chosen)
    rules = load_rule_book(settings, manifest)
    confidence_of = load_confidence_of(manifest, chosen)
    counters, gauges = Counters(), Gauges(ring_capacity_bins=capacity_bins)
    health = Health(CONDITIONS, clock)
    metrics = make_registry(counters, gauges, lambda: health.is_ready)
    latencies = LatencyRecorder(metrics)
    registry = StreamRegistry(
        manifest.population, settings.ingest.extra_units, reach_ns=ring.capacity_ns
    )
    with ExitStack() as undo:  # if one cannot be built, those before it are closed
        publisher = Publisher(
            context,
            settings.publish.bind,
            queue_messages=settings.publish.queue_messages,
            is_insecure=settings.publish.insecure,
            keys=keys.publish,
            clock=clock,
        )
        undo.callback(publisher.close)
        http = None
        if settings.http.enabled:
            http = _http_server(settings, metrics, health, keys.http_token)
            undo.callback(http.close)
        # The worker loads its model while the rest starts here.
        narrator_client = _narrator_client(settings, manifest, context, clock, publisher)
        undo.callback(narrator_client.close, deadline_s=0)
        if isinstance(narrator_client, WorkerClient):
            worker = narrator_client
            show_worker(metrics, lambda: worker.worker_pid)
        encoder = load_encoder(
            manifest, chosen, threads=settings.encoder.threads, device=settings.encoder.device
        )
        triggers = None
        if rules:
            triggers = make_trigger_evaluator(
                *rules, settings, bundle=manifest.sha256, publisher=publisher, counters=counters,
                latencies=TriggerLatencies(metrics), context=context, clock=clock,
                confidence_of=confidence_of,
            )  # fmt: skip
            undo.callback(triggers.close, deadline_s=0)
        urgent = _urgent_encoder(encoder, rules[0]) if rules else None
        keeps_all = settings.encodes_every_window
        turns = _turns(encoder, urgent, None if keeps_all else settings.handover.populations)
        loop = FastLoop(
            ingest=Ingest(registry, counters, clock, ring.is_ahead),
            ring=ring,
            cutter=WindowCutter(spec, clock),
            turns=turns,
            narrator_client=narrator_client,
            narration_publisher=NarrationPublisher(
                publisher,
                counters,
                clock,
                latencies.record,
                partial(_on_narration, gauges, triggers),
                labels={selection.name: selection.label for selection in chosen},
                confidence_of=confidence_of,
            ),
            counters=counters,
            clock=clock,
            encode_every_window=keeps_all,
            narrate_every=settings.handover.every,
            triggers=triggers,
            urgent=urgent,
            absent_units=(
                AbsentUnits(registry) if settings.ingest.missing_units == "mean" else None
            ),
            unseen=Provenance(manifest.sha256, settings.narrator.backend, model="", prompt=""),
            source_publisher=SourcePublisher(publisher, clock),
            rate_meter=RateMeter(
                ring, chosen, publisher, clock, chunk_bins=spec.n_bins,
                fingerprint=manifest.population.fingerprint,
            ),
        )  # fmt: skip
        load = Load(
            n_populations=len(chosen), n_at_once=len(turns[0].populations),
            n_first=len(urgent.selections) if urgent else 0, stride_s=spec.stride_s,
            every=settings.handover.every, keeps_all=keeps_all,
        )  # fmt: skip
        encoders = [turn.encoder for turn in turns if turn.encoder]
        longest = max(encoders, key=lambda part: len(part.selections), default=None)
        undo.pop_all()
    return Components(
        manifest, keys, counters, gauges, latencies, health, registry, publisher, http,
        narrator_client, triggers, loop, chosen, partial(measure_capacity, urgent, longest, load),
    )  # fmt: skip


def _http_server(
    settings: Settings, metrics: CollectorRegistry, health: Health, token: str | None
) -> HttpServer:
    host = check_host(
        settings.http.host,
        setting="http.host",
        is_allowed=settings.http.insecure or token is not None,
        remedy="name a token's file (http.token_file), or set http.insecure",
    )
    return HttpServer(host, settings.http.port, metrics, health, token=token)


def _on_narration(gauges: Gauges, triggers: TriggerEvaluator | None, narration: Narration) -> None:
    """Note its confidence for Prometheus, and try the rules on it. Called on the fast loop."""
    gauges.note_confidence(narration.population, narration.confidence)
    if triggers:
        triggers.on_narration(narration)


def _keep_daemon_to_cores(settings: Settings) -> Settings:
    """Keep the daemon to its cores; return settings that give the worker all others as well.

    Raises
    ------
    SettingsError
        If a core of either is none that may be used.
    """
    daemon, narrator = settings.service.cores, settings.narrator
    check_cores(daemon, setting="service.cores")
    check_cores(narrator.cores, setting="narrator.cores")
    if not daemon:
        return settings
    # The worker would inherit what the daemon may use.
    narrator = narrator.model_copy(update={"cores": narrator.cores or usable_cores()})
    keep_to_cores(daemon)
    return settings.model_copy(update={"narrator": narrator})


def _urgent_encoder(encoder: WindowEncoder, book: RuleBook) -> WindowEncoder | None:
    """Return an encoder of the populations that rules on probes need; None without such rules.

    A CPU takes eight times as long for eight populations as for one, so that those of the triggers
    are encoded first. A GPU takes as long for all of them as for one, and encodes them at once.
    """
    names = {rule.condition.population for rule in book.of_kind(TriggerKind.PROBE)}
    if not names:
        return None
    return encoder.part(names) if encoder.is_on_cpu else encoder


def _turns(
    encoder: WindowEncoder, urgent: WindowEncoder | None, at_once: int | None
) -> Sequence[Turn]:
    """Divide the populations into turns of `at_once`, each with an encoder of the others."""
    names = [selection.name for selection in encoder.selections]
    step = len(names) if at_once is None else at_once
    is_urgent = {selection.name for selection in urgent.selections} if urgent else set()
    turns = []
    for first in range(0, len(names), step):
        of_turn = names[first : first + step]
        others = [name for name in of_turn if name not in is_urgent]
        if others == names:
            turns.append(Turn(of_turn, encoder))
        else:
            turns.append(Turn(of_turn, encoder.part(others) if others else None))
    if len(turns) > 1:
        fields = {"populations": len(names), "at_once": step, "turns": len(turns)}
        logger.info("populations take turns", extra=fields)
    return turns


def worker_arguments(settings: Settings, manifest: Manifest) -> Sequence[str]:
    """Return the command line of the narrator worker, but for its address."""
    return [
        "--bundle", str(manifest.folder),
        "--bundle-sha256", manifest.sha256,
        "--narrator", _narrator_settings(settings).model_dump_json(),
        "--vllm", settings.vllm.model_dump_json(),
        "--log", settings.log.model_dump_json(),
    ]  # fmt: skip


def _narrator_settings(settings: Settings) -> NarratorSettings:
    """Return the narrator's settings, with `joins` from the hand-over's policy where it is None."""
    narrator = settings.narrator
    if narrator.joins is not None:
        return narrator
    return narrator.model_copy(update={"joins": settings.handover.policy == "all"})


def _narrator_client(
    settings: Settings,
    manifest: Manifest,
    context: zmq.Context[zmq.Socket[bytes]],
    clock: Clock,
    publisher: Publisher,
) -> NarratorClient:
    narrator = settings.narrator
    if settings.is_sequential:
        return InlineClient(
            load_narrator(narrator, manifest, vllm=settings.vllm),
            clock,
            failures_before_problem=narrator.failures_before_unready,
        )
    return WorkerClient(
        context,
        worker_arguments(settings, manifest),
        batch_timeout_s=narrator.batch_timeout_s,
        failures_before_problem=narrator.failures_before_unready,
        clock=clock,
        handover=Handover(settings.handover.policy, settings.handover.capacity),
        wants_partials=lambda: publisher.has_partial_subscriber,
    )
