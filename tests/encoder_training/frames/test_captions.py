import json

import numpy as np
import pytest

from contracts.errors import UserError
from encoder_training.data_set.prepared import FrameTable
from encoder_training.frames.captions import Caption, match_captions, read_captions
from simulation.cortex.movie_files import write_facts
from simulation.scenes.movie import random_movie

LINES = [
    {"movie": "first", "number": 0, "caption": "A car  turns\nleft."},
    {"movie": "first", "frame": 3, "captions": ["Two dogs.", "Dogs."]},
    {"movie": "second", "number": 1, "caption": "Rain, falling."},
]
EXPECTED = [
    Caption("first", 0, "A car turns left."),
    Caption("first", 3, "Two dogs."),
    Caption("second", 1, "Rain, falling."),
]


def table(first, second=()):
    """Return a table of the frames of two movies."""
    movie = np.repeat([0, 1], [len(first), len(second)]).astype(np.int64)
    number = np.array([*first, *second], dtype=np.int64)
    return FrameTable(("first", "second"), movie, number, ("",) * len(number))


def test_lines_of_json_are_read(tmp_path):
    """Number or frame, caption or several of which the first counts; empty lines do not."""
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n")
    assert read_captions(path) == EXPECTED
    assert read_captions(tmp_path) == EXPECTED


def test_csv_is_read(tmp_path):
    """A table with names in its first line, as a spreadsheet saves it."""
    path = tmp_path / "captions.csv"
    path.write_text(
        "\ufeffmovie,number,caption\nfirst,0,A car turns left.\nfirst,3,Two dogs.\n"
        'second,1,"Rain, falling."\n',
        encoding="utf-8",
    )
    assert read_captions(path) == EXPECTED


def test_facts_of_a_simulated_movie_are_read(tmp_path):
    """The first caption of each frame, the movie by the name of the file."""
    movie = random_movie("natural_movie_one", seed=0, n_scenes=2, frames_per_scene=3)
    write_facts(movie, tmp_path)
    found = read_captions(tmp_path)
    assert [(caption.movie, caption.number) for caption in found] == [
        ("natural_movie_one", number) for number in range(6)
    ]
    assert all(caption.text.endswith(".") for caption in found)


def test_frames_get_their_captions():
    """By movie and number; what is missing, there twice or unknown is listed."""
    captions = [
        *EXPECTED,
        Caption("first", 3, "A cat."),
        Caption("first", 0, "A car turns left."),
        Caption("third", 0, "Nothing."),
    ]
    matched = match_captions(captions, table(range(8), range(2)))
    assert matched.captions[:4] == ("A car turns left.", "", "", "Two dogs.")
    assert matched.captions[8:] == ("", "Rain, falling.")
    assert matched.missing.tolist() == [1, 2, 4, 5, 6, 7, 8]
    missing, twice, unknown = matched.notes
    assert missing.startswith("7 of 10 frames have no caption: first 1, first 2, first 4, first 5,")
    assert "and 2 more" in missing
    assert "1 further captions say something else of a frame that has one: first 3." in twice
    assert "third (1)" in unknown


def test_captions_of_all_frames_need_no_note():
    """There are no notes where nothing is wrong."""
    matched = match_captions(EXPECTED, table([0, 3], [1]))
    assert matched.notes == ()
    assert not len(matched.missing)


def test_the_nearest_caption_of_the_movie_is_taken():
    """Between two the earlier; other movies' are never taken."""
    frames = table([5, 0, 1, 2, 3, 4], [0, 9])
    captions = [Caption("first", 0, "a"), Caption("first", 4, "b"), Caption("first", 2, "")]
    matched = match_captions(captions, frames, nearest=True)
    assert matched.captions == ("b", "a", "a", "a", "b", "b", "", "")
    assert matched.missing.tolist() == [6, 7]


def test_captions_of_other_movies_alone_are_refused():
    """Names that fit nowhere are a mistake, not a note."""
    with pytest.raises(UserError, match="fit none of 2 frames: they are of third, the frames of"):
        match_captions([Caption("third", 0, "Nothing.")], table([0, 1]))


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        '{"movie": "first", "number": -1, "caption": "A car."}',
        '{"movie": "first", "number": 1.5, "caption": "A car."}',
        '{"movie": "first", "caption": "A car."}',
        '{"number": 1, "caption": "A car."}',
        '{"movie": "first", "number": 1}',
        '{"movie": "first", "number": 1, "captions": []}',
    ],
)
def test_a_line_that_is_no_caption_is_named(tmp_path, line):
    """File, line and what is there, with an example of what is needed."""
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"natural_movie_one.*captions\.jsonl, line 2") as caught:
        read_captions(path)
    assert line[:20] in str(caught.value)


def test_files_without_captions_are_refused(tmp_path):
    """Not there, empty, not text, or a folder of other things."""
    with pytest.raises(UserError, match="is not there"):
        read_captions(tmp_path / "no")
    with pytest.raises(UserError, match=r"must hold captions\.jsonl, captions\.csv or files MOVIE"):
        read_captions(tmp_path)
    (tmp_path / "empty.csv").write_text("movie,number,caption\n")
    with pytest.raises(UserError, match="has no captions"):
        read_captions(tmp_path / "empty.csv")
    (tmp_path / "noise.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="must be text in UTF-8"):
        read_captions(tmp_path / "noise.jsonl")
