"""Labels of windows: exact against a slow search, with dropped frames and a gap planted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.errors import MisuseError, UserError
from contracts.window import Window, WindowSpec
from encoder_training.data_set.alignment import align, frame_at, needed_blank_ns

FRAME_NS = 33_361_193
"""A movie frame of the Allen sessions (Visual Coding Neuropixels)."""


def table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two blocks of 150 frames, 7 s apart; some frames dropped, some shown twice as long."""
    rng = np.random.default_rng(seed)
    starts = []
    now = 1_234_567_891
    for block in range(2):
        now += block * 7_000_000_000
        for _ in range(150):
            starts.append(now)
            now += FRAME_NS + int(rng.integers(-20_000, 20_000))
            now += FRAME_NS * int(rng.random() < 0.03)  # the next frame comes late
    start = np.array(starts)
    stop = np.minimum(np.append(start[1:], start[-1] + 10 * FRAME_NS), start + FRAME_NS)
    is_long = rng.random(len(start)) < 0.03
    stop[is_long] = np.minimum(np.append(start[1:], now), start + 2 * FRAME_NS)[is_long]
    kept = rng.random(len(start)) > 0.02  # and some rows are not in the table at all
    return start[kept], stop[kept]


def shown(start, stop, session_ns) -> int:
    """Look through all presentations, one by one."""
    for row in range(len(start)):
        if start[row] <= session_ns < stop[row]:
            return row
    return -1


