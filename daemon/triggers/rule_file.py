"""Reads the file of rules and sinks; one error lists every problem."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from contracts.clock import NS_PER_S
from contracts.errors import SettingsError, listed
from contracts.toml import read_toml
from contracts.trigger import TriggerKind
from contracts.words import words_in
from daemon.triggers.crossing import Level
from daemon.triggers.probes import ConceptProbes
from daemon.triggers.rules import Rule, RuleCondition, RuleConditionError, read_condition
from daemon.triggers.tables import RuleFileTable, RuleTable, SinkTable, keys_at

STRAGGLER_NS = 10 * NS_PER_S
"""A narration of a window so much older than the last one's has been overtaken by it; one that is
still older belongs to a source that began anew."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME_RULE = "must have a name of 1 to 64 letters, digits, _ or -"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules of a daemon, checked against its bundle and populations."""

    rules: tuple[Rule, ...]
    sinks: dict[str, SinkTable]  # those that some rule names, by name
    likeness_model: str | None = None  # folder or hub id; None stands for the default

    def of_kind(self, *kinds: TriggerKind) -> tuple[Rule, ...]:
        """Return the rules of some kinds."""
        return tuple(rule for rule in self.rules if rule.condition.kind in kinds)


def load_rules(
    path: Path,
    *,
    probes: ConceptProbes | None,
    populations: Mapping[str, str],
    dry_run: bool = False,
    has_confidence: bool = False,
) -> RuleBook:
    """Read a rule file.

    `populations` are expressions by name. With `dry_run` no rule has a sink. Without
    `has_confidence`, which the bundle must have, no rule may ask for a confidence.

    Raises
    ------
    SettingsError
        With every problem of every rule and sink.
    """
    file, sinks, problems = _read(path)
    rules = []
    if file is not None:
        if not file.triggers:
            problems.append(f"{path} must hold one rule or more, such as [triggers.car_seen]")
        for name, table in file.triggers.items():
            rule, of_rule = _rule(
                name, table, probes, populations, sinks, dry_run, has_confidence=has_confidence
            )
            problems += [f"triggers.{name}{problem} ({path})" for problem in of_rule]
            rules += [rule] if rule else []
        problems += [
            f"sinks.{name} {_NAME_RULE} ({path})" for name in sinks if not _NAME.fullmatch(name)
        ]
    if problems or file is None:
        raise SettingsError(problems)
    used = {name for rule in rules for name in rule.sinks}
    for name in sorted(file.sinks.keys() - used):
        logger.warning("no rule names this sink", extra={"sink": name, "file": str(path)})
    tables = {name: table for name, table in file.sinks.items() if name in used}
    return RuleBook(tuple(rules), tables, file.likeness.model)


def _read(path: Path) -> tuple[RuleFileTable | None, tuple[str, ...], list[str]]:
    """Return the valid part of the file, the names of all sinks, and problems."""
    try:
        tree: dict[str, Any] = read_toml(path)
    except FileNotFoundError:
        return None, (), [f"triggers.rules must be a file that is there, got {path}"]
    except IsADirectoryError:
        return None, (), [f"triggers.rules must be a file, got the folder {path}"]
    except OSError as error:
        return None, (), [f"triggers.rules {path} cannot be read: {error.strerror}"]
    except ValueError as error:
        return None, (), [f"triggers.rules {path} is not TOML: {error}"]
    named = tree.get("sinks")
    sinks = tuple(named) if isinstance(named, dict) else ()
    try:
        return RuleFileTable.model_validate(tree), sinks, []
    except ValidationError as error:
        details = error.errors()
    problems = [_sentence(detail, path) for detail in details]
    for detail in details:  # without what is wrong, so that the rest is checked as well
        _leave_out(tree, [str(part) for part in detail["loc"]])
    is_there = bool(tree.get("triggers"))
    return RuleFileTable.model_validate(tree) if is_there else None, sinks, problems


def _leave_out(tree: dict[str, Any], place: list[str]) -> None:
    """Remove what is wrong from a file: one key of a rule, or a rule whose condition is wrong."""
    top, *below = place
    table = tree.get(top)
    if not below or not isinstance(table, dict):
        tree.pop(top, None)
        return
    name, *key = below
    rule = table.get(name)
    if top == "triggers" and key and key[0] != "when" and isinstance(rule, dict):
        rule.pop(key[0], None)
    else:
        table.pop(name, None)


