"""Which features of the vision tower one population decodes and others do not: paper's figure 8.

A sparse autoencoder finds features in the patches of training frames; decoded patches are encoded
with it. Magnitude alone can be a bias of the decoder: a population that does not see the screen has
features of its own too. What a population decodes is evidence where it follows the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.population import CONTROLS
from encoder_training.evaluation.bootstrap import Draws, interval
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.progress import report
from evaluation.questions import sparse_features_figures as figures
from evaluation.questions.answer import Answer, Row, with_interval
from evaluation.questions.apart import random_divisions
from evaluation.questions.chance import block_draws, block_length, out_of_place
from evaluation.questions.feature_activations import (
    TrainedFeatures,
    activations,
    autoencoder_finding,
    autoencoder_rows,
    train_features,
)
from evaluation.questions.feature_facts import FeatureLabels, LabelledFrames, label_features
from evaluation.questions.features_file import write_features
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.populations import KINDS, equal_populations
from evaluation.questions.unique_features import (
    Uniqueness,
    following,
    leads,
    mean_of,
    name_blocks,
    slopes,
    uniqueness,
    z_scores,
)

N_SHIFTS = 20
"""Random shifts of the frames, after which nothing should be unique by following."""

SHIFTED_STREAM = 20

MAGNITUDE, FOLLOWING = "magnitude", "following"
MEASURES = (MAGNITUDE, FOLLOWING)
"""Of `evaluation.questions.unique_features`."""

Activations = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedKind:
    """Populations of one kind; arrays of shape (n, n_features), NaN where nothing is unique."""

    kind: str
    by: Mapping[str, Uniqueness]  # `MEASURES`
    r: NDArray[np.float64]  # With the activation of the true patches, over frames
    p: NDArray[np.float64]
    follows: NDArray[np.bool_]

    def unique(self, measure: str) -> NDArray[np.bool_]:
        """Return which features are unique to which population; those by following follow."""
        is_unique = self.by[measure].is_unique
        return is_unique & self.follows if measure == FOLLOWING else is_unique

    @property
    def names(self) -> tuple[str, ...]:
        """The populations."""
        return self.by[FOLLOWING].names

    def features(self, at: int) -> list[int]:
        """Return a population's unique features: by following, then those that follow, largest."""
        found: list[int] = []
        for measure in reversed(MEASURES):
            unique = np.flatnonzero(self.unique(measure)[at])
            lead = self.by[measure].lead[at, unique]
            found += unique[np.lexsort((-lead, ~self.follows[at, unique]))].tolist()
        return list(dict.fromkeys(found))


def sparse_features(inputs: EvaluationInputs) -> Answer:
    """Answer the question.

    Raises
    ------
    UserError
        If there are fewer than two areas or cell types with enough units, too few frames, or a
        journal is asked for.
    """
    shown = LabelledFrames.of(inputs)  # what is wrong with facts is refused here
    name_blocks(inputs.positions, inputs.minimal_lags)  # and so are too few frames
    sets = equal_populations(inputs)
    inputs.check_narrated([*sets.values()])
    n_units = next(iter(sets.values())).n_units
    trained = train_features(inputs)
    report("sparse-features: decoding populations, and random units")
    others = [inputs.selections[name] for name in ("all", *CONTROLS) if name in inputs.selections]
    of_seeds = activations(inputs, trained.models, [*sets.values(), *others])
    found = of_seeds[0]
    labelled = [label_features(inputs, shown, model) for model in trained.models]
    labels = labelled[0]
    kinds = _compare_all(inputs, found)
    draws = _draws(inputs, found, kinds)
    write_features(inputs, trained, labels, kinds)
    drawn = {one.kind: _random(inputs, trained, n_units, found, one, labels) for one in kinds}
    tables: dict[str, Sequence[Row]] = {
        "counts": [row for one in kinds for row in _counts(one, labels, drawn[one.kind], n_units)],
        "unique": [row for one in kinds for row in _unique(inputs, one, found, draws, labels)],
        "shuffles": [row for one in kinds for row in _shuffles(inputs, found, one, drawn)],
        "autoencoders": autoencoder_rows(inputs, trained, of_seeds),
        "seeds": _seeds(inputs, of_seeds, labelled),
        "features": labels.rows(inputs.windows.frames, trained.stability(), inputs.images),
        "map": [row for one in kinds for row in _map(one)],
    }
    return Answer(
        name="sparse-features",
        title="Sparse features: what does a population decode that others do not?",
        findings=tuple(_findings(tables, trained, n_units, has_facts=shown.facts is not None)),
        tables={name: rows for name, rows in tables.items() if rows},
        figures=figures.feature_figures(inputs, tables, kinds, found, labels, n_units),
    )


