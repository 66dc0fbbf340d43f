"""What the page can go back to: an axis that only grows, events, tiles; all bounded."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from subscribers.dashboard.event_log import LIVE_ONLY_S, EventLog
from subscribers.dashboard.rate_history import (
    LEVELS_PER_ROOT_HZ,
    MAX_LEVEL,
    MAX_TILES,
    NO_DATA,
    STEP,
    TILE_COLUMNS,
    TILE_S,
    RateHistory,
    levels_of,
)
from subscribers.dashboard.timeline import AHEAD_S, SessionAxis


def test_session_time_is_the_axis_of_one_session():
    """Also where windows come a moment late, and where the daemon was away."""
    axis = SessionAxis()
    assert axis.advance(100.0, 0.0)
    assert not axis.advance(101.0, 1.0)
    assert not axis.advance(100.5, 1.1)
    assert not axis.advance(160.0, 60.0)
    assert (axis.x_of(150.0), axis.head) == (150.0, 160.0)


def test_a_recording_that_begins_again_is_another_span():
    """The axis goes on; its place says when time has passed meanwhile."""
    axis = SessionAxis()
    axis.advance(0.0, 0.0)
    axis.advance(40.0, 40.0)
    assert axis.advance(0.0, 50.0)
    assert axis.head == axis.x_of(0.0) == 50.0
    axis.advance(3.0, 53.0)
    assert [span.offset_s for span in axis.spans] == [0.0, 50.0]


def test_another_recording_that_is_later_is_another_span():
    """Hours that nobody has waited for are not drawn."""
    axis = SessionAxis()
    axis.advance(10.0, 0.0)
    assert axis.advance(10.0 + 2 * AHEAD_S, 1.0)
    assert axis.head == 11.0


def log_of(*events: tuple[str, float], **limits: Any) -> EventLog:
    log = EventLog(live_only=frozenset({"rates"}), **limits)
    for kind, x in events:
        log.append(kind, x, b"x" * 100)
    return log


def test_events_are_read_from_any_place():
    """In their order, whether they are kept for an hour or for a moment."""
    log = log_of(*((("rates", "narration")[n % 2], n / 10) for n in range(100)))
    assert [event.number for event in log.since(95, limit=10)] == [95, 96, 97, 98, 99, 100]
    assert [event.number for event in log.since(3, limit=4)] == [3, 4, 5, 6]
    assert log.since(101, limit=10) == []


def test_events_of_an_hour_are_kept_and_rates_for_a_moment():
    """A page that was away for longer draws rates from tiles."""
    log = log_of(*((("rates", "narration")[n % 2], float(n)) for n in range(200)), history_s=100.0)
    kept = [event.x for event in log.between(0, 1_000)]
    assert (min(kept), max(kept)) == (99.0, 199.0)
    rates = [event.x for event in log.since(1, limit=500) if event.kind == "rates"]
    assert min(rates) >= 199.0 - LIVE_ONLY_S


def test_the_log_is_bounded_in_bytes():
    """The oldest goes, and a page that had not read it is told."""
    log = log_of(*(("narration", 0.0) for _ in range(100)), max_bytes=2_000)
    assert log.n_bytes <= 2_000
    assert not log.has_all_since(80)
    assert log.has_all_since(81)
    assert log.has_all_since(101)
    assert not log.has_all_since(102)


def test_levels_grow_with_the_root_of_the_rate():
    """No spike is 0, and no data is no level."""
    levels = levels_of(np.array([0.0, 1.0, 100.0, 1e9, np.nan]))
    assert levels.tolist() == [0, LEVELS_PER_ROOT_HZ, 160, MAX_LEVEL, NO_DATA]


def tile_of(history: RateHistory, number: int, *, is_overview: bool = False):
    packed = history.tile(number, is_overview=is_overview)
    assert packed is not None
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(-1, history.n_rows)


def test_columns_come_back_in_their_tiles():
    """Also those of a tile that was closed, and across its edge."""
    history = RateHistory(3)
    for column in range(3 * TILE_COLUMNS):
        history.add(column / 10, (column + 1) / 10, np.full(3, column % 200, np.uint8))
    for number in range(3):
        first = number * TILE_COLUMNS
        expected = [(first + at) % 200 for at in range(TILE_COLUMNS)]
        assert tile_of(history, number)[:, 1].tolist() == expected
    assert tile_of(history, 0, is_overview=True)[0, 0] == sum(range(STEP)) // STEP


def test_long_intervals_and_late_columns_have_their_place():
    """A fast replay's interval fills its columns; what comes late is put where it belongs."""
    history = RateHistory(1)
    history.add(1.0, 3.5, np.array([7], np.uint8))
    history.add(2 * TILE_S, 2 * TILE_S + 0.1, np.array([9], np.uint8))
    history.add(3 * TILE_S, 3 * TILE_S + 0.1, np.array([9], np.uint8))
    history.add(0.0, 0.1, np.array([5], np.uint8))
    assert (tile_of(history, 0)[:, 0] == 7).sum() == 25
    assert tile_of(history, 0)[0, 0] == 5
    assert tile_of(history, 0)[1, 0] == NO_DATA


@pytest.mark.parametrize("limit", ["tiles", "bytes"])
def test_tiles_are_bounded(limit):
    """By their number and by their bytes; the oldest go."""
    rng = np.random.default_rng(1)
    max_bytes = 128 << 20 if limit == "tiles" else 40_000
    history = RateHistory(20, max_bytes=max_bytes)
    for number in range(80):
        history.add(number * TILE_S, number * TILE_S + 60, rng.integers(0, 9, 20).astype(np.uint8))
    assert len(history.numbers) <= MAX_TILES
    assert history.n_bytes <= max_bytes
    assert history.numbers[-1] == 79
    assert history.tile(0) is None
