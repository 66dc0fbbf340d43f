"""What single units say: a rank of all, narrations of some, and a card for each of these.

All units are decoded without a language model; those whose patches vary most, of each area and cell
type, are narrated. A narration of one unit is nearly that of none, so that its words are compared
with ``silent`` and between windows with many and few of its spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.population import Selection, Unit
from encoder_training.evaluation.bootstrap import Draws
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.caption_scores.scoring import CaptionScores
from evaluation.questions import single_units_figures as figures
from evaluation.questions.answer import Answer, Row, with_interval
from evaluation.questions.chance import LEVEL, ShiftTest, alignments, is_discovered, is_rejected
from evaluation.questions.fidelity import score_narrators
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.narration_store import Source
from evaluation.questions.single_units_cards import cards_page
from evaluation.questions.single_units_control import unrelated_labels
from evaluation.questions.single_units_decoding import UnitDecoder, UnitRank, choose_units
from evaluation.questions.single_units_words import (
    RAREST,
    Information,
    Statements,
    information,
    raised_words,
    statements_of_captions,
    statements_of_facts,
)

N_NARRATED = 24
SILENT = "silent"


@dataclass(frozen=True, slots=True, eq=False)
class NarratedUnit:
    """What a card shows."""

    row: int  # In the population
    unit: Unit
    place: int  # Among all units by the lead of decoded patches, from 1
    rank: UnitRank
    spikes: NDArray[np.int64]  # (n_windows,)
    rate_hz: float
    texts: tuple[str, ...]  # (n_windows,)
    scores: CaptionScores
    test: ShiftTest  # Of the cosine of narrations with captions
    words: Sequence[Row]  # As of `raised_words`
    named: NDArray[np.bool_]  # (n_windows, n_statements): by its sentences
    has_many: NDArray[np.bool_]  # The same shape: whether it has many spikes
    patch_map: NDArray[np.float64]  # (rows, cols)
    over_time: NDArray[np.float64]  # (n_positions,): how far its patches are from their mean


InformedUnit = tuple[NarratedUnit, Information, Information]
"""With the information of its words, and of its many or few spikes."""


def single_units(inputs: EvaluationInputs) -> Answer:
    """Answer the question.

    Raises
    ------
    UserError
        If a journal is asked for, or facts are missing.
    """
    n_units = len(inputs.manifest.population)
    # Refused before the long work
    inputs.check_narrated([_alone(unit, n_units) for unit in range(n_units)])
    known_facts = inputs.facts()
    first = inputs.positions.first_window.tolist()
    statements = (
        statements_of_captions(inputs.captions)
        if known_facts is None
        else statements_of_facts([known_facts[window] for window in first])
    )
    decoder = UnitDecoder(inputs)
    ranks = decoder.rank()
    chosen = choose_units(
        inputs.manifest.population, inputs.selections, [one.reach for one in ranks], N_NARRATED
    )
    units, draws = _narrate(inputs, decoder, ranks, chosen, statements)
    positions, orders = inputs.positions, alignments(inputs.positions, seed=inputs.request.seed)
    words, spikes = (
        information(named, statements, positions, orders, draws)
        for named in (np.stack([u.named for u in units]), np.stack([u.has_many for u in units]))
    )
    informed = list(zip(units, words, spikes, strict=True))
    ranking = _ranking(inputs, decoder, ranks, chosen)
    narrated = _narrated_rows(informed)
    control = unrelated_labels(inputs, decoder, units, statements, orders)
    tables: dict[str, Sequence[Row]] = {
        "ranking": ranking,
        "groups": _groups(inputs, ranking),
        "narrated": narrated,
        "information": _information_rows(informed, statements),
        "words": [{"unit": one.unit.label, **row} for one in units for row in one.words],
        "sentences": _sentences(inputs, units),
        "unrelated-labels": control,
    }
    return Answer(
        name="single-units",
        title="Single units: what does a unit say by itself?",
        findings=tuple(_findings(inputs, decoder, ranking, narrated, statements, control)),
        tables={name: rows for name, rows in tables.items() if rows},
        figures=figures.single_unit_figures(
            tables, statements.kind, len(inputs.windows.rows), len(inputs.positions)
        ),
        pages={"cards": cards_page(inputs, informed, statements)},
    )


def _narrate(
    inputs: EvaluationInputs,
    decoder: UnitDecoder,
    ranks: Sequence[UnitRank],
    chosen: Sequence[int],
    statements: Statements,
) -> tuple[list[NarratedUnit], Draws]:
    """Narrate the chosen units, by place among all."""
    alone = {unit: _alone(unit, len(ranks)) for unit in chosen}
    sources: list[Source] = [TRUE_PATCHES, *alone.values(), inputs.selections[SILENT]]
    texts = {of: tuple(one.text for one in found) for of, found in inputs.narrate(sources).items()}
    scored = score_narrators(inputs, texts, np.arange(len(inputs.windows.rows)))
    found = []
    for place, unit in enumerate(_by_lead(ranks), start=1):
        if unit not in alone:
            continue
        name, decoded, spikes = alone[unit].name, decoder.decode(unit), decoder.spikes(unit)
        many = spikes > np.median(spikes)
        found.append(
            NarratedUnit(
                row=unit,
                unit=inputs.windows.data.population.units[unit],
                place=place,
                rank=ranks[unit],
                spikes=spikes,
                rate_hz=_rate_hz(inputs, spikes),
                texts=texts[name],
                scores=scored.scores[name],
                test=scored.tests[name],
                words=raised_words(texts[name], texts[SILENT][0], many, scored.draws),
                named=statements.named(texts[name]),
                has_many=np.tile(many[:, np.newaxis], len(statements.names)),
                patch_map=decoder.patch_map(decoded),
                over_time=inputs.positions.mean(np.linalg.norm(decoded, axis=1)),
            )
        )
    return found, scored.draws


def _alone(unit: int, n_units: int) -> Selection:
    """Select one unit, named by its row: its label may be that of a control."""
    return Selection(f"row {unit}", "units", np.arange(n_units) == unit)


def _by_lead(ranks: Sequence[UnitRank]) -> list[int]:
    return sorted(range(len(ranks)), key=lambda unit: -ranks[unit].lead.value)


def _rate_hz(inputs: EvaluationInputs, spikes: NDArray[np.int64]) -> float:
    spec = inputs.manifest.window_spec
    return float(spikes.mean()) * spec.rate.bins_per_s / spec.n_bins


def _ranking(
    inputs: EvaluationInputs,
    decoder: UnitDecoder,
    ranks: Sequence[UnitRank],
    chosen: Sequence[int],
) -> list[Row]:
    """Return every unit, the longest lead first."""
    units = inputs.windows.data.population.units
    passes = is_discovered([one.test.p for one in ranks])
    rows: list[Row] = []
    for place, unit in enumerate(_by_lead(ranks), start=1):
        one, spikes = ranks[unit], decoder.spikes(unit)
        low, high = one.test.band
        rows.append(
            {
                "rank": place,
                **_unit_columns(units[unit]),
                "spikes": int(spikes.sum()),
                "rate_hz": _rate_hz(inputs, spikes),
                "reach": one.reach,
                **with_interval("lead", one.lead),
                "shifted_low": low,
                "shifted_high": high,
                "p": one.test.p,
                "passes": int(passes[unit]),
                "narrated": int(unit in chosen),
            }
        )
    return rows


def _unit_columns(unit: Unit) -> Row:
    return {
        "unit": unit.label,
        "area": unit.area,
        "cell_type": unit.cell_type,
        "depth_um": "" if unit.depth_um is None else unit.depth_um,
    }


def _groups(inputs: EvaluationInputs, ranking: Sequence[Row]) -> list[Row]:
    """Count, for all units, each area and each cell type, the units that pass."""
    rows: list[Row] = []
    for kind in ("all", "area", "cell_type"):
        names = [""] if kind == "all" else sorted({str(row[kind]) for row in ranking} - {""})
        for name in names:
            of = [row for row in ranking if kind == "all" or row[kind] == name]
            rows.append(
                {
                    "group": f"{kind}:{name}" if name else kind,
                    "units": len(of),
                    "expected": LEVEL * len(of),
                    "below_level": int(is_rejected([float(str(row["p"])) for row in of]).sum()),
                    "passing": sum(int(str(row["passes"])) for row in of),
                    "median_lead": float(np.median([float(str(row["lead"])) for row in of])),
                }
            )
    return rows


def _narrated_rows(informed: Sequence[InformedUnit]) -> list[Row]:
    of_lead = is_discovered([one.test.p for one, _, _ in informed])
    of_words = is_discovered([words.smallest_p for _, words, _ in informed])
    of_spikes = is_discovered([spikes.smallest_p for _, _, spikes in informed])
    return [
        {
            "rank": one.place,
            **_unit_columns(one.unit),
            "different_sentences": one.scores.n_different,
            **with_interval("matched", one.scores.matched),
            **with_interval("lead", one.scores.lead),
            "p": one.test.p,
            "passes": int(of_lead[at]),
            "p_words": words.smallest_p,
            "words_pass": int(of_words[at]),
            "p_spikes": spikes.smallest_p,
            "spikes_pass": int(of_spikes[at]),
        }
        for at, (one, words, spikes) in enumerate(informed)
    ]


def _information_rows(informed: Sequence[InformedUnit], statements: Statements) -> list[Row]:
    rows: list[Row] = []
    for one, words, spikes in informed:
        for at, name in enumerate(statements.names):
            columns: dict[str, object] = {}
            for kind, found in (("words", words), ("spikes", spikes)):
                low, high = np.quantile(found.null[:, at], (0.025, 0.975))
                columns |= {
                    f"{kind}_bits": float(found.bits[at]),
                    f"{kind}_shifted_low": float(low),
                    f"{kind}_shifted_high": float(high),
                    f"{kind}_p": float(found.p[at]),
                    **with_interval(f"{kind}_difference", found.difference[at]),
                }
            shown = float(statements.shown[:, at].mean())
            rows.append({"unit": one.unit.label, "statement": name, "shown": shown, **columns})
    return rows


def _sentences(inputs: EvaluationInputs, units: Sequence[NarratedUnit]) -> list[Row]:
    labels, captions = inputs.windows.labels, inputs.windows.captions
    return [
        {
            "unit": one.unit.label,
            "frame": labels[window],
            "spikes": int(one.spikes[window]),
            "caption": captions[window],
            "narration": one.texts[window],
        }
        for one in units
        for window in range(len(captions))
    ]


def _findings(
    inputs: EvaluationInputs,
    decoder: UnitDecoder,
    ranking: Sequence[Row],
    narrated: Sequence[Row],
    statements: Statements,
    control: Sequence[Row],
) -> list[str]:
    def count(rows: Sequence[Row], column: str) -> int:
        return sum(int(str(row[column])) for row in rows)

    def rejected(rows: Sequence[Row], column: str) -> int:
        return int(is_rejected([float(str(row[column])) for row in rows]).sum())

    found = [
        f"decoded patches: {count(ranking, 'passes')} of {len(ranking)} units pass at "
        f"{LEVEL:.0%} false discoveries; {rejected(ranking, 'p')} have p <= {LEVEL}, at most "
        f"{LEVEL * len(ranking):.1f} by chance ({decoder.components.share:.0%} of the variance of "
        "the frames' patches is compared)",
        f"{len(narrated)} units are narrated, in turn that of each area and cell type whose "
        "patches vary most, which looks at no frame and no caption",
        f"narrations of one unit against captions: {count(narrated, 'passes')} of "
        f"{len(narrated)} pass; {rejected(narrated, 'p')} have p <= {LEVEL}, at most "
        f"{LEVEL * len(narrated):.1f} by chance",
        f"information between {statements.kind} and narrations: {count(narrated, 'words_pass')} "
        f"of {len(narrated)} units pass, between {statements.kind} and many or few spikes "
        f"{count(narrated, 'spikes_pass')}; p is of the largest of {len(statements.names)} "
        "statements",
    ]
    if not statements.names:
        found.append(
            f"no information: none of the {statements.kind} is shown in {RAREST:.0%} of the frames "
            "or more and not in all others"
        )
    found.extend(
        f"{row['test']}, against labels of other frames: {float(str(row['rate'])):.1%} of "
        f"{row['tests']} tests have p <= {LEVEL}"
        for row in control
    )
    if inputs.request.facts is None:
        found.append(
            "statements are words of the captions: name a folder of MOVIE_facts.jsonl with --facts "
            "for facts, if there is one"
        )
    return found
