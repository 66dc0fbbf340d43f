"""What was shown: labels, blocks and repeats of planted tables, against slow searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.manifest import LanguageModel, TrainingData
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from encoder_training.data_set.alignment import MAX_GAP_NS
from encoder_training.data_set.prepared import FrameTable, PreparedSet, PresentationRows
from encoder_training.data_set.splits import SplitOptions, split_presentations
from encoder_training.data_set.stimulus import (
    StimulusTable,
    read_presented,
    spans_of,
)
from stream_sources.recordings.presentations import Presentations
from tests.support.prepared import presentations

FRAME_NS = 33_361_193
GAP_NS = 75 * 60 * 10**9
N_FRAMES, N_REPEATS = 50, 6


def planted_table(seed: int = 0) -> Presentations:
    """Return a movie six times in two blocks 75 minutes apart, with frames dropped in three ways.

    Some frames stay twice as long, some leave a hole behind them, some have no row at all; a
    second stimulus of blanks stands between the blocks.
    """
    rng = np.random.default_rng(seed)
    rows = []
    now = 9_876_543_211
    for repeat in range(N_REPEATS):
        now += GAP_NS * (repeat == N_REPEATS // 2)
        for number in range(N_FRAMES):
            length = FRAME_NS + int(rng.integers(-30_000, 30_000))
            fate = rng.choice(["shown", "long", "hole", "no row"], p=[0.91, 0.03, 0.03, 0.03])
            start, now = now, now + length * (2 if fate in {"long", "hole"} else 1)
            if fate != "no row":
                stop = start + length if fate == "hole" else now
                rows.append((start, stop, 1, float(number), 4.0 if repeat < 3 else 12.0))
    middle = rows[len(rows) // 2][0] - GAP_NS // 2
    rows += [(middle + k * 10**9, middle + (k + 1) * 10**9, 0, np.nan, 5.0) for k in range(20)]
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)]
    return presentations(("spontaneous", "natural_movie_one"), *columns)


def table_of(*rows, names=("a", "b")) -> Presentations:
    """Return a table from (start, stop, stimulus, number, block) in units of 10 ms."""
    start, stop, stimulus, number, block = (np.array(column) for column in zip(*rows, strict=True))
    return presentations(
        names, start * 10**7, stop * 10**7, stimulus, number.astype(float), block.astype(float)
    )


def prepared_of(presented: StimulusTable, rate: BinRate) -> PreparedSet:
    """Return a data set of silence with these presentations."""
    split = split_presentations(presented, SplitOptions("repeats"))
    spans = spans_of(presented, rate)
    n_targets = len(presented.target_movie)
    return PreparedSet(
        population=Population([Unit("1")]),
        window=WindowSpec(rate, n_bins=20, stride_bins=8, lag_ns=0),
        grid=PatchGrid(1, 1, 2),
        language_model=LanguageModel(model_id="a-model"),
        training_data=TrainingData(recording="planted"),
        spans=spans,
        counts=np.zeros((spans.n_rows, 1), dtype=np.uint8),
        shown=PresentationRows(
            presented.start_ns, presented.stop_ns, presented.frame, presented.block,
            split.group, split.role, presented.blank_from_ns,
        ),
        invalid_ns=np.empty((0, 2), dtype=np.int64),
        frames=FrameTable(
            presented.movies, presented.target_movie, presented.target_number, ("",) * n_targets
        ),
        targets=np.zeros((n_targets, 1, 2), dtype=np.float16),
    )  # fmt: skip


def on_screen(table: Presentations, session_ns: int) -> tuple[float, int]:
    """Return the frame number and the row that a person finds in the table, row by row."""
    rows = [
        row
        for row in range(len(table.start_ns))
        if table.start_ns[row] <= session_ns < table.stop_ns[row]
    ]
    return (table.frame[rows[0]], rows[0]) if rows else (np.nan, -1)


@pytest.mark.parametrize("lag_ns", [0, 70_000_000])
@pytest.mark.parametrize("rate", [BinRate(120), BinRate(3_000, 29)])
def test_labels_are_exact_after_dropped_frames_and_a_gap(lag_ns, rate):
    """Each window's frame is what the table says was on the screen `lag` before its end."""
    table = planted_table()
    presented = read_presented(table, {"natural_movie_one": N_FRAMES})
    prepared = prepared_of(presented, rate)
    data, parts = prepared.windows(lag_ns)
    bins = np.concatenate(
        [
            np.arange(first, stop)
            for first, stop in zip(prepared.spans.first_bin, prepared.spans.stop_bin, strict=True)
        ]
    )
    rows = []
    for first_row, frame in zip(data.first_bin.tolist(), data.frame.tolist(), strict=True):
        first = int(bins[first_row])
        assert np.array_equal(bins[first_row : first_row + 20], np.arange(first, first + 20))
        number, row = on_screen(table, rate.start_ns(first + 20) - lag_ns)
        assert prepared.frames.number[frame] == number
        rows.append(row)
    assert len(set(rows)) == len(rows)
    assert len(rows) > 0.6 * len(presented.frame)
    assert {len(parts.train) > 0, len(parts.validation) > 0, len(parts.test) > 0} == {True}
    after_the_gap = np.array(rows) > int(np.argmax(np.diff(table.start_ns)))
    assert 0.3 < after_the_gap.mean() < 0.7


