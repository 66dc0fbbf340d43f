"""Legal messages for tests, by Hypothesis; and when two of them are the same."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from hypothesis import strategies as st

from contracts.clock import MAX_SESSION_NS
from contracts.population import Population, Unit
from contracts.spikes import (
    MAX_SPAN_NS,
    ClockEcho,
    Hello,
    Mark,
    SourceMessage,
    SpikeBatch,
    StreamEnd,
)
from contracts.wire_header import MAX_CHANNEL, MAX_SEQ, MAX_TEXT, MAX_UM, NUMBER_COLUMNS

STREAMS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
RUNS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.just("語" * MAX_TEXT)
SEQS = st.integers(0, MAX_SEQ)
TIMES_NS = st.integers(-MAX_SESSION_NS, MAX_SESSION_NS)
ROWS = st.integers(-MAX_SEQ, MAX_SEQ)


@st.composite
def spike_batches(draw: st.DrawFn) -> SpikeBatch:
    """Draw a legal batch, as often empty as not, with spikes on both ends of its span."""
    start_ns = draw(st.integers(-MAX_SESSION_NS, MAX_SESSION_NS - 1))
    stop_ns = min(MAX_SESSION_NS, start_ns + draw(st.integers(1, MAX_SPAN_NS)))
    times = draw(st.lists(st.integers(start_ns, stop_ns - 1), max_size=20))
    return SpikeBatch(
        stream=draw(STREAMS),
        run=draw(RUNS),
        seq=draw(SEQS),
        start_ns=start_ns,
        stop_ns=stop_ns,
        spike_time_ns=np.array(times, dtype=np.int64),
        unit_index=np.array(
            draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(times), max_size=len(times))),
            dtype=np.uint32,
        ),
        sent_host_ns=draw(SEQS),
        echo=draw(st.none() | st.builds(ClockEcho, SEQS, SEQS)),
    )


MICROMETERS = st.sampled_from([None, 0.0, -MAX_UM, MAX_UM, 1 / 3])
UNITS = st.builds(
    Unit,
    unit_id=TEXTS,
    probe=TEXTS,
    area=TEXTS,
    cell_type=TEXTS,
    quality=st.sampled_from(["good"]),
    channel=st.sampled_from([None, 0, 17, MAX_CHANNEL]),
    depth_um=MICROMETERS,
    x_um=MICROMETERS,
    y_um=MICROMETERS,
)
POPULATIONS = st.builds(
    Population, st.lists(UNITS, min_size=1, max_size=8, unique_by=lambda unit: unit.key)
)
HELLOS = st.builds(
    Hello,
    stream=STREAMS,
    run=RUNS,
    source=TEXTS,
    population=POPULATIONS,
    next_seq=SEQS,
    is_lossless=st.booleans(),
    session_start_utc=st.sampled_from(["", "0001-01-01T00:00:00Z", "2019-01-19T08:54:18.001Z"]),
    table=st.sampled_from(["", "x" * MAX_TEXT]),
    clock_id=st.just("") | RUNS,
)
MARKS = st.builds(
    Mark,
    stream=STREAMS,
    run=RUNS,
    start_ns=TIMES_NS,
    stop_ns=TIMES_NS,
    stimulus=TEXTS,
    presentation_id=ROWS,
    frame=st.none() | ROWS,
    caption=st.none() | TEXTS,
)
ENDS = st.builds(StreamEnd, stream=STREAMS, run=RUNS, n_batches=SEQS, n_spikes=SEQS)

MESSAGES = {"spikes": spike_batches(), "hello": HELLOS, "mark": MARKS, "end": ENDS}


def is_same(one: SourceMessage, other: SourceMessage) -> bool:
    """Return whether two messages say the same; batches have no equality of their own."""
    if isinstance(one, Hello) and isinstance(other, Hello):
        return one == other and positions(one.population) == positions(other.population)
    if not (isinstance(one, SpikeBatch) and isinstance(other, SpikeBatch)):
        return one == other
    first, second = asdict(one), asdict(other)
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name])
        and getattr(first[name], "dtype", None) == getattr(second[name], "dtype", None)
        for name in first
    )


def positions(population: Population) -> list[list[float | None]]:
    """Return where each unit is, which their equality leaves out."""
    return [[getattr(unit, key) for key in NUMBER_COLUMNS] for unit in population.units]
