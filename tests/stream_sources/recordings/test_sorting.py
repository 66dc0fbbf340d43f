"""Kilosort folders and what SpikeInterface loads."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import RecordingError
from contracts.population import Unit
from daemon.service.logs import fields_of
from stream_sources.recordings.open_source import kind_of, open_source
from stream_sources.recordings.sorting import (
    SortingSource,
    _unit_by_unit,
    ns_to_samples,
    samples_to_ns,
)
from tests.support import spike_lists
from tests.support.nwb_files import write_kilosort, write_units

TRAINS = {3: [0, 30_000, 30_001], 7: [1, 30_000], 12: [45_000]}


def in_memory(trains: dict[int, list[int]], rate_hz: float = 30_000.0) -> Any:
    """Return a SpikeInterface sorting."""
    from spikeinterface import NumpySorting

    units = {unit: np.array(samples) for unit, samples in trains.items()}
    return NumpySorting.from_unit_dict([units], rate_hz)


def test_a_kilosort_folder_is_sent_to_the_last_spike(tmp_path: Path) -> None:
    """Every spike of the two arrays is sent, with its cluster's row."""
    source = SortingSource(write_kilosort(tmp_path / "ks", TRAINS))
    assert [unit.unit_id for unit in source.population.units] == ["3", "7", "12"]
    assert spike_lists.of_batches(source.batches()) == [
        (0, 0),
        (33_333, 1),
        (10**9, 0),
        (10**9, 1),
        (1_000_033_333, 0),
        (1_500_000_000, 2),
    ]


@pytest.mark.parametrize("ids", [(3, 7, 12), (3, 7, 10**12), (-4, -3, 0)])
def test_clusters_may_have_any_numbers(tmp_path: Path, ids: tuple[int, ...]) -> None:
    """Units come in the order of their ids, however large those are."""
    folder = write_kilosort(tmp_path / "ks", {1: [0, 9], 2: [1], 3: [2]})
    clusters = np.array([ids[at] for at in (2, 0, 1, 2)], dtype=np.int64)
    np.save(folder / "spike_clusters.npy", clusters)
    source = SortingSource(folder)
    assert [unit.unit_id for unit in source.population.units] == [str(at) for at in ids]
    assert [row for _, row in spike_lists.of_batches(source.batches())] == [2, 0, 1, 2]


def test_spikeinterface_reads_a_phy_folder_alike(tmp_path: Path) -> None:
    """What SpikeInterface's own reader makes of the folder gives the same spikes."""
    from spikeinterface.extractors import read_phy

    folder = write_kilosort(tmp_path / "ks", TRAINS, groups={3: "good", 7: "mua", 12: "good"})
    ours = SortingSource(folder)
    theirs = SortingSource(read_phy(folder))
    assert spike_lists.of_batches(ours.batches()) == spike_lists.of_batches(theirs.batches())
    assert [u.quality for u in theirs.population.units] == ["good", "mua", "good"]
    assert [u.quality for u in ours.population.units] == ["good", "mua", "good"]


