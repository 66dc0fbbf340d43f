"""What a .meta says of the numbers, beside SpikeInterface's own reader; and what is refused."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from spikeinterface.extractors import read_spikeglx

from contracts.errors import RecordingError, UserError
from stream_sources.rigs.recording_files import open_recording
from stream_sources.rigs.spikeglx.finished import open_finished
from stream_sources.rigs.spikeglx.meta_file import meta_path, read_meta, stream_of
from tests.support.spikeglx_files import change_meta, make_recording, write_spikeglx

PARTS = ("NP1010", "NP2000", "NP2013")


@pytest.fixture(scope="module", params=PARTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recording = make_recording(part_number=request.param, seconds=0.01, first=380)
    return write_spikeglx(tmp_path_factory.mktemp("meta"), recording, part_number=request.param)[0]


@pytest.fixture
def bin_path(tmp_path: Path, _one: Path) -> Path:
    """Return a copy of a recording that a test may spoil."""
    folder = tmp_path / "run"
    shutil.copytree(_one.parent, folder)
    return folder / _one.name


@pytest.fixture(scope="module")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recording = make_recording(seconds=0.01, n_channels=384)
    return write_spikeglx(tmp_path_factory.mktemp("one"), recording)[0]


def test_gains_positions_and_names_are_those_of_spikeinterface(written: Path):
    """For each generation of probe, with channels of two banks and not all of them saved."""
    meta = read_meta(meta_path(written))
    recording = read_spikeglx(written.parent, stream_id="imec0.ap")
    np.testing.assert_allclose(meta.uv_per_bit, recording.get_channel_gains(), rtol=1e-6)
    np.testing.assert_array_equal(meta.layout.positions_um, recording.get_channel_locations())
    assert meta.layout.channel_ids == tuple(recording.channel_ids)
    assert meta.rate_hz == recording.sampling_frequency
    assert (meta.n_columns, meta.sync_column) == (9, 8)
    assert meta.n_bytes == written.stat().st_size


def test_a_run_may_have_dots_in_its_name(bin_path: Path):
    """Channels have the names that SpikeInterface gives them, live and finished."""
    dotted = bin_path.with_name("2024.05.01_m1_g0_t0.imec0.ap.bin")
    bin_path.with_suffix(".meta").rename(dotted.with_suffix(".meta"))
    bin_path.rename(dotted)
    assert stream_of(dotted) == stream_of(dotted.with_suffix(".meta")) == "imec0.ap"
    live = read_meta(meta_path(dotted)).layout.channel_ids
    assert live[:2] == ("imec0.ap#AP0", "imec0.ap#AP1")
    assert tuple(open_recording(dotted).channel_ids) == live
    with pytest.raises(RecordingError, match="is not that of a probe's action potentials"):
        stream_of(Path("run_g0_t0.imec0.lf.bin"))


def test_each_channel_of_a_neuropixels_1_has_its_own_gain(bin_path: Path):
    """The gains are those of the saved channels, not of the first in the table."""
    text = bin_path.with_suffix(".meta").read_text()
    table = "(0,384)" + "".join(f"({c} 0 0 {[250, 1000][c % 2]} 250 1)" for c in range(384))
    change_meta(bin_path, imroTbl=table)
    assert "imroTbl" in text
    both = read_meta(meta_path(bin_path)).uv_per_bit
    np.testing.assert_allclose(both[:2], [0.6 / 512 / 250 * 1e6, 0.6 / 512 / 1000 * 1e6])
    recording = read_spikeglx(bin_path.parent, stream_id="imec0.ap")
    np.testing.assert_allclose(both, recording.get_channel_gains(), rtol=1e-6)
    change_meta(bin_path, snsSaveChanSubset="1,3,5,768", snsApLfSy="3,0,1", nSavedChans="4")
    odd = read_meta(meta_path(bin_path))
    np.testing.assert_allclose(odd.uv_per_bit, 0.6 / 512 / 1000 * 1e6)
    assert odd.layout.channel_ids == ("imec0.ap#AP1", "imec0.ap#AP3", "imec0.ap#AP5")


def test_a_finished_recording_has_the_gains_of_its_channels(tmp_path: Path):
    """Where some channels were saved, neo alone takes the gains of the first in the table."""
    path, _ = write_spikeglx(tmp_path, make_recording(seconds=0.01, first=380))
    change_meta(path, imroTbl=_table_of_gains(path, lambda row: 250 if row < 100 else 1000))
    meta = read_meta(meta_path(path))
    finished = open_finished(path.parent, "imec0.ap")
    gains = [250] * 4 + [1000] * 4  # four channels are among the first hundred
    np.testing.assert_allclose(meta.uv_per_bit, 0.6 / 512 / np.array(gains) * 1e6)
    np.testing.assert_allclose(finished.get_channel_gains(), meta.uv_per_bit)
    traces = finished.get_traces(return_in_uV=False)
    np.testing.assert_allclose(finished.get_traces(return_in_uV=True), traces * meta.uv_per_bit)


def test_a_finished_recording_that_was_cut_is_refused(tmp_path: Path):
    """With both sizes, as where it is followed; and a folder without a .meta is none."""
    path, _ = write_spikeglx(tmp_path, make_recording(seconds=0.01))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(RecordingError, match=r"bytes in samples of .* it was cut"):
        open_finished(path.parent, "imec0.ap")
    path.with_suffix(".meta").unlink()
    with pytest.raises(RecordingError, match=r"no \.meta of imec0\.ap"):
        open_finished(path.parent, "imec0.ap")


def _table_of_gains(path: Path, gain_of: Callable[[int], int]) -> str:
    """Return the file's `imroTbl` with other gains of action potentials."""
    text = path.with_suffix(".meta").read_text().partition("~imroTbl=(")[2].splitlines()[0]
    header, *rows = text.rstrip(")").split(")(")
    cells = [row.split() for row in rows]
    changed = [" ".join([*cell[:3], str(gain_of(i)), *cell[4:]]) for i, cell in enumerate(cells)]
    return "".join(f"({row})" for row in (header, *changed))


