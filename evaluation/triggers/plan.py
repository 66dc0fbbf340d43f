"""Check everything that a dry run of rules needs before a process is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import UserError
from contracts.manifest import CAPTIONS
from contracts.toml import read_toml
from contracts.trigger import TriggerKind
from daemon.service.settings_loader import named_populations, overrides_of, settings_from
from evaluation.trial import QUEUE_MESSAGES, TrialPlan
from evaluation.triggers.annotations import ConceptAnnotations, captions_as_truth, read_truth_file

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.window import WindowSpec
    from daemon.service.settings import Settings
    from daemon.triggers.probes import ConceptProbes
    from daemon.triggers.rule_file import RuleBook
    from daemon.triggers.rules import Rule
    from stream_sources.recordings.recording import RecordingSource

NEVER = 1_000_000
"""Only every so many windows are narrated if no rule depends on narrations: the first alone."""

SPOKEN = (TriggerKind.WORD, TriggerKind.LIKENESS)


@dataclass(frozen=True, slots=True)
class DryRunRequest:
    """What was given on the command line; None where nothing was."""

    recording: str
    bundle: Path
    rules: Path
    truth: Path | None = None
    model: str | None = None
    # Expressions separated by commas; None for those of the settings or of the rules
    populations: str | None = None
    speed: str = "max"
    start: float | None = None
    seconds: float | None = None
    config: Path | None = None
    settings: tuple[str, ...] = ()  # As given to ``--set``


@dataclass(frozen=True, slots=True)
class DryRunPlan:
    """Everything that is known before the replay."""

    manifest: Manifest
    settings: Settings  # Of the daemon that will run
    spec: WindowSpec  # Of its windows
    book: RuleBook
    probes: ConceptProbes | None
    # The part of the recording that will be played; the caller closes it
    source: RecordingSource
    truth: ConceptAnnotations
    plan: TrialPlan

    def tolerance_ns(self, rule: Rule) -> int:
        """Return how long after an event a trigger still belongs to it: window, lag and dwell.

        The last window that overlaps what the event evoked ends so much later, and a dwell ends
        with the last of its windows.
        """
        spec = self.spec
        every = self.settings.handover.every if rule.condition.kind in SPOKEN else 1
        waiting = (rule.level.dwell - 1) * every * spec.stride_bins
        return spec.lag_ns + spec.rate.start_ns(spec.n_bins + waiting)


def prepare(request: DryRunRequest) -> DryRunPlan:
    """Load and check everything.

    Raises
    ------
    UserError
        If rules, bundle, recording, annotations or settings are at fault.
    """
    from contracts.manifest import load_manifest
    from daemon.service.wiring import resolve, window_spec
    from daemon.triggers.auto import load_rule_book
    from stream_sources.recordings.open_source import open_source, units_of
    from stream_sources.speed import speed_factor

    speed_factor(request.speed)
    file_truth = read_truth_file(request.truth) if request.truth is not None else None
    manifest = load_manifest(request.bundle)
    settings, given = _settings(request, manifest)
    resolve(settings, manifest)
    loaded = load_rule_book(settings, manifest)
    if loaded is None:
        raise UserError("--rules must name a file of rules.")
    book, probes = loaded
    source = open_source(
        request.recording,
        only=units_of(request.bundle),
        start_s=request.start,
        duration_s=request.seconds,
        batch_ms=100.0,
    )
    truth = file_truth or captions_as_truth(source.presentations, request.recording)
    if truth is None:
        source.close()
        raise UserError(
            f"triggers are held to what was on the screen, and {request.recording} has no captions "
            "of its presentations. Give --truth FILE, a CSV of start_s,stop_s,concept in seconds "
            "of session time."
        )
    spec = window_spec(settings, manifest)
    model = request.model or settings.narrator.model or manifest.model.language_model.model_id
    plan = TrialPlan(
        recording=request.recording,
        bundle=request.bundle,
        model=model,
        populations=settings.populations,
        stride_bins=spec.stride_bins,
        speed=request.speed,
        seconds=request.seconds,
        start=request.start,
        config=request.config,
        settings=given,
        queue_messages=QUEUE_MESSAGES,
    )
    return DryRunPlan(manifest, settings, spec, book, probes, source, truth, plan)


def _settings(request: DryRunRequest, manifest: Manifest) -> tuple[Settings, tuple[str, ...]]:
    """Return the daemon's settings, and those that it must be given, as after ``--set``."""
    populations, is_spoken = _named_in(request.rules)
    ours: dict[str, object] = {
        # Every window is encoded in turn, so that none is dropped however fast the replay; with
        # sentences at a fixed speed, the narrator works beside the loop, as it does live.
        "narrator.mode": "worker" if is_spoken and request.speed != "max" else "sequential"
    }
    if not is_spoken:
        ours["handover.every"] = NEVER
        if manifest.file(CAPTIONS) is not None:
            ours["narrator.backend"] = "retrieval"
    forced = {"triggers.rules": str(request.rules.absolute()), "triggers.dry_run": True}
    named = {**ours, **overrides_of(request.settings), **forced}
    loaded = settings_from(request.config, (), named)
    if request.populations is not None:
        named["populations"] = named_populations(request.populations)
    elif loaded.provenance["populations"] == "default":
        named["populations"] = {name: name for name in populations or ("all",)}
    settings = settings_from(request.config, (), named).settings
    given = {key: value for key, value in named.items() if key != "populations"}
    return settings, tuple(f"{key}={_spelled(value)}" for key, value in given.items())


def _spelled(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _named_in(rules: Path) -> tuple[Sequence[str], bool]:
    """Return the populations that rules name, and whether a rule depends on narrations.

    What cannot be read is skipped: loading the rules reports it.
    """
    from daemon.triggers.rules import RuleConditionError, read_condition

    try:
        tables = read_toml(rules).get("triggers", {}).values()
    except (OSError, ValueError, AttributeError):
        return (), False
    conditions = []
    for table in tables:
        try:
            conditions.append(read_condition(table["when"]))
        except (RuleConditionError, KeyError, TypeError):
            continue
    names = dict.fromkeys(condition.population for condition in conditions)
    return tuple(names), any(condition.kind in SPOKEN for condition in conditions)
