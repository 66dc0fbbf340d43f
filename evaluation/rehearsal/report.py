"""What a rehearsal found: scores of each step, what each step loses, how late narrations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.facts_score import tallies
from evaluation.rehearsal.sorting_quality import SortingQuality
from evaluation.scores import Score, Tally, difference, draw_scenes, json_values, score
from simulation.scenes.facts import Facts

REPORT_VERSION = 1  # Raised when a key changes its meaning or is removed
SHOWN_SCORES = ("object_f1", "direction", "count", "distance", "light")


@dataclass(frozen=True, slots=True)
class StepScores:
    """The sentences of one step by population, one for each scene, and how good its spikes are.

    `quality` is None for a step without spikes.
    """

    texts: Mapping[str, Sequence[str]]
    quality: SortingQuality | None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Everything that was measured."""

    command: str
    facts: Mapping[str, Any]  # Sizes, and that it is simulated
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]]  # By step, population and score
    losses: Mapping[str, Interval]  # Object F1 of all units: a step less the next one
    leads: Mapping[str, Interval]  # Object F1 of all units less that of shuffled units, by step
    qualities: Mapping[str, SortingQuality]
    latency: Mapping[str, Any]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        tree = {
            "version": REPORT_VERSION,
            "command": self.command,
            **self.facts,
            "scores": {
                step: {
                    population: {
                        name: {"value": s.value, "ci": [s.low, s.high], "chance": s.chance}
                        for name, s in scores.items()
                    }
                    for population, scores in populations.items()
                }
                for step, populations in self.scores.items()
            },
            "losses": {name: _interval(one) for name, one in self.losses.items()},
            "leads_over_shuffled": {name: _interval(one) for name, one in self.leads.items()},
            "sorting": {name: quality.to_json() for name, quality in self.qualities.items()},
            "latency": self.latency,
            "seconds": dict(self.seconds),
        }
        return dict(json_values(tree))

    def score_rows(self) -> list[dict[str, object]]:
        """Return the table of scores: a row for each step and population."""
        return [
            {
                "narrated": step,
                "population": population,
                **{name: round(scores[name].value, 3) for name in SHOWN_SCORES},
                "95 % of F1": f"{scores['object_f1'].low:.2f} to {scores['object_f1'].high:.2f}",
                "chance": round(scores["object_f1"].chance, 3),
            }
            for step, populations in self.scores.items()
            for population, scores in populations.items()
        ]

    def loss_rows(self) -> list[dict[str, object]]:
        """Return the table of losses of object F1."""
        named = {**self.losses, **{f"lead of {k} over shuffled": v for k, v in self.leads.items()}}
        return [
            {"object F1": name, "value": round(one.value, 3), "95 %": _text(one)}
            for name, one in named.items()
        ]

    def sorting_rows(self) -> list[dict[str, object]]:
        """Return the table of the sortings against the planted spikes."""
        return [
            {
                "spikes": name,
                "measured on": one.measured_on,
                "planted": one.n_planted,
                "units": one.n_units,
                "found": one.n_found,
                "median agreement": round(one.median_agreement, 3),
                "recall": round(one.recall, 3),
            }
            for name, one in self.qualities.items()
        ]

    def latency_rows(self) -> list[dict[str, object]]:
        """Return the table of latencies, ms since the last sample of a window."""
        names = {
            "sample_to_spikes_ms": "to the spikes in the daemon",
            "sample_to_trigger_ms": "to a trigger",
            "sample_to_sentence_ms": "to a sentence",
        }
        rows = []
        for key, name in names.items():
            found = self.latency[key] or {}
            cells = {p: round(found[p], 1) if p in found else None for p in ("p50", "p95", "p99")}
            rows.append({"from the last sample (ms)": name, **cells, "n": found.get("n", 0)})
        return rows


def assemble_rehearsal(
    scenes: Sequence[Facts],
    steps: Mapping[str, StepScores],
    *,
    seed: int,
    command: str,
    facts: Mapping[str, Any],
    latency: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Rehearsal:
    """Score all sentences; steps come in order, each of which can lose what the one before had."""
    draws = draw_scenes(len(scenes), seed=seed)
    found = {
        step: {name: tallies(scenes, texts, seed=seed) for name, texts in one.texts.items()}
        for step, one in steps.items()
    }

    def f1(step: str, population: str) -> Tally:
        return found[step][population]["object_f1"]

    names = list(steps)
    return Rehearsal(
        command=command,
        facts=facts,
        scores={
            step: {
                name: {key: score(tally, draws) for key, tally in one.items()}
                for name, one in populations.items()
            }
            for step, populations in found.items()
        },
        losses={
            f"lost from {before} to {after}": difference(f1(before, "all"), f1(after, "all"), draws)
            for before, after in pairwise(names)
        },
        leads={
            step: difference(f1(step, "all"), f1(step, "shuffled"), draws)
            for step in names
            if "shuffled" in found[step]
        },
        qualities={name: one.quality for name, one in steps.items() if one.quality is not None},
        latency=latency,
        seconds=seconds,
    )


def _interval(one: Interval) -> dict[str, Any]:
    return {"value": one.value, "ci": [one.low, one.high]}


def _text(one: Interval) -> str:
    return f"{one.low:+.2f} to {one.high:+.2f}"
