"""What a benchmark makes of messages: rates, percentiles, parts, the knee. No process runs here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.errors import ChildError, UserError
from contracts.narration import Stamps, Status
from contracts.narration_wire import pack_narration
from contracts.window import WindowSpec
from evaluation.latency.knee import Knee, Point, find_knee
from evaluation.latency.messages import (
    TimedMessage,
    middle_ms,
    parts_problem,
    percentiles,
    read,
    stage_percentiles,
)
from evaluation.latency.rate import RateRun, SentBatch, pace
from evaluation.latency.run import summarise
from evaluation.trial import TrialSummary
from subscribers.listener import Received, parse
from tests.support.narrations import narration

MS = 1_000_000
STAMPS = Stamps(0, 1 * MS, 4 * MS, 5 * MS, 9 * MS, 19 * MS, 20 * MS)


def _content(**changes):
    content = json.loads(pack_narration(replace(narration(), stamps=STAMPS))[1])
    for name, values in changes.items():
        content[name] |= values
    return content


@pytest.mark.parametrize(
    ("rate", "stride_bins", "speed", "batch_ms"),
    [
        (1, 120, 1.0, 10.0),
        (10, 12, 1.0, 10.0),
        (60, 2, 1.0, 10.0),
        (120, 1, 1.0, 8.3),
        (240, 1, 2.0, 8.3),
        (50, 2, 50 * 2 / 120, 8.3),
        (7, 17, 7 * 17 / 120, 9.9),
    ],
)
def test_a_rate_is_met_exactly_by_stride_and_speed(rate, stride_bins, speed, batch_ms):
    """The stride comes nearest, the speed makes up the rest, and no batch finishes two windows."""
    found = pace(rate, 120)
    assert (found.stride_bins, found.speed, found.batch_ms) == (stride_bins, speed, batch_ms)
    assert 120 / found.stride_bins * found.speed == pytest.approx(rate)
    assert found.batch_ms <= 1e3 * found.stride_bins / 120


@pytest.mark.parametrize(
    ("points", "rate", "beyond", "why"),
    [
        ([(1, 1.0, 50), (5, 0.99, 100), (10, 0.98, 60)], 5, 10, "only 98.0% of the windows"),
        ([(10, 1.0, 101), (1, 1.0, 50), (5, 1.0, 60)], 5, 10, "is 101 ms, more than 100 ms"),
        ([(1, 1.0, 50), (5, 0.5, 60), (10, 1.0, 60)], 1, 5, "only 50.0%"),
        ([(1, 1.0, 50), (10, 1.0, 100)], 10, None, ""),
        ([(1, 0.5, 50), (10, 1.0, 60)], None, 1, "only 50.0%"),
        ([(1, 0.0, float("inf"))], None, 1, "only 0.0%"),
    ],
)
def test_the_knee_is_the_last_rate_before_the_rule_breaks(points, rate, beyond, why):
    """Share and latency both count, and a rate above one that fails does not."""
    knee = find_knee([Point(*each) for each in points])
    assert (knee.rate, knee.beyond) == (rate, beyond)
    assert why in knee.why
    assert bool(knee.why) is (beyond is not None)


def test_the_knee_is_a_sentence():
    """It names the rate, and why the next one is too fast."""
    assert Knee(20, 40, "it bends").sentence() == "Knee: 20 windows/s. At 40, it bends."
    assert "No knee up to 240 windows/s" in Knee(240, None, "").sentence()
    assert Knee(None, 1, "it bends").sentence() == "No knee: already at 1 windows/s it bends."


def test_the_parts_of_a_message_sum_to_its_whole():
    """A narration as the daemon packs it has nothing wrong with it."""
    assert parts_problem(_content()) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latency_ms": {"wait": 1.5}}, "the stage wait is 1.500000 ms and its stamps are 1.0"),
        ({"latency_ms": {"total": 21.0}}, "sum to 20.000000 ms and the total is 21.000000 ms"),
        ({"host_ns": {"encoded": 6 * MS}}, "worker_start lies 1.000000 ms before"),
        ({"latency_ms": {"more": 0.0}}, "7 stages lie between 7 stamps"),
        ({"age_ms": {"published": 19.0}}, "the age at published is 19.000000 ms"),
    ],
)  # fmt: skip
def test_parts_that_do_not_sum_are_named(changes, said):
    """A stage, the total, the order of the stamps and the ages are all held to the stamps."""
    content = _content(**changes)
    assert said in parts_problem(content)
    message = Received(narration(), 0, "narration.all", content)
    with pytest.raises(ChildError, match="must sum to the whole"):
        read(message)


def test_a_repeat_of_a_last_value_is_passed_over():
    """It would count a narration twice."""
    content = _content() | {"repeat": True}
    assert read(Received(narration(), 0, "narration.all", content)) is None


def _heard(a_ms: float, b_ms: float) -> TimedMessage:
    stamps = {"first": 0, "middle": round(a_ms * MS), "last": round((a_ms + b_ms) * MS)}
    stages = {"a": a_ms, "b": b_ms}
    return TimedMessage("narration", "all", 0, 0, "ok", 3, stamps, stages, a_ms + b_ms, 0)


def test_percentiles_by_hand():
    """Of 1 to 101 the percentiles are known, and of nothing there are none."""
    assert percentiles(np.arange(1.0, 102.0)) == {
        "p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0, "n": 101,
    }  # fmt: skip
    assert percentiles([]) is None


def test_stages_and_the_usual_message_by_hand():
    """The usual message's stages sum to the median; medians of stages need not."""
    heard = [_heard(1, 10), _heard(2, 2), _heard(9, 1), _heard(3, 20), _heard(0, 1)]
    assert [each["p50"] for each in stage_percentiles(heard).values()] == [2.0, 2.0, 10.0]
    assert middle_ms(heard) == {"a": 9.0, "b": 1.0}  # 1, 4, 10, 11, 23: only 10 is in the middle
    two = [_heard(1, 1), _heard(5, 5)]
    assert sum(middle_ms(two).values()) in (2.0, 10.0)
    assert middle_ms([]) == {}
    assert stage_percentiles([]) == {}


