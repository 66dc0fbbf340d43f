"""Sentences of the report that follow from several scores together."""

from __future__ import annotations

from collections.abc import Sequence

from encoder_training.evaluation.results import HEADLINES, METRICS, EncoderResults, MethodScores
from encoder_training.pictures import markdown


def chance_findings(results: EncoderResults) -> list[str]:
    """Name the populations in which all methods, or the encoder but not all, are at chance.

    A population is blind only if no method is better than chance there: where a baseline is, the
    spikes tell of the frame and the encoder misses it.
    """
    blind: list[str] = []
    missed: dict[tuple[str, ...], list[str]] = {}
    for population in dict.fromkeys(method.population for method in results.populations):
        methods = [method for method in results.populations if method.population == population]
        above = tuple(method.name for method in methods if method.is_above_chance)
        if all(method.against_chance == "at chance" for method in methods):
            blind.append(markdown(population))
        elif above and results.method("encoder", population).against_chance == "at chance":
            missed.setdefault(above, []).append(markdown(population))
    findings = [
        f"In {_and(names)} the encoder is at chance within 1 s and {_and(above)} "
        f"{'is' if len(above) == 1 else 'are'} not."
        for above, names in missed.items()
    ]
    if blind:
        findings.append(f"No better than chance within 1 s, by any method: {', '.join(blind)}.")
    return findings


def seen_frames(results: EncoderResults, baselines: Sequence[str], variant: str) -> list[str]:
    """Return the section on test frames that were all seen in training; empty if some are new.

    It names what is best there, by the scores of this very evaluation. `variant` is that of the
    encoder, empty if unknown.
    """
    if results.n_unseen:
        return []
    encoder = results.method("encoder")
    methods = [encoder, *(results.method(name) for name in baselines)]
    own = f"encoder (variant {variant})" if variant else "encoder"
    rows = [_best_row(results, methods, metric) for metric in HEADLINES]
    return [
        "## Frames seen in training",
        "",
        f"All {results.n_frames:,} test frames are also shown in training windows, at other times. "
        "What is best on them need not be best on new frames.",
        "",
        f"| score | best | its score | {own} |",
        "| --- | --- | --- | --- |",
        *rows,
        *(["", _recommendation(results, baselines, own)] if results.has_intervals else []),
    ]


def _best_row(results: EncoderResults, methods: Sequence[MethodScores], metric: str) -> str:
    highest = max(method.scores[metric].value for method in methods)
    best = [method for method in methods if method.scores[metric].value == highest]
    names = ", ".join(method.name for method in best)
    scores = [results.text(method.scores[metric]) for method in (best[0], methods[0])]
    return f"| {METRICS[metric]} | {names} | {' | '.join(scores)} |"


def _recommendation(results: EncoderResults, baselines: Sequence[str], own: str) -> str:
    """Return what to do on frames that come again, by who is ahead of whom."""
    behind = {
        name: [METRICS[m] for m in HEADLINES if results.against(name).verdict(m) == "behind"]
        for name in baselines
    }
    leaders = [f"{name} ({', '.join(metrics)})" for name, metrics in behind.items() if metrics]
    if not leaders:
        return (
            f"No baseline is ahead of the {own} here. Another (`--architecture`, `--variant`) is "
            "better for repeats of known frames only if its own report on this data set has higher "
            "scores in this table."
        )
    return (
        f"Ahead of the {own} here: {', '.join(leaders)}. These choose among frames of the "
        "training. For repeats of known frames train other encoders on this data set "
        "(`--architecture evidence`, the default, and `--architecture neurrator` with `--variant "
        "patches` or `retrieval`) and take the one with the highest scores in this table."
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