def test_a_tiled_labelling_of_the_same_table_is_wrong():
    """The planted table is one on which counting frames on from the start goes wrong."""
    table = planted_table()
    presented = read_presented(table, {"natural_movie_one": N_FRAMES})
    tiled = ((presented.start_ns - presented.start_ns[0]) * 30 // 10**9) % N_FRAMES
    assert (tiled != presented.number).mean() > 0.5


def test_dropped_frames_end_no_block_and_repeats_do():
    """Six repeats in two blocks of the recording are six blocks, each one repeat."""
    presented = read_presented(planted_table(), {"natural_movie_one": N_FRAMES})
    assert presented.n_repeats == (N_REPEATS,)
    assert np.array_equal(presented.block, presented.repeat)
    assert (np.diff(presented.number)[np.diff(presented.repeat) == 0] > 0).all()
    assert presented.is_shuffled == (False,)


def test_blocks_end_at_joins_changes_and_pauses():
    """A join of repeats, another movie, another block of the recording, a pause: each ends one."""
    pause = MAX_GAP_NS // 10**7
    table = table_of(
        (0, 3, 0, 0, 1),
        (3, 6, 0, 1, 1),
        (9, 12, 0, 3, 1),  # one dropped
        (12, 15, 0, 3, 1),  # the same frame in two rows
        (15, 18, 0, 0, 1),  # a join
        (18, 21, 1, 0, 1),  # another movie
        (21, 24, 1, 1, 2),  # another block
        (24 + pause, 30 + pause, 1, 2, 2),  # just no pause
        (31 + 2 * pause, 34 + 2 * pause, 1, 3, 2),  # a pause
    )
    presented = read_presented(table, {"b": 4, "a": 4})
    assert presented.movies == ("a", "b")
    assert presented.block.tolist() == [0, 0, 0, 0, 1, 2, 3, 3, 4]
    assert presented.repeat.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert presented.frame.tolist() == [0, 1, 3, 3, 0, 4, 5, 6, 7]


PAUSES = (
    (0, 100, 1, np.nan, 1),  # gratings, which are no blank
    (130, 133, 0, 0, 2),
    (133, 136, 0, 1, 2),
    (136, 139, 0, 0, 2),  # a join without a pause
    (139, 142, 0, 1, 2),
    (142, 160, 0, -1, 2),  # a blank, and a join after it
    (160, 163, 0, 0, 2),
    (163, 166, 0, 1, 2),
    (176, 179, 0, 0, 2),  # a join, after a gap as long as that of dropped frames
    (179, 182, 0, 1, 2),
    (182, 220, 2, 0, 3),  # a movie that is not chosen
    (225, 228, 0, 0, 4),
    (228, 300, 3, np.nan, 5),  # a grey screen
    (300, 303, 0, 0, 6),
    (330, 333, 0, 2, 6),  # rows are missing before it
)
"""Rows of `table_of`."""


@pytest.mark.parametrize(
    ("blank_ns", "expected"),
    [
        (10**10, [100, 100, 136, 136, 136, 142, 142, 176, 176, 225, 228, 330]),
        (2 * 10**8, [110, 110, 136, 136, 136, 142, 142, 176, 176, 225, 280, 330]),
        (0, [130, 130, 136, 136, 136, 160, 160, 176, 176, 225, 300, 330]),
    ],
)
def test_a_blank_counts_to_the_block_after_it(blank_ns, expected):
    """From the last picture on, whatever stimulus it was; not over joins, short gaps and holes."""
    table = table_of(*PAUSES, names=("a", "gratings", "c", "spontaneous"))
    presented = read_presented(table, {"a": 3}, blank_ns=blank_ns)
    assert (presented.blank_from_ns // 10**7).tolist() == expected
    spans = spans_of(presented, BinRate(100))
    for blank_from_ns, stop_ns in zip(presented.blank_from_ns, presented.stop_ns, strict=True):
        bins = np.arange(blank_from_ns // 10**7, stop_ns // 10**7)
        assert (np.diff(spans.rows_of(bins)) == 1).all()
        assert spans.rows_of(bins)[0] >= 0


def test_a_block_of_blanks_may_begin_within_the_next_blank():
    """Bins of the blank before a movie are counted from the last picture on, in their order."""
    table = table_of(
        (0, 3, 0, 0, 1), (3, 6, 0, 1, 1), (10, 100, 1, -1, 1), (100, 103, 1, 0, 2)
    )  # fmt: skip
    presented = read_presented(table, {"a": 2, "b": 1}, blank_ns=10**9)
    assert (presented.blank_from_ns // 10**7).tolist() == [0, 0, 10, 6]
    spans = spans_of(presented, BinRate(100))
    assert (spans.first_bin.tolist(), spans.stop_bin.tolist()) == ([0], [103])


def random_table(rng: np.random.Generator) -> Presentations:
    """Return repeats of a movie with pauses, blanks or nothing between, and other stimuli."""
    rows, now = [], 50
    for _ in range(20):
        kind = rng.integers(4)
        if kind == 1:
            now += int(rng.integers(5, 40))
        elif kind > 1:
            length = int(rng.integers(5, 40))
            rows.append((now, now + length, *((0, -1), (1, np.nan))[kind - 2], 1))
            now += length
        for number in range(12):
            rows.append((now, now + 3, 0, number, 1))
            now += 3
    return table_of(*rows)


@pytest.mark.parametrize("lag_ns", [0, 40_000_000])
def test_windows_reach_into_blanks_and_into_no_other_picture(lag_ns):
    """Compared with a slow search, over joins, pauses, blanks and another stimulus."""
    table = random_table(np.random.default_rng(3))
    rate = BinRate(100)
    presented = read_presented(table, {"a": 12}, blank_ns=10**9)
    prepared = prepared_of(presented, rate)
    prepared = replace(prepared, window=WindowSpec(rate, n_bins=10, stride_bins=8, lag_ns=0))
    data, _ = prepared.windows(lag_ns)
    spans = prepared.spans
    bins = np.concatenate(
        [np.arange(*ends) for ends in zip(spans.first_bin, spans.stop_bin, strict=True)]
    )
    has_window = set()
    for first in bins[data.first_bin].tolist():
        shown_ns = rate.start_ns(first + 10) - lag_ns
        has_window.add(int(np.searchsorted(presented.start_ns, shown_ns, side="right") - 1))
    expected = set()
    is_picture = ~(table.frame < 0)
    for row in np.flatnonzero(presented.number >= 0).tolist():
        middle_ns = (presented.start_ns[row] + presented.stop_ns[row]) // 2
        stop = int(middle_ns + lag_ns) // 10**7
        from_ns, until_ns = (stop - 12) * 10**7 - lag_ns, (stop + 2) * 10**7
        own = presented.start_ns[presented.block == presented.block[row]].min()
        others = is_picture & (table.start_ns < own) & (table.stop_ns > max(from_ns, 0))
        before = table.stop_ns[is_picture & (table.start_ns < own)].max(initial=-(10**18))
        is_blank = own - before > MAX_GAP_NS
        last = presented.stop_ns[presented.block == presented.block[row]].max()
        if not others.any() and (from_ns >= own or is_blank) and until_ns <= last:
            expected.add(row)
    assert has_window == expected
    firsts = np.flatnonzero((presented.number == 0) & (np.diff(presented.block, prepend=-1) != 0))
    assert 3 < len(has_window & set(firsts.tolist())) < len(firsts)


def test_every_nth_frame_is_a_target():
    """Targets are the frames whose number the step divides; the others stay on the screen."""
    table = table_of(*[(3 * k, 3 * k + 3, 0, k % 7, 1) for k in range(14)])
    presented = read_presented(table, {"a": 7}, every=3)
    assert presented.target_number.tolist() == [0, 3, 6]
    assert presented.frame.tolist() == [0, -1, -1, 1, -1, -1, 2] * 2
    assert presented.number.tolist() == list(range(7)) * 2


def test_images_in_random_order_have_no_joins():
    """Blanks are labelled by nothing, and the repeat of an image is how often it came before."""
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.permutation(np.arange(-1, 20)) for _ in range(4)])
    table = table_of(*[(25 * k, 25 * k + 25, 0, n, 1) for k, n in enumerate(numbers.tolist())])
    presented = read_presented(table, {"a": 20})
    assert presented.is_shuffled == (True,)
    assert set(presented.block.tolist()) == {0}
    assert presented.n_repeats == (4,)
    for number in range(20):
        assert presented.repeat[presented.number == number].tolist() == [0, 1, 2, 3]
    assert (presented.frame[presented.number < 0] == -1).all()


def test_rows_that_last_no_time_are_left_out():
    """A presentation that ends when it starts is counted and has no label."""
    table = table_of((0, 3, 0, 0, 1), (3, 3, 0, 1, 1), (6, 9, 0, 2, 1))
    presented = read_presented(table, {"a": 3})
    assert presented.number.tolist() == [0, 2]
    assert presented.n_empty == 1


def test_frames_that_do_not_fit_are_refused():
    """Too few, too many, counted from one, none at all, another name, two at a time."""
    table = table_of((0, 3, 0, 1, 1), (3, 6, 0, 2, 1), (6, 9, 1, -1, 1))
    with pytest.raises(UserError, match=r"a has 5 frames in --frames.*numbers 1 to 2, so 3 frames"):
        read_presented(table, {"a": 5})
    with pytest.raises(UserError, match="do they count from 1"):
        read_presented(table, {"a": 2})
    with pytest.raises(UserError, match="b has no frame numbers"):
        read_presented(table, {"b": 2})
    with pytest.raises(UserError, match="c is not among a, b"):
        read_presented(table, {"c": 2})
    together = replace(table, start_ns=np.array([0, 0, 6]) * 10**7)
    with pytest.raises(UserError, match="1 presentations of a start together"):
        read_presented(together, {"a": 3})


def test_spans_hold_the_blocks_and_nothing_else():
    """Joins inside a span share bins; the gap is not counted; the recording's ends cut."""
    rate = BinRate(120)
    presented = read_presented(planted_table(), {"natural_movie_one": N_FRAMES})
    spans = spans_of(presented, rate)
    assert len(spans.first_bin) == 2
    shown_s = N_REPEATS * N_FRAMES * FRAME_NS / 1e9
    assert 0.98 * shown_s < spans.n_rows / 120 < 1.2 * shown_s
    start_ns, stop_ns = int(presented.start_ns[10]) + 1, int(presented.stop_ns[-10])
    cut = spans_of(presented, rate, recorded_ns=(start_ns, stop_ns))
    assert (
        rate.start_ns(int(cut.first_bin[0])) >= start_ns > rate.start_ns(int(cut.first_bin[0]) - 1)
    )
    assert rate.start_ns(int(cut.stop_bin[-1])) <= stop_ns
    one = spans_of(presented, rate, recorded_ns=(0, int(presented.stop_ns[20])))
    assert len(one.first_bin) == 1
    with pytest.raises(UserError, match="same zero"):
        spans_of(presented, rate, recorded_ns=(0, 10**9))