@pytest.mark.parametrize(("session_ns", "first"), [(0, 0), (1, 1), (25 * MS, 3), (25 * MS + 1, 4)])
def test_the_first_whole_bin(session_ns, first):
    """A bin that begins on the time is whole, and one that begins before is not."""
    assert BinRate(120).first_bin_at_or_after(session_ns) == first


SPEC = WindowSpec(BinRate(100), n_bins=10, stride_bins=50)
START_NS, SENT_NS = 10**9, 5 * 10**9
"""Of the session, and of the host clock when the first batch is sent."""


def _batches(n: int) -> list[SentBatch]:
    start_ns = [START_NS + seq * 10 * MS for seq in range(n)]
    return [
        SentBatch(seq, start, start + 10 * MS, SENT_NS + (seq + 1) * 10 * MS)
        for seq, start in enumerate(start_ns)
    ]


def _narrated(number: int, population: str, *, status: Status = Status.OK) -> Received:
    """Return the narration of the n-th window, which ends 100 ms after multiples of 500 ms."""
    seq = START_NS // (500 * MS) + number
    stop_s = seq * 0.5 + 0.1
    received_ns = SENT_NS + round(stop_s * 1e9) - START_NS + 2 * MS
    stamps = Stamps(*(received_ns + step * MS for step in (0, 1, 4, 5, 9, 19, 20)))
    told = replace(
        narration(seq=number, population=population, status=status),
        window_seq=seq, window_stop_s=stop_s, stamps=stamps,
    )  # fmt: skip
    return parse(pack_narration(told), host_ns=stamps.published + 3 * MS)


def _run(messages, n_batches, *, n_windows: int, n_narrations: int, dropped=None) -> RateRun:
    counters = {
        "windows": n_windows,
        "windows_gap_skipped": 0,
        "windows_dropped": {"narrator_busy": 0, "shutdown": 0} | (dropped or {}),
        "narrations": {"ok": n_narrations, "truncated": 0, "failed": 0},
        "spikes_received": 7, "spikes_binned": 7, "spikes_late": 0, "batches_lost": 0,
    }  # fmt: skip
    source = {"n_spikes": 7, "max_lateness_s": 0.004}
    return RateRun(messages, _batches(n_batches), TrialSummary(source, {"counters": counters}))


def test_a_run_becomes_numbers():
    """Four seconds of two windows each, the first second left out, one window half narrated."""
    said = [_narrated(number, name) for number in (0, 1, 2, 3, 4, 6, 7) for name in ("all", "LGd")]
    said.append(_narrated(5, "all"))
    run = _run(said, 400, n_windows=8, n_narrations=15, dropped={"narrator_busy": 1})
    found = summarise(run, pace(2, 100), spec=SPEC, populations=("all", "LGd"))
    assert found.windows == {
        "cut": 8, "narrated": 7, "dropped": {"narrator_busy": 1}, "skipped": 0,
    }  # fmt: skip
    assert (found.measured_windows, found.measured_narrated) == (6, 5)
    assert found.share == pytest.approx(5 / 6)
    assert found.seconds == 3.0
    assert found.narrations_per_s == pytest.approx(11 / 3)
    assert found.stages_ms["total"] == {"p50": 20, "p95": 20, "p99": 20, "max": 20, "n": 11}
    assert found.middle_ms == {
        "cut": 1, "encode": 3, "wait": 1, "prefill": 4, "decode": 10, "publish": 1,
    }  # fmt: skip
    assert found.sent_to_received_ms is not None
    assert found.sent_to_received_ms["max"] == pytest.approx(2.0)
    assert found.published_to_here_ms is not None
    assert found.published_to_here_ms["p50"] == pytest.approx(3.0)
    assert found.spikes["sent"] == found.spikes["binned"] == 7
    assert found.source_late_ms == pytest.approx(4.0)
    assert json.loads(json.dumps(found.to_json()))["share_narrated"] == pytest.approx(5 / 6)


def test_failed_narrations_are_not_latencies():
    """What was never said was not late, and its window counts as not narrated."""
    said = [_narrated(number, "all", status=Status.FAILED) for number in range(4)]
    run = _run(said, 200, n_windows=4, n_narrations=4)
    found = summarise(run, pace(2, 100), spec=SPEC, populations=("all",))
    assert (found.measured_windows, found.measured_narrated) == (2, 0)
    assert found.stages_ms == {}
    assert found.p95_ms == float("inf")
    assert found.point.share == 0.0


def test_a_narration_that_did_not_arrive_is_an_error():
    """Figures of a part of the narrations would be taken for figures of all."""
    run = _run([_narrated(0, "all")], 200, n_windows=4, n_narrations=2)
    with pytest.raises(ChildError, match="2 narrations were published and 1 arrived"):
        summarise(run, pace(2, 100), spec=SPEC, populations=("all",))


def test_a_recording_that_is_too_short_is_the_users():
    """There must be a window after the first second."""
    run = _run([], 50, n_windows=1, n_narrations=0)
    with pytest.raises(UserError, match="1 were cut in all"):
        summarise(run, pace(2, 100), spec=SPEC, populations=("all",))
