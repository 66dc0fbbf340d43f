"""The folder of a calibration: begun, resumed, refused."""

from __future__ import annotations

import json

import pytest

from contracts.errors import UserError
from encoder_training.calibration.folder import (
    STAGES,
    Option,
    begin_calibration,
    begun_calibration,
)
from stream_sources.online_sorter.calibrated_options import FACTS

OPTIONS: dict[str, Option] = {"--minutes": 10.0, "--sorter": "lupin"}


def test_finished_stages_are_known_to_the_next_command(tmp_path):
    """Each with what it found, until all are."""
    path = tmp_path / "out"
    assert begun_calibration(path, OPTIONS) is None
    folder = begin_calibration(path, OPTIONS, command="neurrate calibrate")
    folder.finish("sort", n_units=3)
    again = begun_calibration(path, OPTIONS)
    assert again is not None
    assert again.results == {"sort": {"n_units": 3}}
    assert again.is_finished("sort")
    assert not again.is_complete
    for stage in STAGES[1:]:
        again.finish(stage)
    last = begun_calibration(path, OPTIONS)
    assert last is not None
    assert last.is_complete


def test_other_options_are_refused_with_what_differs(tmp_path):
    """So that a folder never holds steps of two calibrations."""
    begin_calibration(tmp_path / "out", OPTIONS, command="").finish("sort")
    with pytest.raises(UserError, match=r"--minutes was 10.0 and is 5.0.*--sorting .*out/offline"):
        begun_calibration(tmp_path / "out", {**OPTIONS, "--minutes": 5.0})


def test_a_folder_of_something_else_is_refused(tmp_path):
    """It is not written into."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="a folder of its own"):
        begun_calibration(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "it is no JSON"), ('{"format_version": 9}', "reads version 1")]
)
def test_a_document_that_cannot_be_read_is_refused(tmp_path, text, sentence):
    """Damaged, or of a later version."""
    (tmp_path / FACTS).write_text(text)
    with pytest.raises(UserError, match=sentence):
        begun_calibration(tmp_path, OPTIONS)


def test_the_document_is_json_for_people(tmp_path):
    """It states options and command."""
    begin_calibration(tmp_path / "out", OPTIONS, command="neurrate calibrate a b")
    document = json.loads((tmp_path / "out" / FACTS).read_text())
    assert document["options"] == OPTIONS
    assert document["command"] == "neurrate calibrate a b"
