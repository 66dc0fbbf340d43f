"""A sorter that is not run as its templates were calibrated."""

from __future__ import annotations

import pytest

from encoder_training.calibration.folder import begin_calibration
from encoder_training.calibration.options import CalibrationOptions
from stream_sources.online_sorter.calibrated_options import FACTS, other_options


def test_options_that_differ_are_named(tmp_path):
    """As the calibration itself has written them."""
    out = tmp_path / "out"
    options = CalibrationOptions("r", out, method="nearest", block_ms=50.0)
    begin_calibration(out, options.as_text(), command="")
    assert (out / FACTS).is_file()
    assert other_options(out, method="nearest", block_ms=50.0) == []
    assert other_options(out, method="wobble", block_ms=100.0) == [
        "--method is wobble, and nearest in the calibration",
        "--block-ms is 100.0, and 50.0 in the calibration",
    ]


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"options": {"--method": "x"}}'])
def test_templates_of_no_calibration_have_no_other_options(tmp_path, text):
    """There is nothing to compare with."""
    if text is not None:
        (tmp_path / FACTS).write_text(text)
    assert other_options(tmp_path, method="nearest", block_ms=100.0) == []
