"""The answer to an experiment: its tables, figures and findings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from contracts.errors import UserError
from contracts.population import CONTROLS
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.clips.effects import Effect, SwappedLabels, effects_of, mentions_of, swapped
from evaluation.clips.experiment import Experiment
from evaluation.clips.figures import draw_effects, draw_power
from evaluation.clips.narrations import ClipNarrations, order_of
from evaluation.clips.power import (
    ENOUGH,
    GIVEN,
    N_EXPERIMENTS,
    NUMBERS,
    OBSERVED,
    PowerCurve,
    power_curve,
)
from evaluation.clips.schedule import Presentation
from evaluation.questions.answer import Answer, AnswerFigure, Row, p_text, with_interval
from evaluation.questions.chance import LEVEL, is_rejected
from evaluation.questions.false_positives import rejection_rate

LOWER_END = "lower end of its interval"
"""What to plan for with caution: an effect that is large by chance is seen too."""

Curves = dict[tuple[str, str, str], PowerCurve]
"""By feature, narrator, and `OBSERVED`, `LOWER_END` or a given difference."""


def answer_clips(
    experiment: Experiment, schedule: Sequence[Presentation], narrations: ClipNarrations
) -> Answer:
    """Test every feature and narrator.

    Raises
    ------
    UserError
        If no narrator has narrated both clips of any pair.
    """
    narrators = order_of(narrations.texts, [TRUE_PATCHES, *experiment.populations], CONTROLS)
    effects = effects_of(mentions_of(experiment.pairs, schedule, narrations, narrators))
    if not effects:
        raise UserError(
            "a pair is compared if both of its clips were narrated, and none has both. Record the "
            "whole schedule, or show clips for longer."
        )
    labels = swapped(effects, seed=experiment.table.seed)
    curves = _curves(effects, experiment.table.seed)
    rows = [_effect_row(effect, narrations) for effect in effects]
    needed = [_needed_row(key, curve) for key, curve in curves.items()]
    false = _false_rows(effects, labels)
    return Answer(
        name="clips",
        title="Controlled clips: is a feature mentioned when it is shown, and not when it is not?",
        findings=(*_findings(experiment, effects), *_false_findings(labels)),
        tables={
            "effects": rows,
            "pairs-needed": needed,
            "false-positives": false,
            "pairs": _pair_rows(experiment, effects),
            "power": _power_rows(curves),
            "sentences": _sentence_rows(experiment, schedule, narrations, narrators),
        },
        figures=_figures(rows, effects, curves),
    )


def _curves(effects: Sequence[Effect], seed: int) -> Curves:
    """Simulate given differences, and those that were observed where they are above 0."""
    curves: Curves = {}
    for effect in effects:
        one = effect.mentions
        if one.narrator in CONTROLS:
            continue
        wanted: dict[str, float | None] = {f"{given:g}": given for given in GIVEN}
        if effect.difference.low > 0:
            wanted = {OBSERVED: None, LOWER_END: effect.difference.low, **wanted}
        for name, difference in wanted.items():
            curves[one.feature, one.narrator, name] = power_curve(
                one.differences, difference, seed=seed
            )
    return curves


def _effect_row(effect: Effect, narrations: ClipNarrations) -> Row:
    one = effect.mentions
    n_pairs = int(one.has_both.sum())
    units = narrations.units[one.narrator]
    return {
        "feature": one.feature,
        "narrator": one.narrator,
        "units": "" if units is None else units,
        "pairs": n_pairs,
        "pairs_lost": len(one.rates) - n_pairs,
        "sentences": one.n_sentences,
        **with_interval("with", effect.present),
        **with_interval("without", effect.absent),
        **with_interval("difference", effect.difference),
        "p": effect.p,
        "p_holm": effect.p_holm,
        "p_over_controls": effect.p_over_controls,
        "is_seen": int(effect.is_seen),
    }


def _needed_row(key: tuple[str, str, str], curve: PowerCurve) -> Row:
    feature, narrator, effect = key
    n = curve.pairs_needed
    return {
        "feature": feature,
        "narrator": narrator,
        "effect": effect,
        "difference": curve.difference,
        "pairs_needed": f"> {NUMBERS[-1]}" if n is None else n,
    }


def _power_rows(curves: Curves) -> list[Row]:
    return [
        {
            "feature": feature,
            "narrator": narrator,
            "effect": effect,
            "difference": curve.difference,
            "pairs": n,
            "power": power,
        }
        for (feature, narrator, effect), curve in curves.items()
        for n, power in zip(NUMBERS, curve.power, strict=True)
    ]


def _false_rows(effects: Sequence[Effect], labels: SwappedLabels) -> list[Row]:
    """Return a row for each feature and narrator, and one for all of them, corrected."""
    rows: list[Row] = []
    for effect, mean, rejected in zip(
        effects, labels.mean_difference, labels.is_rejected, strict=True
    ):
        one = effect.mentions
        rows.append(
            {
                "feature": one.feature,
                "narrator": one.narrator,
                "mean_difference": float(mean),
                **rejection_rate(rejected),
            }
        )
    every = {"feature": "any", "narrator": "any, corrected", "mean_difference": float("nan")}
    return [every | rejection_rate(labels.any_holm), *rows]


def _pair_rows(experiment: Experiment, effects: Sequence[Effect]) -> list[Row]:
    rows: list[Row] = []
    for effect in effects:
        one = effect.mentions
        names = [pair.name for pair in experiment.pairs if pair.feature == one.feature]
        for name, (present, absent) in zip(names, one.rates.tolist(), strict=True):
            rows.append(
                {
                    "feature": one.feature,
                    "narrator": one.narrator,
                    "pair": name,
                    "with": present,
                    "without": absent,
                }
            )
    return rows


def _sentence_rows(
    experiment: Experiment,
    schedule: Sequence[Presentation],
    narrations: ClipNarrations,
    narrators: Sequence[str],
) -> list[Row]:
    of_name = {pair.name: pair for pair in experiment.pairs}
    return [
        {
            "presentation": one.presentation,
            "clip": one.clip,
            "narrator": narrator,
            "text": text,
            "is_mentioned": int(of_name[one.pair].mentions(text)),
        }
        for one in schedule
        for narrator in narrators
        for text in narrations.texts[narrator].get(one.presentation, [])
    ]


def _findings(experiment: Experiment, effects: Sequence[Effect]) -> list[str]:
    found = []
    for feature in experiment.features:
        of_feature = [e for e in effects if e.mentions.feature == feature]
        seen = [
            f"{e.mentions.narrator} ({e.difference.value:.2f} [{e.difference.low:.2f}, "
            f"{e.difference.high:.2f}], {p_text(e.p_holm)})"
            for e in of_feature
            if e.is_seen and e.mentions.narrator not in CONTROLS
        ]
        controls = [
            f"{e.mentions.narrator} {e.difference.value:.2f} ({p_text(e.p)})"
            for e in of_feature
            if e.mentions.narrator in CONTROLS
        ]
        n_pairs = max((int(e.mentions.has_both.sum()) for e in of_feature), default=0)
        found.append(
            f"{feature}, {n_pairs} pairs: seen by {', '.join(seen) or 'none'}; controls: "
            f"{', '.join(controls) or 'none was narrated'}"
        )
    numbers = {len(effect.mentions.differences) for effect in effects}
    few = [n for n in numbers if not is_rejected(len(effects) * 0.5**n)]
    if few:
        found.append(
            f"with {min(few)} pairs and {len(effects)} rows no corrected p can be {LEVEL:g} or "
            "less: show more pairs, or fewer features and populations"
        )
    missing = [n for n in CONTROLS if n not in {e.mentions.narrator for e in effects}]
    if missing:
        found.append(
            f"{' and '.join(missing)} is not among the populations that were narrated: nothing "
            "shows what a narrator without the frames writes"
        )
    return found


def _false_findings(labels: SwappedLabels) -> list[str]:
    n_swaps = len(labels.any_holm)
    share = labels.is_rejected.mean(axis=1)
    return [
        f"with labels exchanged at random {n_swaps} times, {labels.is_rejected.mean():.1%} of the "
        f"tests have p <= {LEVEL:g} (at most {share.max():.1%} of a single row), and in "
        f"{int(labels.any_holm.sum())} of {n_swaps} any corrected p is as small"
    ]


def _figures(
    rows: Sequence[Row], effects: Sequence[Effect], curves: Curves
) -> tuple[AnswerFigure, ...]:
    n_features = len({e.mentions.feature for e in effects})
    n_narrators = len({e.mentions.narrator for e in effects})
    n_lines = -(-n_features // 3)
    n_pairs = sorted({int(e.mentions.has_both.sum()) for e in effects})
    of = f"n = {n_pairs[0]} pairs" if len(n_pairs) == 1 else f"n = {n_pairs[0]}-{n_pairs[-1]} pairs"
    return (
        AnswerFigure(
            "effects",
            f"Rate of mention with the feature (filled) and without it (open); {of} for each "
            "feature. Lines: 95 % intervals (Wilson), the pair as the unit. Numbers: difference, "
            "and one-sided p of the exact test over pairs, corrected for all rows (Holm). Grey, "
            "dashed: controls.",
            (9, n_lines * (0.9 + 0.26 * n_narrators)),
            partial(draw_effects, rows=rows),
        ),
        AnswerFigure(
            "power",
            f"Share of {N_EXPERIMENTS} simulated experiments with p <= {LEVEL:g}, without "
            "correction, by number of pairs. Colours: pairs drawn from those that were observed, "
            "of populations whose interval of the difference is above 0; an effect that is large "
            "by chance promises too much. Grey: given differences, with the spread of the first "
            f"population. Dotted: {ENOUGH:g}.",
            (9, n_lines * 2.6),
            partial(draw_power, curves=curves),
        ),
    )