@pytest.mark.filterwarnings("ignore:The extractor is not serializable")
def test_a_spikeinterface_folder_is_read(tmp_path: Path) -> None:
    """What SpikeInterface saved is loaded, with its properties."""
    sorting = in_memory(TRAINS)
    sorting.set_property("brain_area", ["VISp", "VISl", "CA1"])
    sorting.save(folder=tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    assert [unit.area for unit in source.population.units] == ["VISp", "VISl", "CA1"]
    assert source.n_spikes == 6


def test_a_unit_without_spikes_stays_in_the_population() -> None:
    """Rows do not shift because a unit is silent."""
    source = SortingSource(in_memory({1: [], 2: [10], 3: [20]}))
    assert len(source.population) == 3
    assert [row for _, row in spike_lists.of_batches(source.batches())] == [1, 2]


def test_a_persons_label_goes_before_the_sorters(tmp_path: Path) -> None:
    """cluster_KSLabel.tsv is used only for clusters without a label in cluster_group.tsv."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, groups={3: "noise"})
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n3\tgood\n7\tmua\n")
    source = SortingSource(folder)
    assert [unit.quality for unit in source.population.units] == ["noise", "mua", ""]


def test_null_properties_are_no_label() -> None:
    """None and NaN are no label; a manual quality precedes the sorter's, unit by unit."""
    sorting = in_memory(TRAINS)
    sorting.set_property("brain_area", np.array(["unknown", None, "unknown"], dtype=object))
    sorting.set_property("area", np.array(["VISp", np.nan, "CA1"], dtype=object))
    sorting.set_property("location", np.zeros((3, 2)))
    sorting.set_property("group", np.array([0.0, 1.0, np.nan]))
    sorting.set_property("quality", np.array(["unsorted", None, "mua "], dtype=object))
    sorting.set_property("KSLabel", np.array(["good", "mua", "good"]))
    source = SortingSource(sorting)
    assert source.population.units == (
        Unit("3", "0", "VISp", "", "good"),
        Unit("7", "1", "", "", "mua"),
        Unit("12", "", "CA1", "", "mua"),
    )
    assert (source.areas_from, source.probes_from) == ("area", "group")


def test_every_label_can_be_sent(tmp_path: Path) -> None:
    """A name that is not UTF-8, or too long for a message, does not stop the stream."""
    sorting = in_memory(TRAINS)
    sorting.set_property("brain_area", np.array(["a\0b", "\udcff", "z" * 3000], dtype=object))
    source = SortingSource(sorting)
    assert [unit.area for unit in source.population.units] == ["a\0b", "?", "z" * 1024]
    folder = write_kilosort(tmp_path / "\udcff\x1b[2J", TRAINS)
    assert SortingSource(folder).label == r"sorting:\udcff\u001b[2J"


def test_a_source_names_the_origin_of_its_rate(tmp_path: Path) -> None:
    """Its notes count the labels that could not be read."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, sample_rate=20_000.0)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n3\tgood\nseven\tmua\n")
    source = SortingSource(folder)
    assert source.sampling_rate == "20,000 Hz (params.py, line 3)"
    assert source.notes == (
        "1 of the rows of cluster labels cannot be read and are left out: cluster_group.tsv line 3",
    )
    (folder / "params.py").unlink()
    assert SortingSource(folder).sampling_rate == "30,000 Hz (assumed: there is no params.py)"


def test_the_unit_filter_applies(tmp_path: Path) -> None:
    """Filters that need no more than ids and quality work on a sorting."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, groups={3: "good", 7: "good", 12: "mua"})
    source = SortingSource(folder, units="good", only=[("", "7"), ("", "3")])
    assert source.population.units == (Unit("7", quality="good"), Unit("3", quality="good"))
    assert [row for _, row in spike_lists.of_batches(source.batches())] == [1, 0, 0, 1, 1]


def test_samples_that_no_sorter_writes_are_refused(tmp_path: Path) -> None:
    """Negative samples and a broken order are named together, with their positions."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    np.save(folder / "spike_times.npy", np.array([-2, -1, 9, 3, 7, 6]))
    with pytest.raises(RecordingError) as caught:
        SortingSource(folder)
    negative, falling = caught.value.problems
    assert negative.endswith("2 are negative, in positions 0, 1")
    assert "must not decrease; it does 2 times, at positions 3, 5." in falling


def test_spikes_of_one_sample_are_in_order(tmp_path: Path) -> None:
    """Units may fire together: the samples need not rise."""
    folder = write_kilosort(tmp_path / "ks", {1: [0, 5], 2: [0, 5]})
    assert SortingSource(folder).n_spikes == 4


def test_a_folder_without_a_rate_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without params.py and without a word from the user, 30 kHz is assumed and said."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, sample_rate=None)
    source = SortingSource(folder)
    assert source.span_ns == (0, 1_500_000_001)
    assert fields_of(caplog.records[0]) == {
        "folder": str(folder), "assumed_hz": 30_000, "reason": "no_params_py",
    }  # fmt: skip


def test_a_params_file_without_a_rate_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that states no rate is as good as none, and the log tells the two apart."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, sample_rate=None)
    (folder / "params.py").write_text("n_channels_dat = 4\n")
    assert SortingSource(folder).sampling_rate == "30,000 Hz (assumed: params.py states none)"
    assert fields_of(caplog.records[0])["reason"] == "no_rate_in_params_py"


def test_the_users_rate_counts_where_the_folder_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The argument is taken and nothing is logged."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, sample_rate=None)
    assert SortingSource(folder, sampling_rate_hz=15_000.0).span_ns == (0, 3_000_000_001)
    assert not caplog.text


def test_two_rates_are_refused(tmp_path: Path) -> None:
    """params.py and the argument must agree."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    with pytest.raises(RecordingError, match=r"says 30000\.0 samples .* says 25000"):
        SortingSource(folder, sampling_rate_hz=25_000.0)


@given(
    st.lists(st.integers(-(10**6), 4 * 10**9)),
    st.one_of(
        st.sampled_from([30_000.0, 25_000.0, 24_414.0625, 20_000.0, 32_000.0, 1.0]),
        st.floats(29_990, 30_010),
    ),
)
def test_a_sample_becomes_the_nearest_nanosecond(samples: list[int], rate_hz: float) -> None:
    """Round rates and calibrated ones are exact at any length of recording."""
    times = samples_to_ns(np.array(samples, dtype=np.int64), rate_hz).tolist()
    for sample, time_ns in zip(samples, times, strict=True):
        error_ns = abs(time_ns - Fraction(sample * 10**9) / Fraction(rate_hz))
        assert error_ns <= Fraction(1, 2) + Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("spike_times.npy", np.array([1, 2]), "one entry for each spike, got 2 and 6"),
        ("spike_times.npy", np.array([0.5] * 6), "sample numbers, got fractions"),
        ("spike_times.npy", np.array([np.nan] * 6), "sample numbers, got fractions"),
        ("spike_times.npy", np.zeros((3, 2)), r"one column .* got shape \(3, 2\) of float64"),
        ("spike_times.npy", np.array([1 << 61] * 6), "sample numbers must be below"),
        ("spike_clusters.npy", np.array(["a"] * 6), "spike_clusters.npy must be one column"),
        ("spike_clusters.npy", np.array([], int), "got 6 and 0"),
    ],
)
def test_a_broken_kilosort_folder_is_refused(
    tmp_path: Path, name: str, values: np.ndarray[Any, Any], text: str
) -> None:
    """Each fault of the arrays is named."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    np.save(folder / name, values)
    with pytest.raises(RecordingError, match=text):
        SortingSource(folder)


def test_a_cut_array_is_refused(tmp_path: Path) -> None:
    """An array file that was cut is named."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    path = folder / "spike_times.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RecordingError, match=r"spike_times\.npy cannot be read"):
        SortingSource(folder)


