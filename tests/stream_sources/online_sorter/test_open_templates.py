"""Templates by folder: a calibration, an analyzer, and what cannot be right."""

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.population import Unit
from stream_sources.online_sorter.open_templates import open_templates
from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.template_files import write_templates
from stream_sources.online_sorter.templates import Preprocessing
from tests.support.ground_truth import SECONDS, ground_truth, quiet_spikeinterface, save
from tests.support.nwb_files import write_kilosort
from tests.support.pickles import run_on_load
from tests.support.sorter_templates import small_templates


def test_templates_are_of_the_causal_filter():
    """The trough of each is on its peak channel at n_before, where the methods look for it."""
    templates = ground_truth().templates
    assert len(templates.population) == 8
    for row, unit in enumerate(templates.population.units):
        waveform = templates.waveforms_uv[row]
        assert np.unravel_index(waveform.argmin(), waveform.shape) == (
            templates.n_before,
            unit.channel,
        )
        assert unit.y_um == templates.layout.positions_um[unit.channel][1] == unit.depth_um
    counts = ground_truth().sorting.count_num_spikes_per_unit(outputs="array")
    np.testing.assert_allclose(templates.rates_hz, counts / SECONDS)
    assert 3 < np.median(templates.noise_uv) < 12


def test_a_calibration_is_read(tmp_path):
    """Its folder has templates.json."""
    write_templates(tmp_path, small_templates())
    assert open_templates(tmp_path).origin == "a test"


@pytest.fixture
def analyzer_folder(tmp_path):
    """Return a function that saves an analyzer of a recording, itself saved as 16-bit numbers."""
    from spikeinterface.core import create_sorting_analyzer
    from spikeinterface.preprocessing import bandpass_filter

    def make(*, is_filtered=False, change=None):
        raw = ground_truth().recording.frame_slice(0, 90_000)
        raw.annotate(is_filtered=is_filtered)
        saved = save(raw, tmp_path / "recording")
        filtered = bandpass_filter(saved)
        if change is not None:
            filtered = change(filtered)
        sorting = ground_truth().sorting.frame_slice(0, filtered.get_num_samples())
        sorting._sampling_frequency = filtered.get_sampling_frequency()
        with quiet_spikeinterface():
            create_sorting_analyzer(
                sorting,
                filtered,
                format="binary_folder",
                folder=tmp_path / "analyzer",
                sparse=False,
            )
        return tmp_path / "analyzer"

    return make


def test_an_analyzer_is_estimated_anew_from_its_raw_recording(analyzer_folder):
    """The lazy filter of the analyzer is left out: its templates are of other waveforms."""
    templates = open_templates(analyzer_folder())
    direct = estimate_templates(
        ground_truth().recording.frame_slice(0, 90_000),
        ground_truth().sorting.frame_slice(0, 90_000),
        origin="",
    )
    np.testing.assert_allclose(templates.waveforms_uv, direct.waveforms_uv, atol=0.01)
    assert templates.origin == "SortingAnalyzer analyzer"
    assert [u.unit_id for u in templates.population.units] == [
        str(unit) for unit in ground_truth().sorting.unit_ids
    ]


def test_an_analyzer_of_a_filtered_recording_is_refused(analyzer_folder):
    """What was filtered before it was saved cannot be filtered causally."""
    with pytest.raises(UserError, match="saved after a filter"):
        open_templates(analyzer_folder(is_filtered=True))


@pytest.mark.parametrize("start", [0, 30_000])
def test_an_analyzer_of_a_part_of_its_recording_is_refused(analyzer_folder, start):
    """Its spikes count from the beginning of the part, and would be looked for too early."""
    folder = analyzer_folder(change=lambda one: one.frame_slice(start, start + 60_000))
    with pytest.raises(UserError, match=r"60,000 samples at 30000 Hz, .* 90,000 at 30000 Hz"):
        open_templates(folder)


