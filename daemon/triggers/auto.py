"""Makes a trigger evaluator from settings: rules, probes, sinks, a sentence model if needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import zmq

from contracts.clock import Clock
from contracts.embedding import PatchEmbedding
from contracts.errors import SettingsError
from contracts.manifest import CONFIDENCE, Manifest
from contracts.trigger import TriggerKind
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.service.settings import Settings
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.likeness_client import LikenessClient
from daemon.triggers.probes import EVERYONE, ConceptProbes, PopulationProbes, load_probes
from daemon.triggers.rule_file import RuleBook, load_rules
from daemon.triggers.sentence_model import model_folder, model_problem
from daemon.triggers.sinks.command import CommandOutlet
from daemon.triggers.sinks.thread import Outlet, SinkThread
from daemon.triggers.tables import CommandSinkTable, HttpSinkTable, OscSinkTable, SinkTable

UNDO_S = 1.0
"""Seconds that what was started has to end, if a later part cannot be started."""

logger = logging.getLogger(__name__)


def load_rule_book(
    settings: Settings, manifest: Manifest
) -> tuple[RuleBook, ConceptProbes | None] | None:
    """Read the rules that the settings name, and the bundle's probes; None without rules.

    Raises
    ------
    ManifestError
        With every problem of the probes.
    SettingsError
        With every problem of the rules, or if the sentence model that they name cannot exist.
    DependencyError
        If a rule needs a library that is not installed.
    """
    if settings.triggers.rules is None:
        return None
    probes = load_probes(manifest)
    book = load_rules(
        settings.triggers.rules,
        probes=probes,
        populations=settings.populations,
        dry_run=settings.triggers.dry_run,
        has_confidence=manifest.file(CONFIDENCE) is not None,
    )
    if book.of_kind(TriggerKind.LIKENESS):
        model = model_folder(book.likeness_model)
        if problem := model_problem(model):
            file = settings.triggers.rules
            raise SettingsError([f"likeness.model {model!r:.200} cannot be: {problem} ({file})"])
    return book, probes


def population_probes(
    book: RuleBook, probes: ConceptProbes | None, populations: dict[str, str]
) -> PopulationProbes | None:
    """Return the probes of the populations that rules on probes name; None if no rule does."""
    names = sorted({rule.condition.population for rule in book.of_kind(TriggerKind.PROBE)})
    if probes is None or not names:
        return None
    watched = PopulationProbes(probes, {name: populations[name] for name in names})
    for name, calibration in watched.calibrations.items():
        if calibration == EVERYONE != populations[name]:
            logger.warning(
                "probes calibrated for another population",
                extra={"population": name, "calibration": calibration},
            )
    return watched


def make_trigger_evaluator(
    book: RuleBook,
    probes: ConceptProbes | None,
    settings: Settings,
    *,
    bundle: str,
    publisher: Publisher,
    counters: Counters,
    latencies: TriggerLatencies,
    context: zmq.Context[zmq.Socket[bytes]],
    clock: Clock,
    confidence_of: Callable[[PatchEmbedding], float | None] = lambda _: None,
) -> TriggerEvaluator:
    """Start the sinks and the sentence model that the rules need, and return their evaluator.

    Parameters are those of `TriggerEvaluator`. What has been started is closed again if a later
    part cannot be started.
    """
    with ExitStack() as undo:
        sinks = {}
        for name in sorted({name for rule in book.rules if not rule.is_dry for name in rule.sinks}):
            sinks[name] = _sink(name, book.sinks[name], clock)
            undo.callback(sinks[name].close, deadline_s=UNDO_S)
        likeness = None
        if sentences := [rule.condition.what for rule in book.of_kind(TriggerKind.LIKENESS)]:
            likeness = LikenessClient(
                context,
                sentences,
                model=model_folder(book.likeness_model),
                log=settings.log.model_dump_json(),
                clock=clock,
            )
            undo.callback(likeness.close, deadline_s=UNDO_S)
        evaluator = TriggerEvaluator(
            book,
            probes=population_probes(book, probes, settings.populations),
            publisher=publisher,
            counters=counters,
            latencies=latencies,
            clock=clock,
            bundle=bundle,
            sinks=sinks,
            likeness=likeness,
            confidence_of=confidence_of,
        )
        undo.pop_all()
    return evaluator


def _sink(name: str, table: SinkTable, clock: Clock) -> SinkThread:
    outlet: Outlet
    if isinstance(table, CommandSinkTable):
        outlet = CommandOutlet(table, clock)
    elif isinstance(table, OscSinkTable):
        from daemon.triggers.sinks.osc import OscOutlet

        outlet = OscOutlet(table)
    else:
        # The HTTP library takes a tenth of a second to import: only where a sink needs it.
        from daemon.triggers.sinks.http import HttpOutlet, OpenEphysOutlet

        if isinstance(table, HttpSinkTable):
            outlet = HttpOutlet(table, clock)
        else:
            outlet = OpenEphysOutlet(table, clock)
    return SinkThread(name, outlet, queue=table.queue, max_age_s=table.max_age_s, clock=clock)