def _rule(
    name: str,
    table: RuleTable,
    probes: ConceptProbes | None,
    populations: Mapping[str, str],
    sinks: tuple[str, ...],
    dry_run: bool,
    *,
    has_confidence: bool,
) -> tuple[Rule | None, list[str]]:
    problems = [] if _NAME.fullmatch(name) else [f" {_NAME_RULE}"]
    problems += [
        f".sinks names {sink!r}, and there is no [sinks.{sink}]{_nearest(sink, sinks)}"
        for sink in table.sinks
        if sink not in sinks
    ]
    twice = sorted({sink for sink in table.sinks if table.sinks.count(sink) > 1})
    problems += [f".sinks names {sink!r} twice: it gets a trigger once" for sink in twice]
    try:
        condition = read_condition(table.when)
    except RuleConditionError as error:
        return None, [*problems, f".when {error.problem}:\n{error.marked}\n   "]
    problems += _condition_problems(condition, probes, populations)
    problems += _confidence_problems(condition, has_confidence=has_confidence)
    problems += _level_problems(condition, table.release)
    release = condition.threshold if table.release is None else table.release
    level = Level(
        is_above=condition.is_above,
        threshold=condition.threshold,
        release=release,
        dwell=condition.dwell,
        refractory_ns=round(table.refractory_s * NS_PER_S),
        straggler_ns=0 if condition.kind is TriggerKind.PROBE else STRAGGLER_NS,
    )
    rule = Rule(name, table.when, condition, level, table.dry_run or dry_run, table.sinks)
    return (None if problems else rule), problems


def _condition_problems(
    condition: RuleCondition, probes: ConceptProbes | None, populations: Mapping[str, str]
) -> Iterator[str]:
    population, what = condition.population, condition.what
    if population not in populations:
        yield (
            f".when names the population {population!r}, which is not narrated"
            f"{_nearest(population, tuple(populations))}. There are "
            f"{listed(tuple(populations))}; add it to [populations]"
        )
    if condition.kind is TriggerKind.WORD and not words_in(what):
        yield f".when must name a word of letters that a sentence can have, got {what!r}"
    if condition.kind is not TriggerKind.PROBE:
        return
    if probes is None:
        yield (
            ".when asks for a concept probe, and the bundle has none. Train the encoder on frames "
            "with captions and export it, or use a rule on narrations"
        )
    elif what not in probes.concepts:
        yield (
            f".when names the concept {what!r}, which the bundle has no probe for"
            f"{_nearest(what, probes.concepts)}. It has: {', '.join(probes.concepts) or 'none'}"
        )


def _confidence_problems(condition: RuleCondition, *, has_confidence: bool) -> Iterator[str]:
    above = condition.above_confidence
    if above is None:
        return
    if not has_confidence:
        yield (
            ".when asks for a confidence, and the bundle has no calibration of it. Train the "
            "encoder again and export it, or leave 'and confidence' out"
        )
    if not 0 < above < 1:
        yield f".when must have a confidence between 0 and 1, a probability, got {above:g}"


def _level_problems(condition: RuleCondition, release: float | None) -> Iterator[str]:
    is_cosine = condition.kind is TriggerKind.LIKENESS
    low, what_it_is = (-1, "a cosine") if is_cosine else (0, "a probability")
    if not low < condition.threshold < 1:
        yield (
            f".when must have a threshold between {low} and 1, {what_it_is}, got "
            f"{condition.threshold:g}"
        )
    if release is None:
        return
    if condition.kind is TriggerKind.WORD:
        yield ".release has no meaning where a word is said or not: leave it out"
    elif not low < release < 1:
        yield f".release must be between {low} and 1, {what_it_is}, got {release:g}"
    elif condition.is_above and release > condition.threshold:
        yield (
            f".release must be at or below the threshold {condition.threshold:g} of a rule with "
            f">, got {release:g}"
        )
    elif not condition.is_above and release < condition.threshold:
        yield (
            f".release must be at or above the threshold {condition.threshold:g} of a rule with "
            f"<, got {release:g}"
        )


def _nearest(name: str, known: tuple[str, ...]) -> str:
    nearest = get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(nearest)}?)" if nearest else ""


def _sentence(detail: ErrorDetails, path: Path) -> str:
    """Return which rule was broken, where, and what was found, as a sentence."""
    loc = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        known = keys_at(loc)
        return f"Unknown key {'.'.join(_without_kind(loc))} in {path}{_nearest(loc[-1], known)}."
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    if detail["type"] == "missing":
        rule = "must be given"
    elif detail["type"].startswith("union_tag"):
        rule = 'must have kind = "http", "open_ephys", "command" or "osc"'
    found = "" if "got " in rule or rule == "must be given" else f", got {detail['input']!r:.100}"
    return f"{'.'.join(_without_kind(loc))} {rule}{found} ({path})."


def _without_kind(loc: list[str]) -> list[str]:
    """Drop the kind of a sink, which pydantic puts in the path."""
    return loc[:2] + loc[3:] if loc[0] == "sinks" and len(loc) > 3 else loc