def _compare_all(inputs: EvaluationInputs, found: Activations) -> list[ComparedKind]:
    kinds = []
    for kind in KINDS:
        of_kind = {name: one for name, one in found.items() if name.startswith(f"{kind}:")}
        if len(of_kind) > 1:
            kinds.append(_compare(inputs, kind, of_kind, found))
    return kinds


def _compare(
    inputs: EvaluationInputs, kind: str, of_kind: Activations, found: Activations
) -> ComparedKind:
    """Compare populations; `found` has the controls and the true patches."""
    positions, seed = inputs.positions, inputs.request.seed
    controls = [found[name] for name in CONTROLS if name in found]
    true = found[TRUE_PATCHES]
    block = name_blocks(positions, inputs.minimal_lags)
    by = {
        MAGNITUDE: uniqueness(of_kind, controls, block, seed=seed),
        FOLLOWING: _by_following(of_kind, controls, true, block, seed=seed),
    }
    shape = by[FOLLOWING].mean.shape
    r, p, follows = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.bool_)
    for at, values in enumerate(of_kind.values()):
        if any(one.is_unique[at].any() for one in by.values()):
            r[at], p[at], follows[at] = following(values, true, positions, seed=seed)
    return ComparedKind(kind, by, r, p, follows)


def _by_following(
    of_kind: Activations,
    controls: Sequence[NDArray[np.float64]],
    true: NDArray[np.float64],
    block: NDArray[np.int64],
    *,
    seed: int,
) -> Uniqueness:
    return uniqueness(
        {name: slopes(values, true) for name, values in of_kind.items()},
        [slopes(values, true) for values in controls],
        block,
        seed=seed,
    )


def _random(
    inputs: EvaluationInputs,
    trained: TrainedFeatures,
    n_units: int,
    found: Activations,
    compared: ComparedKind,
    labels: FeatureLabels,
) -> list[dict[str, int]]:
    """Count features of populations of random units, as `_count` does."""
    groups = [inputs.selections[name] for name in compared.names]
    counts = []
    for division in random_divisions(groups, n_units, seed=inputs.request.seed):
        (of_units,) = activations(inputs, trained.models[:1], division)
        random = {part.name: of_units[part.name] for part in division}
        one = _compare(inputs, compared.kind, random, found)
        counts += [_count(one, at, labels) for at in range(len(division))]
    return counts


def _count(one: ComparedKind, at: int, labels: FeatureLabels) -> dict[str, int]:
    """Count a population's unique features by each measure, and what they are about."""
    by_magnitude, by_following = (one.unique(measure)[at] for measure in MEASURES)
    return {
        MAGNITUDE: int(by_magnitude.sum()),
        "magnitude_that_follow": int((by_magnitude & one.follows[at]).sum()),
        FOLLOWING: int(by_following.sum()),
        "light": int(((by_magnitude | by_following) & one.follows[at] & labels.light).sum()),
    }