def test_a_recording_without_its_sync_channel_has_no_sync_column(bin_path: Path):
    """All columns are voltages then."""
    change_meta(bin_path, snsSaveChanSubset="0:383", snsApLfSy="384,0,0", nSavedChans="384")
    assert read_meta(meta_path(bin_path)).sync_column is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"typeThis": "nidq"}, "it describes a file of nidq, not of a probe"),
        ({"snsApLfSy": "0,384,1"}, "no channel of action potentials was saved"),
        ({"nSavedChans": "277"}, "snsApLfSy=384,0,1 does not make nSavedChans=277"),
        ({"snsSaveChanSubset": "0:99,768"}, "make 100 channels, snsApLfSy 384"),
        ({"fileName": "D:/data/run_g0_t0.imec3.ap.bin"}, "it was written for D:/data/run_g0"),
        ({"imDatPrb_pn": "NP9999"}, "imDatPrb_pn=NP9999, imroTbl. is none that probeinterface"),
        ({"imroTbl": "(9999,384)(0 0 0 500 250 1)"}, "is none that probeinterface knows"),
        ({"imroTbl": None}, "Could not find imroTbl"),
        ({"imSampRate": "30"}, "imSampRate=30 is not from 1,000"),
        ({"imAiRangeMax": "0"}, "must be positive"),
        ({"imAiRangeMax": None}, "'imAiRangeMax' is missing; is the file whole"),
        ({"nSavedChans": "many"}, "it is no .meta of SpikeGLX"),
        ({"snsApLfSy": None}, "'snsApLfSy' is missing; is the file whole"),
    ],
)  # fmt: skip
def test_a_meta_that_does_not_fit_is_refused(
    bin_path: Path, fields: dict[str, str | None], text: str
):
    """The field, and what it would have to be."""
    change_meta(bin_path, **fields)
    with pytest.raises(UserError, match=text):
        read_meta(meta_path(bin_path))


def test_a_meta_of_another_program_is_refused(bin_path: Path):
    """Bytes that are no text."""
    bin_path.with_suffix(".meta").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"it is no \.meta of SpikeGLX"):
        read_meta(meta_path(bin_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run_g0_t0.imec0.lf.bin", r"Name its \.ap\.bin file"),
        ("run_g0_t0.nidq.bin", r"Name its \.ap\.bin file"),
        ("run_g0_t0.imec0.ap.meta", r"Name its \.ap\.bin file"),
        ("run_g0_t0.imec0.ap.bin", "there is no such file"),
        ("", r"is a folder. Name one file of a probe in it: emulated_g0_t0\.imec0\.ap\.bin"),
    ],
)
def test_another_file_is_refused(bin_path: Path, name: str, text: str):
    """With the name of the file that is needed."""
    with pytest.raises(UserError, match=text):
        meta_path(bin_path.parent / name)


def test_a_missing_meta_is_said(bin_path: Path):
    """Its path, and that both files are needed."""
    bin_path.with_suffix(".meta").unlink()
    with pytest.raises(UserError, match=r"\.ap\.meta: there is no such file.*both are needed"):
        meta_path(bin_path)


def test_reading_warns_of_nothing(bin_path: Path):
    """Neither do libraries, on a file that is complete."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_meta(meta_path(bin_path))
        read_spikeglx(bin_path.parent, stream_id="imec0.ap")
