"""The area of each channel, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RecordingError
from encoder_training.calibration.areas import read_areas

CHANNELS = ("imec0.ap#AP0", "imec0.ap#AP1", "imec0.ap#AP2", "imec0.ap#AP3")
DEPTHS_UM = np.array([0.0, 20.0, 40.0, 60.0])


def areas(folder: Path, text: str) -> tuple[str, ...]:
    """Read a file with this text."""
    path = folder / "areas.csv"
    path.write_text(text)
    return read_areas(path, CHANNELS, DEPTHS_UM)


def test_channels_by_id_and_by_the_number_at_its_end(tmp_path):
    """Both name the same channel, and one that is not named has no area."""
    assert areas(tmp_path, "area,channel\nCA1,imec0.ap#AP0\nVISp,2\nVISp,3\n") == (
        "CA1", "", "VISp", "VISp",
    )  # fmt: skip


def test_depths_are_half_open(tmp_path):
    """A channel at the end of a range belongs to the next one."""
    text = "depth_from,depth_to,area\n40,1000,VISp\n-10,40,CA1\n"
    assert areas(tmp_path, text) == ("CA1", "CA1", "VISp", "VISp")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("channel,area\n0,CA1\nimec0.ap#AP9,VISp\n7,VISp\n", "2 channels that the recording does"),
        ("channel,area\n0,CA1\nimec0.ap#AP0,VISp\n", "two areas to 1 channels"),
        ("depth_from,depth_to,area\n0,50,CA1\n40,90,VISp\n", "CA1 to 50 um and VISp from 40 um"),
        ("depth_from,depth_to,area\n50,50,CA1\n", "must be a number below depth_to"),
        ("depth_from,depth_to,area\n0,x,CA1\n", "must be a number below depth_to"),
        ("depth_from,depth_to,area\n500,900,CA1\n", "no channel lies in its ranges"),
        ("site,area\n0,CA1\n", "it needs the columns channel, area or"),
        (
            "channel,region\n0,CA1\n",
            "or depth_from, depth_to, area; there are channel",
        ),
        ("channel,area\n", "no row"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text, sentence):
    """Each says what is wrong, in the file's own words."""
    with pytest.raises(RecordingError, match=sentence):
        areas(tmp_path, text)


def test_numbers_that_are_not_unique_name_no_channel(tmp_path):
    """Two shanks with the same numbers: a number alone would be a guess."""
    path = tmp_path / "areas.csv"
    path.write_text("channel,area\n1,CA1\n")
    with pytest.raises(RecordingError, match="1 channels that the recording does not have: 1"):
        read_areas(path, ("a1", "b1"), np.array([0.0, 0.0]))
