"""Make a dry run: replay, scores of every window, and then the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contracts.clock import ns_to_second, second_to_ns
from contracts.errors import UserError
from contracts.trigger import TriggerKind, trigger_latency_ms
from evaluation.latency.messages import percentiles
from evaluation.progress import report
from evaluation.trial import TrialResult, run_trial
from evaluation.triggers.plan import DryRunPlan
from evaluation.triggers.report import DryRun, RuleScore, ScoredRule
from evaluation.triggers.score_trace import Trace, narration_traces, probe_traces, sweep
from evaluation.triggers.scoring import (
    AnnotatedConcept,
    bootstrap_scores,
    chance_by_shifts,
    find_events,
    match,
)

if TYPE_CHECKING:
    from daemon.triggers.rules import Rule


def dry_run(prepared: DryRunPlan, folder: Path, *, command: str, seed: int = 0) -> DryRun:
    """Replay a recording with rules that reach no sink, and score their triggers.

    `folder` is empty; logs go there. `seed` is of the bootstrap and of the circular shifts.

    Raises
    ------
    UserError
        If no rule can be scored.
    """
    concepts = _concepts(prepared)
    report("triggers: replaying")
    start_s, stop_s = (ns_to_second(edge) for edge in prepared.source.span_ns)
    result = run_trial(prepared.plan, folder / "replay", title="triggers", span_s=(start_s, stop_s))
    report("triggers: scoring every window once more")
    traces = probe_traces(
        prepared.source,
        prepared.manifest,
        prepared.book,
        prepared.probes,
        prepared.settings,
        n_windows=result.n_windows,
    ) | narration_traces(prepared.book, tuple(result.narrations.values()))
    rules = tuple(
        _rule_score(
            rule,
            concepts[rule.name],
            result,
            traces[rule.name],
            is_whole=prepared.plan.speed == "max",
            seed=seed,
        )
        for rule in prepared.book.rules
    )
    counters = result.counters
    return DryRun(
        command=command,
        recording=str(prepared.plan.recording),
        bundle=prepared.manifest.sha256,
        truth=prepared.truth.source,
        speed=prepared.plan.speed,
        mode=prepared.settings.narrator.mode,
        played=prepared.source.span_ns,
        annotated=prepared.truth.annotated(prepared.source.span_ns),
        counters={
            "windows": result.n_windows,
            "encoded": counters["windows_encoded"],
            "narrations": sum(counters["narrations"].values()),
            "dropped": {why: n for why, n in counters["windows_dropped"].items() if n},
            "likeness_dropped": counters["likeness_dropped"],
        },
        rules=rules,
    )


def _concepts(prepared: DryRunPlan) -> dict[str, AnnotatedConcept | str]:
    """Return the events of each rule, or why it cannot be scored.

    Raises
    ------
    UserError
        If no rule can be scored.
    """
    concepts = {rule.name: _concept(prepared, rule) for rule in prepared.book.rules}
    if all(isinstance(concept, str) for concept in concepts.values()):
        why = "\n".join(f"  {name}: {reason}" for name, reason in concepts.items())
        raise UserError(f"no rule can be scored:\n{why}")
    return concepts


def _concept(prepared: DryRunPlan, rule: Rule) -> AnnotatedConcept | str:
    intervals, played = prepared.truth.concept_intervals(rule), prepared.source.span_ns
    if isinstance(intervals, str):
        return intervals
    if intervals[-1][1] <= played[0] or intervals[0][0] >= played[1]:
        start, stop = (ns_to_second(edge) for edge in played)
        first, last = (ns_to_second(edge) for edge in (intervals[0][0], intervals[-1][1]))
        return (
            f"the truth is of {first:.3f} to {last:.3f} s, and {start:.3f} to {stop:.3f} s are "
            "replayed; do both count from the same zero?"
        )
    return find_events(
        intervals,
        prepared.truth.annotated(played),
        tolerance_ns=prepared.tolerance_ns(rule),
        is_above=rule.condition.is_above,
    )


def _rule_score(
    rule: Rule,
    concept: AnnotatedConcept | str,
    result: TrialResult,
    trace: Trace,
    *,
    is_whole: bool,
    seed: int,
) -> RuleScore:
    """Score one rule; `is_whole` if no window may be missing.

    At full speed sentences arrive faster than they can be compared, and the daemon, which never
    waits, leaves some out. When the rule would have fired is then computed here.
    """
    n_uncompared = result.counters["likeness_dropped"]
    fired = [trigger for trigger in result.triggers if trigger.name == rule.name]
    rows = trace.fired(rule.level)
    again = trace.seq[rows]
    is_computed = rule.condition.kind is TriggerKind.LIKENESS and is_whole and n_uncompared > 0
    times_ns = (
        trace.stop_ns[rows].tolist()
        if is_computed
        else [second_to_ns(trigger.window.stop_s) for trigger in fired]
    )
    scored: ScoredRule | str
    if isinstance(concept, str):
        scored = concept
    else:
        scored = ScoredRule(
            concept=concept,
            outcome=match(concept, times_ns),
            scores=bootstrap_scores(concept, times_ns, seed=seed),
            chance=chance_by_shifts(concept, times_ns, seed=seed),
            swept=sweep(rule, trace, concept),
        )
    return RuleScore(
        rule=rule,
        times_ns=tuple(times_ns),
        host_ms=percentiles([trigger_latency_ms(trigger.stamps)["total"] for trigger in fired]),
        trace=trace,
        n_fired=len(fired),
        n_again=len(again),
        n_same=int(np.isin(again, [trigger.window.seq for trigger in fired]).sum()),
        is_computed=is_computed,
        result=scored,
    )
