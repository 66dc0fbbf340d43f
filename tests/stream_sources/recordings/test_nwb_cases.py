"""Small recordings beside the checkout that earlier versions read wrongly or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import RecordingError
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.recording import RecordingSummary, describe
from tests.support.range_server import range_server

LABELS = {"good": 3, "mua": 2, "noise": 1}
RIGHT: list[tuple[str, dict[str, Any], str]] = [
    ("area_not_ascii", {"areas": {"Süd": 3, "CA1": 3}}, ""),
    ("intervals_dangling_link", {"presentations": {}}, "intervals/a_presentations is left out"),
    ("loc_unknown", {"areas": {"VISp": 6}, "probes": {"probe0": 6}}, ""),
    ("many_electrodes", {"areas": {"VISp": 6}, "probes": {"probe0": 6}}, ""),
    ("peak_ids_match_nothing", {"areas": dict.fromkeys("ABCDEF", 1)}, "no electrode's id in 6"),
    ("presentations_dataset", {"presentations": {}}, "intervals/x_presentations is left out"),
    ("presentations_nostop", {"presentations": {}}, "intervals/x_presentations is left out"),
    ("presentations_shortid", {"presentations": {"x": 40}}, "x_presentations/id has 35 values"),
    ("presentations_shortstop", {"presentations": {}}, "intervals/x_presentations is left out"),
    ("quality_enumdata", {"qualities": LABELS}, ""),
    ("quality_h5enum", {"qualities": LABELS}, ""),
    ("spacepad", {"qualities": {"good": 3, "mua": 3}}, ""),
    ("spike_times_two_dimensional", {}, ""),
]
REFUSED = [
    ("unwritten_column", "units/spike_times was allocated and never written"),
    ("virtual_source_gone", r"whose source units/spike_times in gone\.nwb"),
]


@pytest.fixture
def cases(real_recordings: Path) -> Path:
    """Return the folder of the inputs."""
    folder = real_recordings / "cases"
    if not folder.is_dir():
        pytest.skip("no cases beside the checkout")
    return folder


def summaries(path: Path, cache: Path) -> Iterator[RecordingSummary]:
    """Yield what a recording holds, read from the disk and over http."""
    yield describe(NwbSource(str(path)))
    with range_server(path.parent) as server:
        yield describe(NwbSource(server.url(path.name), cache_dir=cache))


@pytest.mark.parametrize(("name", "right", "note"), RIGHT, ids=[case[0] for case in RIGHT])
def test_a_recording_with_an_unusual_trait_is_read(
    cases: Path, tmp_path: Path, name: str, right: dict[str, Any], note: str
) -> None:
    """The spikes are the same in all; labels are right, and faults are noted."""
    for summary in summaries(cases / f"{name}.nwb", tmp_path):
        assert (summary.n_units, summary.n_spikes) == (6, 1305)
        assert summary.span_s == pytest.approx((0.5, 19.9903), abs=1e-4)
        assert {key: getattr(summary, key) for key in right} == right
        assert bool(summary.notes) == bool(note)
        assert note in " ".join(summary.notes)


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_recording_without_its_spikes_is_refused(cases: Path, name: str, text: str) -> None:
    """Fill values are not spikes."""
    with pytest.raises(RecordingError, match=text):
        NwbSource(str(cases / f"{name}.nwb"))
