"""A recording that is played round: later by what was played before, and otherwise the same."""

from pathlib import Path

import numpy as np
import pytest

from contracts.clock import NS_PER_S
from neurrate.cli import main
from stream_sources.recordings.nwb import NwbSource
from stream_sources.repeated import RepeatedSource
from tests.support.nwb_files import write_units

TRAINS = [np.array([0.0, 0.5, 1.25]), np.array([0.2, 1.9999])]


def test_rounds_follow_each_other_without_a_hole(tmp_path: Path):
    """Two rounds and a half of two seconds: numbers and spans go on, and spikes repeat."""
    path = str(write_units(tmp_path / "short.nwb", TRAINS))
    repeated = RepeatedSource(NwbSource(path, batch_ms=100), 5 * NS_PER_S)
    batches = list(repeated.batches())
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    assert [batch.stop_ns for batch in batches[:-1]] == [batch.start_ns for batch in batches[1:]]
    assert batches[0].start_ns == 0
    assert 5 * NS_PER_S <= batches[-1].stop_ns < 5.1 * NS_PER_S
    assert {batch.run for batch in batches} == {repeated.run}
    times = np.concatenate([batch.spike_time_ns for batch in batches])
    units = np.concatenate([batch.unit_index for batch in batches]).tolist()
    assert units == [0, 1, 0, 0, 1] * 2 + [0, 1, 0]
    round_ns = times[5] - times[0]
    assert round_ns == 5 * NS_PER_S / repeated.n_rounds
    assert np.array_equal(times[5:10], times[:5] + round_ns)
    assert np.array_equal(times[10:], times[:3] + 2 * round_ns)
    for batch in batches:
        assert np.all(
            (batch.start_ns <= batch.spike_time_ns) & (batch.spike_time_ns < batch.stop_ns)
        )
    repeated.close()


def test_a_recording_that_is_long_enough_is_played_once(tmp_path: Path):
    """The batches are those of the recording itself."""
    path = str(write_units(tmp_path / "long.nwb", TRAINS))
    source = NwbSource(path, duration_s=1.0, batch_ms=100)
    repeated = RepeatedSource(source, NS_PER_S)
    assert repeated.n_rounds == 1
    spans = [(batch.start_ns, batch.stop_ns, batch.n_spikes) for batch in source.batches()]
    assert [(b.start_ns, b.stop_ns, b.n_spikes) for b in repeated.batches()] == spans
    repeated.close()


def test_a_round_without_an_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """``--loop`` alone would never end, and a replay ends."""
    path = write_units(tmp_path / "short.nwb", TRAINS)
    assert main(["stream", "nwb", str(path), "--loop"]) == 2
    assert "--loop needs --seconds" in capsys.readouterr().err