def _counts(
    one: ComparedKind, labels: FeatureLabels, drawn: Sequence[Mapping[str, int]], n_units: int
) -> list[Row]:
    rows: list[Row] = []
    for at, name in enumerate(one.names):
        row: dict[str, object] = {"population": name, "units": n_units}
        for measure, count in _count(one, at, labels).items():
            random = np.array([of[measure] for of in drawn])
            row |= {
                measure: count,
                f"{measure}_random": float(random.mean()),
                f"{measure}_random_high": float(np.quantile(random, 0.975)),
            }
        rows.append({**row, "random_populations": len(drawn)})
    return rows


def _draws(inputs: EvaluationInputs, found: Activations, kinds: Sequence[ComparedKind]) -> Draws:
    lengths = [inputs.positions_of_group]
    lengths += [
        block_length(inputs.positions.mean(found[name][:, feature]))
        for one in kinds
        for at, name in enumerate(one.names)
        for feature in one.features(at)
    ]
    return block_draws(inputs.positions, max(lengths), seed=inputs.request.seed)


def _unique(
    inputs: EvaluationInputs,
    one: ComparedKind,
    found: Activations,
    draws: Draws,
    labels: FeatureLabels,
) -> list[Row]:
    compared = [name for name in (*one.names, *CONTROLS) if name in found]
    rows: list[Row] = []
    for at, name in enumerate(one.names):
        for feature in one.features(at):
            values = {of: found[of][:, [feature]] for of in compared}
            true = found[TRUE_PATCHES][:, [feature]]
            mean, lead = _drawn(values, one.names, draws)
            parts = {of: slopes(its, true) for of, its in values.items()}
            _, slope_lead = _drawn(parts, one.names, draws)
            rows.append(
                {
                    "population": name,
                    "feature": feature,
                    "about": labels.names[feature],
                    "by": " and ".join(m for m in MEASURES if one.unique(m)[at, feature]),
                    "mean": float(mean[at, 0]),
                    **with_interval("z", interval(z_scores(mean)[at])),
                    **with_interval("lead", interval(lead[at])),
                    "largest_in_draws": float((lead[at, 1:] > 0).mean()),
                    "p": float(one.by[MAGNITUDE].p[at, feature]),
                    "slope": float(one.by[FOLLOWING].mean[at, feature]),
                    **with_interval("slope_lead", interval(slope_lead[at])),
                    "slope_p": float(one.by[FOLLOWING].p[at, feature]),
                    "r": float(one.r[at, feature]),
                    "r_p": float(one.p[at, feature]),
                    "follows": "yes" if one.follows[at, feature] else "no",
                    "fact_r": float(labels.r[feature]),
                    "fact_p": float(labels.p[feature]),
                    "top_caption": inputs.windows.frames.captions[labels.top[feature, 0]],
                }
            )
    return rows


