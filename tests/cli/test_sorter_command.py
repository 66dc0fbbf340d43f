"""``stream sorter``: a saved recording to spikes on the wire, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurrate.cli import main
from stream_sources.online_sorter.template_files import write_templates
from tests.support.ground_truth import ground_truth, save
from tests.support.sorter_templates import small_templates

STREAM = ("stream", "sorter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a saved recording, its templates, and those of another probe."""
    folder = tmp_path_factory.mktemp("sorter")
    save(ground_truth().recording.frame_slice(0, 75_000), folder / "recording")
    for name, templates in (("right", ground_truth().templates), ("other", small_templates())):
        (folder / name).mkdir()
        write_templates(folder / name, templates)
    return folder


def test_a_recording_is_sorted_to_its_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The report has what was sent, how fast, and each unit."""
    report = tmp_path / "report.json"
    words = [
        *STREAM, str(folder / "recording"), "--templates", str(folder / "right"),
        "--method", "nearest", "--speed", "max", "--bind", "tcp://127.0.0.1:0",
        "--metrics-port", "0", "--seconds", "2", "--json", str(report),
    ]  # fmt: skip
    assert main(words) == 0
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["n_blocks"] == document["n_batches"] == 20
    assert document["n_spikes"] > 100
    assert document["n_gaps"] == 0
    assert document["real_time_factor"] > 0
    assert [unit["unit_id"] for unit in document["units"]] == [
        unit.unit_id for unit in ground_truth().templates.population.units
    ]
    assert sum(unit["n_spikes"] for unit in document["units"]) == document["n_spikes"]
    assert "8 units, lost ones first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("voltages", "templates", "words", "text"),
    [
        ("recording", "other", (), "6 channels and it has 16"),
        ("recording", "nothing", (), "no such folder"),
        ("nothing", "right", (), "no such file or folder"),
        ("recording", "right", ("--method", "kilosort"), "--method must be one of nearest"),
        ("recording", "right", ("--when-behind", "drop", "--speed", "max"), "needs a pace"),
        ("recording", "right", ("--when-behind", "later"), "--when-behind must be one of"),
        ("recording", "right", ("--speed", "fast"), "--speed must be"),
        ("recording", "right", ("--block-ms", "1"), "--block-ms must be from 10 to 500"),
    ],
)
def test_bad_input_is_refused(
    folder: Path, voltages: str, templates: str, words: tuple[str, ...], text: str,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """One sentence with what was found, and exit code 2."""
    paths = [str(folder / voltages), "--templates", str(folder / templates)]
    assert main([*STREAM, *paths, "--bind", "tcp://127.0.0.1:0", *words]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("speed", ["max", "2"])
def test_markers_need_the_recordings_own_speed(speed, tmp_path, capsys):
    """At another speed the host's clock says nothing about the recording's."""
    words = ["stream", "sorter", str(tmp_path), "--templates", str(tmp_path)]
    assert main([*words, "--lsl-marks", "stimuli", "--speed", speed]) == 2
    assert "--lsl-marks needs --speed 1" in capsys.readouterr().err
