"""The page of cards: one HTML file, a section for each narrated unit, no script, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.selection_text import shown
from encoder_training.evaluation.bootstrap import Interval
from evaluation.questions.answer import Row, interval_of, p_text
from evaluation.questions.chance import is_rejected
from evaluation.questions.fidelity_figures import CONTROL, INK
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.page import STYLE

if TYPE_CHECKING:
    from evaluation.questions.single_units import InformedUnit, NarratedUnit
    from evaluation.questions.single_units_words import Information, Statements

N_SENTENCES, N_EXAMPLES, N_WORDS, N_STATEMENTS = 4, 3, 6, 5
MAP_PX, TRACE_PX = 160, (560, 60)

CARD_STYLE = """
section { border-top: 2px solid #13171b; margin-top: 2rem; padding-top: .5rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: .5rem 0; }
figcaption { font-size: 12px; max-width: 36rem; } .shown { color: #08704a; }
.text, .shown { font-family: "Source Serif 4", Georgia, serif; }
"""

HOW_TO_READ = (
    "A narration of one unit is nearly that of none: look at what changes, not at the sentence. "
    "Information is that between a statement of the frame and the same in the sentence, less its "
    "mean over circular shifts of the movies; p is of all shifts and corrected for the statements "
    "of a unit, and not for the number of units. 'With it' and 'without' are shares of windows "
    "whose frame shows the statement or does not. Brackets are 95 % intervals of the stationary "
    "bootstrap. 'Many spikes' are more than the unit's median over windows. The map is how much "
    "each patch varies from window to window (root mean square; black is the unit's most), and not "
    "how right it is."
)


def cards_page(
    inputs: EvaluationInputs, units: Sequence[InformedUnit], statements: Statements
) -> str:
    """Return the page."""
    return "\n".join(_page(inputs, units, statements)) + "\n"


def _page(
    inputs: EvaluationInputs, units: Sequence[InformedUnit], statements: Statements
) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f"<title>Single units</title><style>{STYLE}{CARD_STYLE}</style></head><body>"
    yield f"<h1>Single units: {len(units)} cards</h1>"
    yield f"<p>Made by <code>{escape(inputs.request.command)}</code>. "
    yield f"{escape('. '.join(inputs.notes()))}. Statements are {statements.kind}.</p>"
    yield f"<p>{escape(HOW_TO_READ)}</p>"
    yield _table(
        ("rank", "unit", "area", "cell type", "lead of patches", "names"),
        (
            (
                str(one.place),
                f'<a href="#card-{at}">{_name(one)}</a>',
                _text(one.unit.area),
                _text(one.unit.cell_type),
                _interval(one.rank.lead),
                escape(_named(words, statements)),
            )
            for at, (one, words, _) in enumerate(units)
        ),
    )
    for at, informed in enumerate(units):
        yield from _card(at, informed, inputs, statements)
    yield "</body></html>"


def _card(
    at: int, informed: InformedUnit, inputs: EvaluationInputs, statements: Statements
) -> Iterator[str]:
    one, words, spikes = informed
    unit, rank = one.unit, one.rank
    depth = "-" if unit.depth_um is None else f"{unit.depth_um:.0f} um"
    title = f"{_name(one)}: names {escape(_named(words, statements))}"
    yield f'<section id="card-{at}"><h2>{title}</h2>'
    yield (
        f"<p>Area {_text(unit.area)}, cell type {_text(unit.cell_type)}, depth {depth}. "
        f"{one.spikes.sum():,} spikes in {len(one.spikes)} windows ({one.rate_hz:.1f} Hz). Rank "
        f"{one.place} by decoded patches: centred cosine {_interval(rank.lead)}, "
        f"{p_text(rank.test.p)}; reach {rank.reach:.3f}. Narrations: "
        f"{one.scores.n_different} different sentences; lead {_interval(one.scores.lead)}, "
        f"{p_text(one.test.p)}.</p>"
    )
    yield _statement_table(words, spikes, statements)
    yield _word_lines(one)
    yield '<div class="figures">'
    yield f"<figure>{_map(one.patch_map)}<figcaption>Where its patches vary.</figcaption></figure>"
    yield (
        f"<figure>{_traces(one, inputs)}<figcaption>Over the scored frames, movie after movie. "
        "Black: how far its patches are from their mean. Grey: its spikes.</figcaption></figure>"
    )
    yield "</div>"
    yield _sentence_table(one)
    yield _example_table(one, inputs)
    yield "</section>"


def _named(found: Information, statements: Statements) -> str:
    """Return the statements that its narrations name where they are shown, most bits first."""
    sure = [
        column
        for column in np.argsort(-found.bits)
        if is_rejected(found.p[column]) and found.difference[column].value > 0
    ]
    return (
        ", ".join(f"{statements.names[column]} ({found.bits[column]:.3f} bits)" for column in sure)
        or "nothing that depends on the frame"
    )


def _statement_table(words: Information, spikes: Information, statements: Statements) -> str:
    order = np.argsort(-np.maximum(words.bits, spikes.bits))
    best = [column for column in order if is_rejected([words.p[column], spikes.p[column]]).any()]
    columns = (best or list(order))[:N_STATEMENTS]
    return _table(
        (
            "statement", "narrations: bits", "p", "named with it less without",
            "spikes: bits", "p", "many spikes with it less without",
        ),
        (
            (
                _text(statements.names[column]),
                f"{words.bits[column]:.3f}",
                _p(words.p[column]),
                _interval(words.difference[column]),
                f"{spikes.bits[column]:.3f}",
                _p(spikes.p[column]),
                _interval(spikes.difference[column]),
            )
            for column in columns
        ),
    )  # fmt: skip


def _word_lines(one: NarratedUnit) -> str:
    lines = []
    for title, column, sign in (
        ("Words raised against silent", "raised", 1),
        ("lowered against silent", "raised", -1),
        ("more often with many spikes", "with_spikes", 1),
        ("less often with many spikes", "with_spikes", -1),
    ):
        sure = [row for row in one.words if _end(row, column, sign) * sign > 0]
        sure.sort(key=lambda row: -sign * float(str(row[column])))
        listed = ", ".join(
            f'<span class="text">{_text(str(row["word"]))}</span> '
            + _interval(interval_of(row, column))
            for row in sure[:N_WORDS]
        )
        lines.append(f"<li>{title}: {listed or 'none'}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _end(row: Row, column: str, sign: int) -> float:
    """Return the end of an interval that is nearer to 0 for a difference of that sign."""
    found = interval_of(row, column)
    return found.low if sign > 0 else found.high


def _sentence_table(one: NarratedUnit) -> str:
    counts = Counter(one.texts).most_common(N_SENTENCES)
    n = len(one.texts)
    return _table(
        ("share of windows", "its most frequent sentences"),
        (
            (f"{times / n:.0%}", f'<span class="text">{_text(text)}</span>')
            for text, times in counts
        ),
    )


def _example_table(one: NarratedUnit, inputs: EvaluationInputs) -> str:
    labels, captions = inputs.windows.labels, inputs.windows.captions
    order = np.random.default_rng(0).permutation(len(captions))  # of windows with equal spikes
    rows = []
    for sign in (-1, 1):
        seen: set[str] = set()
        for window in order[np.argsort(sign * one.spikes[order], kind="stable")].tolist():
            if len(seen) == N_EXAMPLES:
                break
            if captions[window] not in seen:
                seen.add(captions[window])
                rows.append(window)
    return _table(
        ("spikes", "frame", "caption", "narration"),
        (
            (
                str(one.spikes[window]),
                _text(labels[window]),
                f'<span class="shown">{_text(captions[window])}</span>',
                f'<span class="text">{_text(one.texts[window])}</span>',
            )
            for window in rows
        ),
    )


def _map(values: NDArray[np.float64]) -> str:
    """Draw a grid of patches, white for 0 and black for the most."""
    rows, cols = values.shape
    size = MAP_PX / max(rows, cols)
    most = max(float(values.max()), 1e-12)
    cells = "".join(
        f'<rect x="{col * size:.1f}" y="{row * size:.1f}" width="{size:.2f}" height="{size:.2f}" '
        f'fill-opacity="{value / most:.2f}"/>'
        for (row, col), value in np.ndenumerate(values)
    )
    width, height = cols * size, rows * size
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="map of patches">{cells}<rect width="{width:.0f}" height="{height:.0f}" '
        f'fill="none" stroke="{CONTROL}"/></svg>'
    )


def _traces(one: NarratedUnit, inputs: EvaluationInputs) -> str:
    width, height = TRACE_PX
    positions = inputs.positions
    x = (np.arange(len(positions)) + 0.5) * width / len(positions)
    spikes = positions.mean(one.spikes.astype(np.float64))
    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" points="{_points(x, values, top, height)}"/>'
        for values, colour, top in ((one.over_time, INK, 0), (spikes, CONTROL, height))
    )
    edges = "".join(
        f'<line x1="{x[rows[0]]:.1f}" x2="{x[rows[0]]:.1f}" y2="{2 * height}" stroke="{CONTROL}" '
        'stroke-dasharray="3"/>'
        for rows in positions.movies[1:]
    )
    return (
        f'<svg width="{width}" height="{2 * height}" role="img" aria-label="over the frames">'
        f"{edges}{lines}</svg>"
    )


def _points(x: NDArray[np.float64], values: NDArray[np.float64], top: float, height: float) -> str:
    most = max(float(values.max()), 1e-12)
    y = top + height - 2 - (height - 6) * values / most
    return " ".join(f"{at:.1f},{value:.1f}" for at, value in zip(x, y, strict=True))


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table; cells are HTML."""
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _name(one: NarratedUnit) -> str:
    return _text(one.unit.label)


def _text(text: str) -> str:
    return escape(shown(text)) or "-"


def _interval(found: Interval) -> str:
    if not found.is_known:
        return "-"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _p(p: float) -> str:
    return "-" if p != p else ("&lt; 0.001" if p < 0.001 else f"{p:.2g}")
