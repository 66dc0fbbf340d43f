"""The lag: planted latencies are found, and the shortest lag of a plateau is the choice."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from contracts.errors import UserError
from encoder_training import lag as lag_module
from encoder_training.data_set.prepared import Role
from encoder_training.evaluation.movie_time import movie_time
from encoder_training.lag import CANDIDATES_NS, LagChoice, choose_lag, plot_lags
from tests.support.prepared import FRAME_NS, prepared_set


def planted(latency_ms: int, **changes):
    """Return a movie that shows something new in each frame, so that a part tells part of it."""
    sizes = {"n_repeats": 12, "rate_hz": 15, "units_each": 12, "frames_per_scene": 1, **changes}
    return prepared_set(latency_ns=latency_ms * 1_000_000, **sizes)


@cache
def choice_for(latency_ms: int) -> LagChoice:
    """Return the choice for a latency."""
    return choose_lag(planted(latency_ms))


@pytest.fixture(scope="module")
def choice() -> LagChoice:
    """Return the choice for a latency of 60 ms."""
    return choice_for(60)


@pytest.mark.parametrize("latency_ms", [30, 60, 100])
def test_first_lag_with_the_whole_answer_is_chosen(latency_ms):
    """It is the shortest candidate from latency + half a frame on, as the theory says."""
    chosen = choice_for(latency_ms)
    whole_ns = latency_ms * 1_000_000 + FRAME_NS // 2
    assert chosen.lag_ns == min(lag_ns for lag_ns in CANDIDATES_NS if lag_ns >= whole_ns)


def test_a_window_without_the_answer_explains_little(choice):
    """Before the latency there is nothing to explain; on the plateau there is a lot."""
    explained = {score.lag_ns: score.explained for score in choice.scores}
    assert explained[0] < 0.4 < 0.6 < explained[choice.lag_ns]


def test_shortest_of_equals_is_chosen():
    """The rule, on numbers: one error behind is as good, and the first such lag wins."""
    rng = np.random.default_rng(0)
    run = rng.normal(size=16) / 10  # hard or easy for every lag alike
    apart = 0.01 * np.tile([1, -1], 8)
    errors = np.array([0.5 + run, 0.302 + run + apart, 0.3 + run, 0.301 + run])
    chosen = lag_module._choose([0, 10, 20, 30], errors, 1, 1)
    assert chosen.lag_ns == 10
    assert [score.behind_best for score in chosen.scores] == pytest.approx([0.2, 0.002, 0, 0.001])
    assert chosen.scores[1].behind_best_error < chosen.scores[1].standard_error


@pytest.mark.parametrize("held_out", ["repeats", "middle"])
def test_all_lags_are_scored_on_the_same_presentations(held_out):
    """Every common presentation has a window at each lag, which describes its frame."""
    prepared = planted(60, held_out=held_out)
    paired = [lag_module._Paired.of(prepared, lag) for lag in CANDIDATES_NS]
    for part, role in (("train", Role.TRAIN), ("validation", Role.VALIDATION)):
        common = lag_module._common([getattr(candidate, part) for candidate in paired])
        assert len(common) > 20
        assert (prepared.shown.role[common] == role).all()
        for candidate in paired:
            rows = candidate.window_of[common]
            assert (rows >= 0).all()
            assert (candidate.data.frame[rows] == prepared.shown.frame[common]).all()


def test_test_presentations_are_not_looked_at(choice):
    """The counts of the last repeat, which is for testing, change nothing."""
    prepared = planted(60)
    first = int(prepared.window.rate.bin_of(int(prepared.shown.start_ns[11 * 90]))) + 1
    prepared.counts[first:] = 7
    assert choose_lag(prepared) == choice


@pytest.mark.parametrize("held_out", ["repeats", "middle"])
def test_few_seconds_are_cut_into_runs_of_movie(held_out):
    """An error needs a dozen numbers; all repeats of a run are one of them."""
    prepared = prepared_set(n_frames=300, frames_per_scene=60, held_out=held_out)
    data, parts = prepared.windows(100_000_000)
    run = lag_module._runs(data, parts.validation, movie_time(prepared))
    frame = data.frame[parts.validation]
    assert 12 <= len(np.unique(run)) <= 20
    assert all(len(np.unique(run[frame == number])) == 1 for number in np.unique(frame))
    assert (np.diff(run[np.argsort(frame, kind="stable")]) >= 0).all()


def test_choice_is_drawn(choice, tmp_path):
    """The picture is there."""
    plot_lags(choice, tmp_path / "lag.png")
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")


def test_lags_that_leave_nothing_are_refused():
    """A lag longer than a repeat leaves no window: the sentence says what to do."""
    with pytest.raises(UserError, match=r"5000 ms .*no presentation has a window"):
        choose_lag(planted(60), [0, 5_000_000_000])