def test_a_folder_without_clusters_is_refused(tmp_path: Path) -> None:
    """Spike times alone do not say whose they are."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    (folder / "spike_clusters.npy").unlink()
    with pytest.raises(RecordingError, match=r"spike_clusters\.npy or spike_templates.npy"):
        SortingSource(folder)


@pytest.mark.parametrize("name", ["params.py", "spike_clusters.npy"])
def test_a_link_to_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    """Neither another file nor a default replaces the target of a dangling link."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    (folder / "spike_templates.npy").write_bytes((folder / "spike_clusters.npy").read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "gone")
    with pytest.raises(RecordingError, match=rf"{name} cannot be .*No such file"):
        SortingSource(folder)


def test_a_label_table_that_is_gone_is_noted(tmp_path: Path) -> None:
    """The spikes are sent, and the note names the table."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    (folder / "cluster_group.tsv").symlink_to(tmp_path / "gone")
    (note,) = SortingSource(folder).notes
    assert "cluster_group.tsv (No such file or directory)" in note


def test_a_rate_that_is_none_is_refused(tmp_path: Path) -> None:
    """A sampling rate of zero makes no times."""
    folder = write_kilosort(tmp_path / "ks", TRAINS, sample_rate=0.0)
    with pytest.raises(RecordingError, match=r"from 1 to 1e6 samples per second, got 0\.0"):
        SortingSource(folder)


def test_a_sorting_of_several_segments_is_refused() -> None:
    """A stream has one clock."""
    from spikeinterface import NumpySorting

    sorting = NumpySorting.from_unit_dict([{1: np.array([1])}, {1: np.array([2])}], 30_000.0)
    with pytest.raises(RecordingError, match=r"2 segments .* select_segments"):
        SortingSource(sorting)


def test_something_else_is_refused() -> None:
    """What is no sorting is named by its type."""
    with pytest.raises(RecordingError, match="a sorting is wanted, got dict"):
        SortingSource({})


# open_source


def test_a_file_opens_as_nwb(tmp_path: Path) -> None:
    """A path to a file is an NWB recording, by the stream's name too."""
    path = write_units(tmp_path / "a.nwb", [np.array([1.0])])
    source = open_source(str(path))
    assert (source.stream, source.label) == ("nwb", "nwb:test")


