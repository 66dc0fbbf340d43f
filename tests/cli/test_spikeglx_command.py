"""``emulate spikeglx``: a recording that grows, and bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from spikeinterface.extractors import read_spikeglx

from neurrate.cli import main
from tests.support.spikeglx_files import make_recording

EMULATE = ("emulate", "spikeglx")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "recording"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was never in a file, so nothing says where from it is
        make_recording(seconds=0.2).save(folder=folder, verbose=False)
    return folder


def test_a_saved_recording_is_written(saved: Path, tmp_path: Path):
    """And what was written can be played again."""
    report = tmp_path / "report.json"
    assert main([*EMULATE, str(saved), str(tmp_path / "a"), "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert (written["n_samples"], written["n_files"]) == (6000, 1)
    path = Path(written["file"])
    words = [*EMULATE, str(path), str(tmp_path / "b"), "--speed", "10", "--sync", "irregular"]
    assert main(words) == 0
    again = read_spikeglx(tmp_path / "b", stream_id="imec0.ap")
    first = read_spikeglx(tmp_path / "a", stream_id="imec0.ap")
    assert (again.get_traces() == first.get_traces()).all()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["RECORDING", "OUT", "--fault", "gap@3"], "--fault must be pause@SECOND"),
        (["RECORDING", "OUT", "--probe", "NP1"], "--probe must be one of NP1010"),
        (["OUT", "OUT"], "there is no such file or folder"),
        (["HERE", "OUT"], "it holds no recording that is read here"),
    ],
)
def test_bad_input_of_the_emulator(
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
):
    """One sentence and exit code 2."""
    places = {"RECORDING": str(saved), "OUT": str(tmp_path / "out"), "HERE": str(tmp_path)}
    assert main([*EMULATE, *(places.get(word, word) for word in words)]) == 2
    assert text in " ".join(capsys.readouterr().err.split())
