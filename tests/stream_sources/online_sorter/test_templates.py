"""Templates are legal once they exist, come back from a folder as they were, and fit one probe."""

import json
from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.population import Population
from stream_sources.online_sorter.template_files import (
    ARRAYS,
    DOCUMENT,
    has_templates,
    read_templates,
    write_templates,
)
from stream_sources.online_sorter.templates import Preprocessing
from stream_sources.rigs.voltages import ProbeLayout
from tests.support.sorter_templates import RATE_HZ, small_templates


def test_templates_come_back_as_they_were(tmp_path):
    """Every array, every unit and the preprocessing are the same after a file."""
    written = small_templates(preprocessing=Preprocessing(250.0, 5000.0, 2, "none"))
    write_templates(tmp_path, written)
    read = read_templates(tmp_path)
    for name in ("rates_hz", "waveforms_uv", "is_active", "noise_uv", "background_uv"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    np.testing.assert_array_equal(read.layout.positions_um, written.layout.positions_um)
    assert read.layout.channel_ids == written.layout.channel_ids
    assert read.preprocessing == written.preprocessing
    assert (read.rate_hz, read.n_before, read.origin) == (RATE_HZ, 30, "a test")
    assert read.population == written.population
    assert [unit.depth_um for unit in read.population.units] == [0.0, 40.0, 80.0]


def test_a_folder_without_its_document_is_not_finished(tmp_path):
    """The document comes last, so that arrays alone are no templates."""
    write_templates(tmp_path, small_templates())
    assert has_templates(tmp_path)
    (tmp_path / DOCUMENT).unlink()
    assert not has_templates(tmp_path)
    with pytest.raises(UserError, match="neurrate calibrate"):
        read_templates(tmp_path)


def test_damaged_arrays_are_refused(tmp_path):
    """One other bit in the arrays is found by their sha256."""
    write_templates(tmp_path, small_templates())
    content = bytearray((tmp_path / ARRAYS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / ARRAYS).write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.*sha256"):
        read_templates(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 2}, "reads version 1 .* has 2"),
        ({"format": "other"}, "the format must be"),
        ({"n_before": "30"}, "n_before missing, or of another type"),
        ({"sha256": {}}, "sha256 of templates.npz missing"),
        ({"n_before": 90}, "n_before must be within the 90 samples, got 90"),
        ({"units": []}, "a population needs 1 to"),
        ({"units": [{"number": 3}]}, "number"),
        ({"preprocessing": {"low_hz": 300.0, "high_hz": 20_000.0}}, "half of the sampling rate"),
    ],
)
def test_a_document_against_the_rules_is_refused(tmp_path, change, found):
    """The file, the rule and what was found are named."""
    write_templates(tmp_path, small_templates())
    document = json.loads((tmp_path / DOCUMENT).read_text(encoding="utf-8"))
    (tmp_path / DOCUMENT).write_text(json.dumps({**document, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{tmp_path}.*{found}"):
        read_templates(tmp_path)


def test_text_that_is_no_json_is_refused(tmp_path):
    """A document cut in half names the file."""
    write_templates(tmp_path, small_templates())
    text = (tmp_path / DOCUMENT).read_text(encoding="utf-8")
    (tmp_path / DOCUMENT).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(UserError, match="no JSON"):
        read_templates(tmp_path)


def test_all_problems_are_named_at_once():
    """Shapes that do not agree are listed, with what they must be."""
    with pytest.raises(
        UserError, match=r"noise_uv must have the shape \(6,\), got \(5,\).*n_before"
    ):
        small_templates(noise_uv=np.ones(5), n_before=0)


def test_values_that_cannot_be_are_refused():
    """Empty templates, dead channels, NaN and waveforms on inactive channels are named."""
    waveforms = small_templates().waveforms_uv.copy()
    waveforms[1] = 0
    noise = np.full(6, 8.0)
    noise[3] = 0
    with pytest.raises(UserError, match=r"noise of 1 channels is 0: AP3.*1 units .* probeA/u1"):
        small_templates(waveforms_uv=waveforms, noise_uv=noise)
    waveforms = small_templates().waveforms_uv.copy()
    waveforms[0, 0, 5] = np.nan
    with pytest.raises(UserError, match=r"not finite.*must be 0 where is_active is false"):
        small_templates(waveforms_uv=waveforms)


def test_templates_fit_their_own_probe_with_the_clock_of_a_rig():
    """A rate that is measured to be 50 ppm off is the same rate."""
    templates = small_templates()
    templates.check_fit(RATE_HZ * (1 + 5e-5), templates.layout, label="rig")


@pytest.mark.parametrize(
    ("names", "shift_um", "rate_hz", "found"),
    [
        ("AP0 AP1 AP2 AP3 AP4 AP5", 0.0, 25_000.0, "30000 samples per second and it has 25000"),
        ("AP0 AP1 AP2 AP3 AP4", 0.0, RATE_HZ, "6 channels and it has 5"),
        ("AP1 AP0 AP2 AP3 AP4 AP5", 0.0, RATE_HZ, r"2 channels .* AP0 \(AP1\), AP1 \(AP0\)"),
        ("AP0 AP1 AP2 AP3 AP4 AP5", 15.0, RATE_HZ, "6 channels are elsewhere on the probe"),
    ],
)
def test_voltages_of_another_recording_are_refused(names, shift_um, rate_hz, found):
    """Another rate, count, order or place of channels is named, and what to do."""
    templates = small_templates()
    channel_ids = tuple(names.split())
    positions = templates.layout.positions_um[: len(channel_ids)] + np.array([0, shift_um])
    with pytest.raises(UserError, match=f"rig is not .*{found}.*Calibrate"):
        templates.check_fit(rate_hz, ProbeLayout(channel_ids, positions), label="rig")


def test_units_are_unique():
    """Two templates of one unit id are refused by the population."""
    units = small_templates().population.units
    with pytest.raises(UserError, match="unique"):
        small_templates(
            population=Population([units[0], replace(units[1], unit_id="u0"), units[2]])
        )