def test_a_folder_opens_as_a_sorting(tmp_path: Path) -> None:
    """A path to a folder is a sorting."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    source = open_source(str(folder), stream="probeA", batch_ms=5.0)
    assert (source.stream, source.label) == ("probeA", "sorting:ks")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """The message says what kinds of folder are read, and nothing of how."""
    with pytest.raises(RecordingError) as caught:
        open_source(str(tmp_path))
    assert caught.value.problems == (
        "it is no Kilosort or phy folder (no spike_times.npy) and not one that SpikeInterface "
        "has saved",
    )


def test_a_damaged_spikeinterface_folder_is_refused(tmp_path: Path) -> None:
    """Where SpikeInterface has saved something, its own reason is passed on."""
    (tmp_path / "spikeinterface_info.json").write_text("{")
    with pytest.raises(RecordingError, match="cannot load it: Expecting property name"):
        open_source(str(tmp_path))


def test_a_sorting_in_zarr_is_a_sorting(tmp_path: Path) -> None:
    """SpikeInterface keeps sortings in Zarr too; only NWB in Zarr is read as NWB."""
    sorting = in_memory(TRAINS)
    sorting.set_property("brain_area", ["VISp", "VISl", "CA1"])
    sorting.save(folder=tmp_path / "sorting.zarr", format="zarr")
    assert kind_of(str(tmp_path / "sorting.zarr")) == "sorting"
    source = open_source(str(tmp_path / "sorting.zarr"))
    assert [unit.area for unit in source.population.units] == ["VISp", "VISl", "CA1"]
    in_memory_spikes = spike_lists.of_batches(SortingSource(sorting).batches())
    assert spike_lists.of_batches(source.batches()) == in_memory_spikes


def test_an_address_of_another_kind_is_refused() -> None:
    """S3 addresses are answered with the https form."""
    with pytest.raises(RecordingError, match="must begin with http"):
        open_source("s3://bucket/file.nwb")


def test_a_real_kilosort_folder_is_sent_to_the_last_spike(real_recordings: Path) -> None:
    """All 94,565 spikes of a Neuropixels recording without params.py."""
    folder = real_recordings / "kilosort"
    source = SortingSource(folder, sampling_rate_hz=30_000.0)
    samples = np.load(folder / "spike_times.npy").ravel().astype(np.int64)
    clusters = np.load(folder / "spike_clusters.npy").ravel()
    expected = sorted(
        zip(((samples * 10**9 + 15_000) // 30_000).tolist(), clusters.tolist(), strict=True)
    )
    assert len(expected) == source.n_spikes == 94_565
    assert spike_lists.of_batches(source.batches()) == expected


@pytest.mark.parametrize("n_units", [3, 1 << 17])
def test_spikes_are_ordered_unit_by_unit(n_units: int) -> None:
    """Few units are counted and many sorted, with the same result; spikes at one time stay put."""
    rng = np.random.default_rng(0)
    row, time_ns = rng.integers(0, 3, 500), np.sort(rng.integers(0, 99, 500))
    for times in (time_ns, time_ns[::-1].copy()):
        expected = sorted(range(500), key=lambda at: (row[at], times[at]))
        assert _unit_by_unit(row, times, n_units).tolist() == expected


def test_places_of_clusters_are_those_that_phy_wrote(tmp_path: Path) -> None:
    """Channel and depth by cluster; cells that are no number are unknown."""
    folder = write_kilosort(tmp_path / "ks", TRAINS)
    assert {unit.depth_um for unit in SortingSource(folder).population.units} == {None}
    table = "cluster_id\tch\tdepth\tgroup\n3\t17\t340.0\tgood\n7\t-1\tdeep\tgood\nx\t1\t2\tmua\n"
    (folder / "cluster_info.tsv").write_text(table)
    source = SortingSource(folder)
    places = [(unit.channel, unit.depth_um) for unit in source.population.units]
    assert places == [(17, 340.0), (None, None), (None, None)]
    assert source.table == (
        "Kilosort or phy folder; channel: cluster_info.tsv, column ch; "
        "depth_um: cluster_info.tsv, column depth"
    )
    (folder / "cluster_info.tsv").write_bytes(b"\xff\0\n\t\r\n")
    assert SortingSource(folder).table == "Kilosort or phy folder"


def test_places_of_a_sorting_are_its_properties() -> None:
    """Numbers that cannot be sent are unknown, and a property of texts is none."""
    sorting = in_memory(TRAINS)
    sorting.set_property("ch", np.array(["a", "b", "c"]))
    sorting.set_property("channel", np.array([0, 2**31, 5]))
    sorting.set_property("depth", np.array([np.nan, 1e300, -20.0]))
    source = SortingSource(sorting)
    places = [(unit.channel, unit.depth_um) for unit in source.population.units]
    assert places == [(0, None), (None, None), (5, -20.0)]
    assert source.table == "SpikeInterface sorting; channel: channel; depth_um: depth"


def test_samples_come_back_from_their_times():
    """At any rate, for hours."""
    samples = np.array([0, 1, 29_999, 30_000, 90_000_001, 10**10], dtype=np.int64)
    for rate_hz in (30_000.0, 29_999.954, 20_000.0):
        assert ns_to_samples(samples_to_ns(samples, rate_hz), rate_hz).tolist() == samples.tolist()