def test_an_analyzer_of_another_rate_is_refused(analyzer_folder):
    """Its sample numbers are those after resampling."""
    from spikeinterface.preprocessing import resample

    folder = analyzer_folder(change=lambda one: resample(one, 15_000))
    with pytest.raises(UserError, match=r"45,000 samples at 15000 Hz, .* 90,000 at 30000 Hz"):
        open_templates(folder)


def test_an_analyzer_with_a_pickle_is_refused(analyzer_folder, tmp_path):
    """SpikeInterface would load it to find the recording; what is of its extensions is not."""
    folder = analyzer_folder()
    (folder / "extensions").mkdir(exist_ok=True)
    (folder / "extensions" / "model.pkl").write_bytes(run_on_load(tmp_path / "ran"))
    open_templates(folder)
    (folder / "recording.json").unlink()
    (folder / "recording.pickle").write_bytes(run_on_load(tmp_path / "ran"))
    with pytest.raises(UserError, match=r"recording\.pickle: a pickle may run any program"):
        open_templates(folder)
    assert not (tmp_path / "ran").exists()


def test_an_analyzer_without_its_recording_is_refused(analyzer_folder, tmp_path):
    """A recording that was moved away is asked for."""
    folder = analyzer_folder()
    (tmp_path / "recording").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"does not find its recording.*neurrate calibrate"):
        open_templates(folder)


def test_a_kilosort_folder_is_refused_with_what_to_do(tmp_path):
    """Whitened templates without microvolts are never used."""
    folder = write_kilosort(tmp_path / "ks", {3: [5, 90_000]})
    with pytest.raises(UserError, match=r"neurrate calibrate RECORDING --sorting .*ks"):
        open_templates(folder)


def test_other_folders_are_refused(tmp_path):
    """A folder that is not there, and one with something else."""
    with pytest.raises(UserError, match="no such folder"):
        open_templates(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("templates", encoding="utf-8")
    with pytest.raises(UserError, match="no calibration"):
        open_templates(tmp_path)
    save(ground_truth().sorting, tmp_path / "sorting")
    with pytest.raises(UserError, match="templates are wanted, got a"):
        open_templates(tmp_path / "sorting")


def test_units_keep_their_labels_and_slow_ones_are_left_out(caplog):
    """A unit with too few spikes has no template, and is named in the log."""
    recording, sorting, _ = ground_truth()
    short = sorting.frame_slice(0, 30_000)
    units = [Unit(f"u{row}", probe="probeA", area="CA1") for row in range(8)]
    counts = short.count_num_spikes_per_unit(outputs="array")
    assert 0 < (counts < 20).sum() < 8
    templates = estimate_templates(recording, short, origin="test", units=units)
    kept = [unit.unit_id for unit in templates.population.units]
    assert kept == [f"u{row}" for row in np.flatnonzero(counts >= 20)]
    assert {unit.area for unit in templates.population.units} == {"CA1"}
    assert "units without a template" in caplog.text


def test_recordings_that_lack_something_are_refused():
    """No unit, no gains, no probe, several segments, too short, a band that cannot be."""
    from spikeinterface.core import NumpyRecording, append_recordings

    recording, sorting, _ = ground_truth()
    with pytest.raises(UserError, match="no unit has 20 spikes or more, of 0 units"):
        estimate_templates(recording, sorting.select_units([]), origin="test")
    bare = NumpyRecording([np.zeros((90_000, 16), dtype=np.int16)], 30_000.0)
    with pytest.raises(UserError, match=r"(?s)no gain to microvolts.*where its channels are"):
        estimate_templates(bare, sorting, origin="test")
    with pytest.raises(UserError, match="2 segments"):
        estimate_templates(append_recordings([recording, recording]), sorting, origin="test")
    with pytest.raises(UserError, match="must have 2 s"):
        estimate_templates(recording.frame_slice(0, 3_000), sorting, origin="test")
    with pytest.raises(UserError, match="half of the sampling rate"):
        estimate_templates(
            recording, sorting, origin="test", preprocessing=Preprocessing(high_hz=15_000.0)
        )