def brute_force(start, stop, spec, recorded, margin) -> dict[int, int]:
    """Return the window of each presentation, by trying every bin edge with exact fractions."""
    width = Fraction(10**9 * spec.rate.den, spec.rate.num)
    far = 10**18
    ends, starts = [-far, *stop.tolist()], [*start.tolist(), far]
    pauses = [(a, b) for a, b in zip(ends, starts, strict=True) if b - a > 100_000_000]
    windows = {}
    for row in range(len(start)):
        middle = start[row] + (stop[row] - start[row]) // 2 + spec.lag_ns
        edges = range(int(middle / width) - 1, int(middle / width) + 3)
        stop_bin = max(b for b in edges if -(-b * width // 1) <= middle)
        earliest, latest = stop_bin - spec.n_bins - margin, stop_bin + margin
        seen_from = -(-earliest * width // 1) - spec.lag_ns
        seen_until = -(-latest * width // 1)
        is_recorded = recorded[0] <= earliest and latest <= recorded[1]
        if is_recorded and not any(a < seen_until and b > seen_from for a, b in pauses):
            windows[row] = stop_bin - spec.n_bins
    return windows


@pytest.fixture(scope="module")
def presentations():
    """Return the planted table."""
    return table()


def test_frame_at_equals_a_slow_search(presentations):
    """Starts, stops, holes and the gap between blocks all get the row that a search finds."""
    start, stop = presentations
    rng = np.random.default_rng(1)
    anywhere = rng.integers(start[0] - 10**9, stop[-1] + 10**9, 300)
    times = np.concatenate([anywhere, start[:50], stop[:50], stop[:50] - 1])
    assert frame_at(start, stop, times).tolist() == [shown(start, stop, t) for t in times]
    assert (frame_at(start, stop, times) == -1).any()


@pytest.mark.parametrize("lag_ns", [0, 50_000_000])
@pytest.mark.parametrize("rate", [BinRate(120), BinRate(2_000, 33)])
def test_windows_equal_a_slow_search(presentations, lag_ns, rate):
    """Each presentation has the window that an exact search finds, or none where that has none."""
    start, stop = presentations
    spec = WindowSpec(rate, n_bins=20, stride_bins=4, lag_ns=lag_ns)
    recorded = (160, rate.bin_of(int(stop[-1])) - 30)
    first_bin, row = align(start, stop, spec, recorded_bins=recorded)
    expected = brute_force(start, stop, spec, recorded, margin=2)
    assert dict(zip(row.tolist(), first_bin.tolist(), strict=True)) == expected
    assert 200 < len(expected) < len(start) - 10


def test_serving_gives_the_same_label(presentations):
    """The frame that a served window says it describes is the one it was trained on."""
    start, stop = presentations
    spec = WindowSpec(BinRate(120), n_bins=20, stride_bins=4, lag_ns=50_000_000)
    first_bin, row = align(start, stop, spec, recorded_bins=(0, 10**6))
    for first, expected in zip(first_bin.tolist(), row.tolist(), strict=True):
        window = Window(spec, first, np.zeros((20, 1), np.uint16))
        assert shown(start, stop, window.frame_ns) == expected
        assert window.stop_ns <= window.frame_ns + spec.lag_ns  # nothing from after its end


def test_no_window_crosses_the_gap(presentations):
    """What a window saw, moved by its margin either way, lies in one block."""
    start, stop = presentations
    after = int(np.argmax(np.diff(start))) + 1
    spec = WindowSpec(BinRate(120), n_bins=20, stride_bins=4, lag_ns=50_000_000)
    first_bin, row = align(start, stop, spec, recorded_bins=(0, 10**6))
    seen_from = np.array([spec.rate.start_ns(int(b) - 2) for b in first_bin]) - spec.lag_ns
    seen_until = np.array([spec.rate.start_ns(int(b) + 22) for b in first_bin])
    is_first = row < after
    assert seen_from[is_first].min() >= start[0]
    assert seen_until[is_first].max() <= stop[after - 1]
    assert seen_from[~is_first].min() >= start[after]
    assert seen_until[~is_first].max() <= stop[-1]
    assert is_first.any()
    assert (~is_first).any()


def test_the_first_frame_has_a_window_where_a_blank_came_before_it():
    """To the nanosecond: the blank must reach back to the lag before the moved window's start."""
    spec = WindowSpec(BinRate(100), n_bins=5, stride_bins=1, lag_ns=20_000_000)
    start = 1_000_000_000 + 40_000_000 * np.arange(10)
    stop, chosen = start + 40_000_000, np.array([0])

    def first_bins(blank_from_ns, recorded_bins=(0, 1_000), invalid_ns=None):
        first_bin, _ = align(
            start,
            stop,
            spec,
            recorded_bins=recorded_bins,
            chosen=chosen,
            blank_from_ns=np.full(10, blank_from_ns),
            invalid_ns=invalid_ns,
        )
        return first_bin.tolist()

    # Ends at 1.02 + 0.02 s, begins 50 ms before; moved by two bins, and the lag before: 0.95 s.
    assert first_bins(950_000_000) == [99]
    assert first_bins(950_000_001) == []
    assert first_bins(0) == [99]
    assert first_bins(1_000_000_000) == []
    assert align(start, stop, spec, recorded_bins=(0, 1_000), chosen=chosen)[0].tolist() == []
    assert first_bins(0, recorded_bins=(97, 1_000)) == [99]
    assert first_bins(0, recorded_bins=(98, 1_000)) == []
    assert first_bins(0, invalid_ns=np.array([[900_000_000, 950_000_000]])) == [99]
    assert first_bins(0, invalid_ns=np.array([[900_000_000, 950_000_001]])) == []
    assert needed_blank_ns(spec) == 90_000_000  # 50 ms at the least, whatever the lag


def test_a_blank_moves_no_end_of_a_block():
    """The last frame has no window that reaches past its block, blank before it or not."""
    spec = WindowSpec(BinRate(100), n_bins=5, stride_bins=1, lag_ns=20_000_000)
    start = 1_000_000_000 + 40_000_000 * np.arange(10)
    stop = start + 40_000_000
    _, before = align(start, stop, spec, recorded_bins=(0, 1_000))
    _, after = align(start, stop, spec, recorded_bins=(0, 1_000), blank_from_ns=np.zeros(10, int))
    assert before.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert after.tolist() == [0, 1, *before.tolist()]


def test_chosen_presentations_keep_their_rows(presentations):
    """A choice of rows gets the windows that those rows have among all."""
    start, stop = presentations
    spec = WindowSpec(BinRate(120), n_bins=20, stride_bins=4)
    every = dict(zip(*reversed(align(start, stop, spec, recorded_bins=(0, 10**6))), strict=True))
    chosen = np.array([100, 40, 222])
    first_bin, row = align(start, stop, spec, recorded_bins=(0, 10**6), chosen=chosen)
    assert row.tolist() == [number for number in chosen.tolist() if number in every]
    assert first_bin.tolist() == [every[number] for number in row.tolist()]


def test_tables_out_of_order_are_refused():
    """A table that is not sorted, ends before it starts, or is empty says so."""
    spec = WindowSpec(BinRate(120), n_bins=2, stride_bins=1)
    good = np.array([0, 10, 20])
    with pytest.raises(UserError, match="1 rows are out of order"):
        align(good[[0, 2, 1]], good + 5, spec, recorded_bins=(0, 9))
    with pytest.raises(UserError, match="3 end too early"):
        frame_at(good, good, good)
    with pytest.raises(UserError, match="one row or more"):
        frame_at(good[:0], good[:0], good)
    with pytest.raises(MisuseError, match="margin_bins"):
        align(good, good + 5, spec, recorded_bins=(0, 9), margin_bins=-1)
