"""What a source says: a batch is legal once it exists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contracts.clock import MAX_SESSION_NS
from contracts.errors import MisuseError
from contracts.spikes import (
    MAX_SPAN_NS,
    MAX_SPIKES,
    RUN_ID,
    STREAM_NAME,
    SpikeBatch,
    check_span,
)

RUN = "0123456789abcdef"


def _batch(**changes: Any) -> SpikeBatch:
    times = np.array([5, 3, 9], dtype=np.int64)
    fields = {
        "stream": "probeA", "run": RUN, "seq": 0, "start_ns": 0, "stop_ns": 10,
        "spike_time_ns": times, "unit_index": np.zeros(3, dtype=np.uint32), **changes,
    }  # fmt: skip
    return SpikeBatch(**fields)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start_ns": 10}, "a span needs start < stop within .* got 10, 10"),
        ({"start_ns": 11}, "a span needs start < stop"),
        ({"start_ns": -MAX_SESSION_NS - 1}, "a span needs start < stop within"),
        ({"stop_ns": MAX_SESSION_NS + 1}, "a span needs start < stop within"),
        ({"stop_ns": MAX_SPAN_NS + 1}, "may span 1000000000 ns, got 1000000001; send several"),
        ({"seq": -1}, "seq must be 0 or more, got -1"),
        ({"unit_index": np.zeros(2, np.uint32)}, r"got shapes \(2,\) and \(3,\)"),
        (
            {
                "spike_time_ns": np.zeros((3, 1), np.int64),
                "unit_index": np.zeros((3, 1), np.uint32),
            },
            r"got shapes \(3, 1\) and \(3, 1\)",
        ),
        ({"spike_time_ns": np.zeros(3)}, "int64 times and uint32 .* got float64 and uint32"),
        ({"unit_index": np.zeros(3, np.int64)}, "got int64 and int64"),
        ({"start_ns": 4}, r"spike times must lie in \[4, 10\) ns, got 3 to 9"),
        ({"stop_ns": 9}, r"spike times must lie in \[0, 9\) ns, got 3 to 9"),
        (
            {
                "spike_time_ns": np.zeros(MAX_SPIKES + 1, np.int64),
                "unit_index": np.zeros(MAX_SPIKES + 1, np.uint32),
            },
            "may hold 1,048,576 spikes, got 1,048,577",
        ),
    ],
)
def test_illegal_batch_does_not_exist(changes, says):
    """Each rule of a batch, broken alone, is refused with what was found."""
    with pytest.raises(MisuseError, match=says):
        _batch(**changes)


def test_legal_batches():
    """Unsorted spikes, no spikes, negative times and the longest span are legal."""
    assert _batch().n_spikes == 3
    empty = {"spike_time_ns": np.empty(0, np.int64), "unit_index": np.empty(0, np.uint32)}
    assert _batch(**empty, start_ns=-MAX_SESSION_NS, stop_ns=1 - MAX_SESSION_NS).n_spikes == 0
    assert _batch(**empty, stop_ns=MAX_SPAN_NS).stop_ns == MAX_SPAN_NS


def test_check_span_takes_the_ends_of_the_clock():
    """Spans may touch both ends of the clock."""
    check_span(-MAX_SESSION_NS, -MAX_SESSION_NS + 1)
    check_span(MAX_SESSION_NS - 1, MAX_SESSION_NS)


@pytest.mark.parametrize(
    ("name", "is_legal"),
    [("probeA", True), ("rig-1_b", True), ("x" * 64, True), ("x" * 65, False), ("", False),
     ("a.b", False), ("a b", False), ("é", False), ("a\n", False)],
)  # fmt: skip
def test_stream_names(name, is_legal):
    """Names of streams are safe in topics, in metric labels and in file names."""
    assert bool(STREAM_NAME.fullmatch(name)) == is_legal


@pytest.mark.parametrize(
    ("run", "is_legal"), [(RUN, True), (RUN.upper(), False), (RUN[:-1], False), (RUN + "0", False)]
)
def test_run_ids(run, is_legal):
    """Runs are sixteen small hex digits."""
    assert bool(RUN_ID.fullmatch(run)) == is_legal
