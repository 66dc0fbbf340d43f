"""What a pool of sessions gains or loses because its units were not recorded together.

The units of one session are read as they were recorded, and with the repeats of every frame
exchanged between units, which is what pooling does to several sessions: each unit keeps its answer
to a frame, and what units share at one moment is gone (docs/decisions/0048-pooled-sessions.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.population import CONTROLS, Selection
from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from evaluation.caption_scores.narrating import decoded_patches
from evaluation.questions.answer import Answer, Row, with_interval
from evaluation.questions.chance import LEVEL, block_draws, block_length
from evaluation.questions.exchanged import (
    N_EXCHANGES,
    PairedInputs,
    pair_inputs,
    residual_correlation,
)
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.pooling_figure import pooling_figure
from evaluation.scores import own_and_others

REDRAW_STREAM = 18
SPIKES_AT_ONCE = 256

FloatArray = NDArray[np.float64]

MEASURES = {
    "lead": "lead of narrations (own caption less others)",
    "cosine": "cosine of decoded patches with the true ones, less their mean",
    "correlation": "mean correlation of two units' spikes, less the mean of the frame",
}


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPair:
    """One measure of one population: intact, and the mean over the exchanges."""

    intact: Interval
    exchanged: Interval
    difference: Interval  # Exchanged less intact
    of_exchanges: tuple[float, ...]


def pooling(inputs: EvaluationInputs) -> Answer:
    """Answer the question.

    Raises
    ------
    UserError
        If a journal is asked for, or held-out frames have no repeats.
    """
    if inputs.live is not None:
        raise UserError(
            "a journal has no windows with exchanged repeats. Answer this question without "
            "--journal."
        )
    paired = pair_inputs(inputs)
    sets = {name: one for name, one in inputs.selections.items() if name not in CONTROLS}
    values = [_measure(one, sets) for one in (paired.intact, *paired.exchanged)]
    compare = Comparer.of(paired.intact, values)
    series = {
        measure: {
            name: [each[measure][name] for each in values]
            for name in sets
            if not np.isnan(values[0][measure][name]).any()
        }
        for measure in MEASURES
    }
    found = {m: {name: compare.pair(of) for name, of in each.items()} for m, each in series.items()}
    null = [_null_row(compare, measure, each) for measure, each in series.items()]
    n_windows = len(paired.intact.windows.rows)
    return Answer(
        name="pooling",
        title="Pooling: what is it worth that units were recorded together?",
        findings=tuple(_findings(found, sets, paired, null)),
        tables={
            "differences": _rows(found, sets),
            "exchanges": _exchange_rows(found),
            "null": null,
        },
        figures=(
            pooling_figure(_rows(found, sets), MEASURES, n_windows, len(paired.intact.positions)),
        ),
    )


def _measure(
    inputs: EvaluationInputs, sets: Mapping[str, Selection]
) -> dict[str, dict[str, FloatArray]]:
    """Return each measure of each population, window by window."""
    narrated = inputs.narrate(list(sets.values()))
    lead = {}
    for name, sentences in narrated.items():
        likeness = inputs.likeness([one.text for one in sentences])
        own, others = own_and_others(likeness, inputs.positions.of_window)
        lead[name] = own - others
    return {"lead": lead, "cosine": _cosines(inputs, sets), "correlation": _noise(inputs, sets)}


def _cosines(inputs: EvaluationInputs, sets: Mapping[str, Selection]) -> dict[str, FloatArray]:
    data, rows = inputs.windows.data, inputs.windows.rows
    shown = rows[inputs.positions.first_window]
    mean = data.targets[data.frame[shown]].mean(axis=0, dtype=np.float32)
    found: dict[str, list[FloatArray]] = {name: [] for name in sets}
    n_done = dict.fromkeys(sets, 0)
    threads = inputs.request.local_workers
    chosen = list(sets.values())
    for name, patches in decoded_patches(data, rows, chosen, inputs.manifest, threads=threads):
        some = rows[n_done[name] : n_done[name] + len(patches)]
        n_done[name] += len(patches)
        decoded, true = patches - mean, data.targets_of(some) - mean
        norms = np.linalg.norm(decoded, axis=(1, 2)) * np.linalg.norm(true, axis=(1, 2))
        found[name].append(np.einsum("npd,npd->n", decoded, true) / np.maximum(norms, 1e-12))
    return {name: np.concatenate(of).astype(np.float64) for name, of in found.items()}


def _noise(inputs: EvaluationInputs, sets: Mapping[str, Selection]) -> dict[str, FloatArray]:
    data, rows = inputs.windows.data, inputs.windows.rows
    spikes = np.concatenate(
        [
            data.counts_of(rows[first : first + SPIKES_AT_ONCE]).sum(axis=1, dtype=np.int64)
            for first in range(0, len(rows), SPIKES_AT_ONCE)
        ]
    )
    position = inputs.positions.of_window
    return {
        name: residual_correlation(spikes, position, simultaneous(inputs, one))
        for name, one in sets.items()
    }


def simultaneous(inputs: EvaluationInputs, selection: Selection) -> list[NDArray[np.bool_]]:
    """Return the units of a population that were recorded together, session by session."""
    sessions = [one.mask & selection.mask for one in inputs.sessions.values()]
    return sessions or [selection.mask]


@dataclass(frozen=True, slots=True, eq=False)
class Comparer:
    """Draws of frames, the same for every measure and population."""

    levels: Draws
    differences: Draws  # In shorter blocks: neighbouring frames share a level, and not a difference
    seed: int

    @classmethod
    def of(
        cls, inputs: EvaluationInputs, values: Sequence[Mapping[str, Mapping[str, FloatArray]]]
    ) -> Comparer:
        """Choose the lengths of blocks by the leads, and by their differences."""
        positions, seed = inputs.positions, inputs.request.seed
        intact, *others = ([*each["lead"].values()] for each in values)
        less = [b - a for each in others for a, b in zip(intact, each, strict=True)]
        levels, differences = (
            block_draws(
                positions,
                max(
                    inputs.positions_of_group,
                    float(np.quantile([block_length(positions.mean(one)) for one in of], 0.9)),
                ),
                seed=seed,
            )
            for of in (intact, less)
        )
        return cls(levels, differences, seed)

    def pair(self, values: Sequence[FloatArray]) -> MeasuredPair:
        """Compare the first, which is intact, with the mean of the others."""
        intact, exchanged = self.levels.ratio(values[0]), self._mean(self.levels, values[1:])
        less = self._mean(self.differences, values[1:]) - self.differences.ratio(values[0])
        return MeasuredPair(
            interval(intact),
            interval(exchanged),
            interval(less),
            tuple(float(one.mean()) for one in values[1:]),
        )

    def _mean(self, draws: Draws, values: Sequence[FloatArray]) -> FloatArray:
        """Average over exchanges; each draw of frames takes a draw of these too."""
        each = np.stack([draws.ratio(one) for one in values])
        rng = np.random.default_rng([self.seed, REDRAW_STREAM])
        chosen = rng.integers(len(each), size=each.shape)
        mean: FloatArray = np.take_along_axis(each, chosen, axis=0).mean(axis=0)
        mean[0] = each[:, 0].mean()
        return mean


def _null_row(compare: Comparer, measure: str, series: Mapping[str, Sequence[FloatArray]]) -> Row:
    """Take each exchange in place of what was recorded, and the others as its exchanges."""
    differences = [
        compare.pair([values[at], *(values[1:at]), *(values[at + 1 :])]).difference
        for values in series.values()
        for at in range(1, len(values))
    ]
    return {
        "measure": measure,
        "differences": len(differences),
        "without_0": sum(not one.holds(0.0) for one in differences),
    }


def _rows(
    found: Mapping[str, Mapping[str, MeasuredPair]], sets: Mapping[str, Selection]
) -> list[Row]:
    return [
        {
            "measure": measure,
            "population": name,
            "units": sets[name].n_units,
            **with_interval("intact", pair.intact),
            **with_interval("exchanged", pair.exchanged),
            **with_interval("difference", pair.difference),
        }
        for measure, of_measure in found.items()
        for name, pair in of_measure.items()
    ]


def _exchange_rows(found: Mapping[str, Mapping[str, MeasuredPair]]) -> list[Row]:
    return [
        {"measure": measure, "population": name, "exchange": at, "value": value}
        for measure, of_measure in found.items()
        for name, pair in of_measure.items()
        for at, value in enumerate(pair.of_exchanges)
    ]


def _findings(
    found: Mapping[str, Mapping[str, MeasuredPair]],
    sets: Mapping[str, Selection],
    paired: PairedInputs,
    null: Sequence[Row],
) -> list[str]:
    intact = paired.intact
    lines = [
        f"{len(intact.positions)} held-out frames, shown {paired.n_repeats:.3g} times each; in "
        f"each of {N_EXCHANGES} exchanges every unit takes repeats in an order of its own, which "
        f"separates {paired.apart:.0%} of the pairs of units of one session"
    ]
    for name, pair in found["lead"].items():
        cosine, noise = found["cosine"][name], found["correlation"].get(name)
        shared = f"; residual correlation {noise.intact}, then {noise.exchanged}" if noise else ""
        lines.append(
            f"{name} ({sets[name].n_units} units): lead {pair.intact} as recorded, "
            f"{pair.exchanged} exchanged, a difference of {pair.difference}; cosine of patches "
            f"{cosine.intact.value:.3f}, a difference of {cosine.difference}{shared}"
        )
    lines += [
        f"{row['measure']}, each exchange in place of what was recorded: {row['without_0']} of "
        f"{row['differences']} differences have an interval without 0, {LEVEL:.0%} would by chance"
        for row in null
    ]
    if len(intact.sessions) > 1:
        lines.append(
            "units of different sessions were never together: the exchange separates those of one "
            "session, and correlations are of these"
        )
    return lines
