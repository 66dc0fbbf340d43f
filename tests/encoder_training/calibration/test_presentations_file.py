"""Presentations from the file of a stimulus program."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import RecordingError
from encoder_training.calibration.presentations_file import ShownMovies, read_shown

HEAD = "start_time,stop_time,movie,frame\n"


def shown(folder: Path, text: str) -> ShownMovies:
    """Read a file of a recording of 100 s, of which 60 s are calibrated on."""
    path = folder / "shown.csv"
    path.write_text(text)
    return read_shown(path, recorded_s=100.0, calibrated_s=60.0)


def test_movies_are_apart_and_in_order_of_time(tmp_path):
    """Rows may come in any order; what ends after the calibrated minutes is counted."""
    text = HEAD + "3,4,a,1\n1,2,a,0\n2,3,b,-1\n59,61,a,2\n"
    found = shown(tmp_path, text)
    assert list(found.movies) == ["a", "b"]
    assert found.movies["a"].start_s.tolist() == [1.0, 3.0]
    assert found.movies["a"].frame.tolist() == [0.0, 1.0]
    assert found.movies["b"].frame.tolist() == [-1.0]
    assert (found.n_rows, found.n_later) == (3, 1)
    assert found.movies["a"].captions == ()


def test_a_stimulus_is_a_movie_and_captions_are_kept(tmp_path):
    """The other name of the column, and an optional one."""
    text = "stimulus,frame,stop_time,start_time,caption\nm,0,2,1,A car.\nm,1,3,2,\n"
    assert shown(tmp_path, text).movies["m"].captions == ("A car.", "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD + "1,2,a,0\n99,101,a,1\n", "within the recording, which lasts 100 s .*: line 3"),
        (HEAD + "-1,2,a,0\n", "within the recording"),
        (HEAD + "2,2,a,0\n", "start_time must be before stop_time: line 2"),
        (HEAD + "x,2,a,0\nnan,2,a,0\n", "must be seconds of the recording: line 2, 3"),
        (HEAD + "1,2,a,0.5\n", "frame must be a whole number"),
        (HEAD + "1,2,a,-2\n", "frame must be a whole number"),
        (HEAD + "1,2,,0\n", "movie must be a name"),
        (HEAD + "1,2,a/b,0\n", "without a slash or a colon: line 2"),
        (HEAD + "1,2,a,0\n2,3,movie:1,0\n", "without a slash or a colon: line 3"),
        (HEAD + "70,80,a,0\n", "no presentation ends within the 60 s"),
        ("start_time,stop_time,frame\n1,2,0\n", "a column movie or stimulus"),
        ("start_time,movie,frame\n1,a,0\n", "stop_time is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text, sentence):
    """Each says which rule is broken, and in which lines."""
    with pytest.raises(RecordingError, match=sentence):
        shown(tmp_path, text)