def _drawn(
    values: Mapping[str, NDArray[np.float64]], names: Sequence[str], draws: Draws
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of one feature in each population, and its lead, in the data and in draws.

    `values`, of shape (n_windows, 1), are those of the populations and the controls, over the
    largest of which a lead is too. Both results are of shape (n, 1 + n_draws).
    """
    drawn = {name: draws.ratio(of[:, 0]) for name, of in values.items()}
    mean = np.stack([drawn[name] for name in names])
    return mean, leads(mean, np.max([drawn[name] for name in CONTROLS if name in drawn], axis=0))


def _shuffles(
    inputs: EvaluationInputs,
    found: Activations,
    one: ComparedKind,
    drawn: Mapping[str, Sequence[Mapping[str, int]]],
) -> list[Row]:
    """Count again with labels that mean nothing: names, frames and units."""
    counts = drawn[one.kind]
    divisions = [
        counts[first : first + len(one.names)] for first in range(0, len(counts), len(one.names))
    ]
    shifted = [_shifted(inputs, found, one, number) for number in range(N_SHIFTS)]
    rows: list[Row] = []
    for measure in MEASURES:
        by = one.by[measure]
        counted: dict[str, Sequence[int]] = {
            "true": [int(one.unique(measure).sum())],
            "names permuted within blocks of time": by.by_permutation.tolist(),
            "units divided at random": [sum(of[measure] for of in part) for part in divisions],
        }
        if measure == FOLLOWING:  # magnitude does not know the frames
            counted["frames shifted"] = shifted
        rows += [
            {
                "kind": KINDS[one.kind],
                "unique_by": measure,
                "labels": label,
                "repeats": len(numbers),
                "features": float(np.mean(numbers)),
                "share_with_any": float(np.mean(np.array(numbers) > 0)),
            }
            for label, numbers in counted.items()
        ]
    return rows


def _shifted(inputs: EvaluationInputs, found: Activations, one: ComparedKind, number: int) -> int:
    """Count features that are unique by following after each movie is shifted, by a random lag."""
    positions, seed = inputs.positions, inputs.request.seed
    rng = np.random.default_rng([seed, SHIFTED_STREAM, number])
    order = out_of_place(positions, inputs.minimal_lags, rng)
    true = mean_of(found[TRUE_PATCHES], positions)[order][positions.of_window]
    of_kind = {name: found[name] for name in one.names}
    controls = [found[name] for name in CONTROLS if name in found]
    block = name_blocks(positions, inputs.minimal_lags)
    shifted = _by_following(of_kind, controls, true, block, seed=seed)
    return sum(
        int((is_unique & following(found[name], true, positions, seed=seed)[2]).sum())
        for name, is_unique in zip(one.names, shifted.is_unique, strict=True)
        if is_unique.any()
    )


def _seeds(
    inputs: EvaluationInputs, of_seeds: Sequence[Activations], labelled: Sequence[FeatureLabels]
) -> list[Row]:
    """Count the features of each population with autoencoders of other seeds."""
    rows: list[Row] = []
    for number, (found, labels) in enumerate(zip(of_seeds, labelled, strict=True)):
        for one in _compare_all(inputs, found):
            for at, name in enumerate(one.names):
                row = {"autoencoder": number, "population": name}
                rows.append({**row, **_count(one, at, labels)})
    return rows


def _map(one: ComparedKind) -> list[Row]:
    z = z_scores(one.by[MAGNITUDE].mean)
    return [
        {
            "population": name,
            "feature": feature,
            "mean": float(one.by[MAGNITUDE].mean[at, feature]),
            "z": float(z[at, feature]),
            "p": float(one.by[MAGNITUDE].p[at, feature]),
            "slope": float(one.by[FOLLOWING].mean[at, feature]),
            "slope_p": float(one.by[FOLLOWING].p[at, feature]),
        }
        for at, name in enumerate(one.names)
        for feature in range(z.shape[1])
    ]


def _findings(
    tables: Mapping[str, Sequence[Row]],
    trained: TrainedFeatures,
    n_units: int,
    *,
    has_facts: bool,
) -> list[str]:
    found = [
        autoencoder_finding(tables["autoencoders"][0], trained),
        f"every population is cut to {n_units} units",
    ]
    for row in tables["counts"]:
        counted = ("magnitude", "magnitude_that_follow", "following", *(["light"] * has_facts))
        light = f", and {row['light']} that follow are of the light" if has_facts else ""
        random = ", ".join(f"{row[f'{name}_random']:.1f}" for name in counted)
        found.append(
            f"{row['population']}: {row['magnitude']} unique by magnitude, "
            f"{row['magnitude_that_follow']} of these follow the frames; {row['following']} unique "
            f"by following{light} (random units: {random})"
        )
    found += [
        f"{row['kind']}, {row['labels']}: any feature is unique by {row['unique_by']} in "
        f"{row['share_with_any']:.0%} of {row['repeats']} repeats"
        for row in tables["shuffles"]
        if row["labels"] in {"names permuted within blocks of time", "frames shifted"}
    ]
    return found
