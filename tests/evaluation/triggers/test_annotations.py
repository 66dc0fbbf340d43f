"""When a concept was on the screen: CSV files as people write them, and captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import UserError
from evaluation.triggers.annotations import CaptionAnnotations, captions_as_truth, read_truth_file
from stream_sources.recordings.presentations import Presentations
from tests.support.triggers import rule

S = 1_000_000_000
CAR = rule('probe "car" of all > 0.5', "car_seen")


def _write(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_of_a_concept_are_merged(tmp_path: Path):
    """Rows may overlap, touch, and come in any order; a concept is there or it is not."""
    text = "start_s,stop_s,concept\n5,7,car\n1,2.5,car\n2,3,car\n6.5,8,car\n1,9,dog\n"
    truth = read_truth_file(_write(tmp_path, text))
    assert truth.concept_intervals(CAR) == ((1 * S, 3 * S), (5 * S, 8 * S))
    assert truth.annotated((0, 10 * S)) == ((0, 10 * S),)


def test_a_row_may_name_the_rule_and_that_wins(tmp_path: Path):
    """For a rule on likeness the file says the rule's name or its sentence."""
    text = "start_s,stop_s,concept\n1,2,car\n3,4,car_seen\n5,6,A dog runs.\n"
    truth = read_truth_file(_write(tmp_path, text))
    assert truth.concept_intervals(CAR) == ((3 * S, 4 * S),)
    like = rule('narration of all like "A dog runs." > 0.5', "doggish")
    assert truth.concept_intervals(like) == ((5 * S, 6 * S),)
    nothing = truth.concept_intervals(rule('probe "bird" of all > 0.5', "bird_seen"))
    assert isinstance(nothing, str)
    assert "'bird'" in nothing
    assert "a dog runs., car, car_seen" in nothing


def test_files_of_spreadsheets_are_read(tmp_path: Path):
    """A mark of the byte order, more columns, another order, spaces and empty lines do no harm."""
    text = "\ufeffnote, concept ,start_s,stop_s\r\n\r\nparked, Car , 1.5 ,2\r\n,,,\r\n"
    truth = read_truth_file(_write(tmp_path, text))
    assert truth.concept_intervals(CAR) == ((3 * S // 2, 2 * S),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 must name the columns start_s,stop_s,concept"),
        ("start_s,stop_s,what\n1,2,car\n", "concept is not among start_s, stop_s, what"),
        ("start_s;stop_s;concept\n1;2;car\n", "separated by commas"),
        ("start_s,stop_s,concept\n", "must have a row or more below its header, got none"),
        ("start_s,stop_s,concept\n1,2,car\none,2,car\n", "line 3 must have seconds .* got 'one'"),
        ("start_s,stop_s,concept\n1,nan,car\n", "line 2 must have seconds of session time as stop"),
        ("start_s,stop_s,concept\n1,1e300,car\n", "line 2 must have seconds"),
        ("start_s,stop_s,concept\n1,2," + "c" * 200_000 + "\n", "line 2 is no CSV: field larger"),
        ("start_s,stop_s,concept\n2,2,car\n", "line 2 must stop after it starts, got 2 to 2 s"),
        ("start_s,stop_s,concept\n\n1,2\n", "line 3 must have a value for concept"),
        ("start_s,stop_s,concept\n1,2, \n", "line 2 must have a value for concept"),
        ("start_s,stop_s,concept\n" + "x,2,car\n" * 7, "line 6 .*; and 2 lines more"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, text: str, said: str):
    """What is wrong is said with its line, and all lines at once."""
    with pytest.raises(UserError, match=said):
        read_truth_file(_write(tmp_path, text))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path):
    """Both are the user's input, in a sentence."""
    with pytest.raises(UserError, match="must be a CSV file that is there"):
        read_truth_file(tmp_path / "nowhere.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_truth_file(tmp_path / "bytes.csv")


def _shown(rows: list[tuple[float, float, str, float, str]]) -> Presentations:
    """Return presentations of (start, stop, stimulus, frame, caption)."""
    names = tuple(dict.fromkeys(row[2] for row in rows))
    return Presentations(
        start_ns=np.array([round(row[0] * S) for row in rows], dtype=np.int64),
        stop_ns=np.array([round(row[1] * S) for row in rows], dtype=np.int64),
        row_id=np.arange(len(rows)),
        frame=np.array([row[3] for row in rows]),
        stimulus=np.array([names.index(row[2]) for row in rows]),
        block=np.full(len(rows), np.nan),
        caption=[row[4] for row in rows],
        names=names,
    )


def _truth(rows: list[tuple[float, float, str, float, str]]) -> CaptionAnnotations:
    found = captions_as_truth(_shown(rows), "nowhere/session.nwb")
    assert found is not None
    return found


def test_captions_say_what_was_there_and_where_nobody_knows():
    """A thing is there as long as captions name it; a grey screen is empty."""
    truth = _truth(
        [
            (0, 1, "spontaneous", np.nan, ""),
            (1, 2, "movie", 0, "Two cars pass."),
            (2, 3.05, "movie", 1, "A car stands by a tree."),
            (3.1, 4, "movie", 2, "No car, but a tree."),
            (4, 5, "movie", -1, ""),
            (5, 6, "movie", 3, ""),
            (6, 7, "gratings", np.nan, ""),
            (7, 8, "movie", 0, "Two cars pass."),
        ]
    )
    assert truth.concept_intervals(CAR) == ((1 * S, round(3.05 * S)), (7 * S, 8 * S))
    assert truth.annotated((0, 10 * S)) == ((0, 5 * S), (7 * S, 8 * S))
    assert truth.annotated((2 * S, 4 * S)) == ((2 * S, 4 * S),)
    assert truth.source == "the recording's captions"


def test_words_in_a_row_are_a_concept_of_their_own():
    """A rule on two words is true where a caption has both, one after the other."""
    truth = _truth([(0, 1, "m", 0, "A street lamp."), (1, 2, "m", 1, "A lamp in the street.")])
    says = rule('narration of all says "street lamps"', "lamp")
    assert truth.concept_intervals(says) == ((0, S),)


def test_what_captions_cannot_say_is_said():
    """Likeness needs a file, and so does a word that no caption has."""
    truth = _truth([(0, 1, "m", 0, "A dog.")])
    assert "no caption of the recording says 'car'" in str(truth.concept_intervals(CAR))
    like = rule('narration of all like "A dog." > 0.5', "doggish")
    assert "whose concept is the rule's name 'doggish'" in str(truth.concept_intervals(like))


def test_no_captions_are_no_truth():
    """Presentations without words say nothing of concepts."""
    assert captions_as_truth(_shown([(0, 1, "m", 0, "")]), "s.nwb") is None
    assert captions_as_truth(Presentations.none(), "s.nwb") is None


def test_other_words_for_the_same_frame_count(tmp_path: Path):
    """A simulated session keeps several sentences for each frame, which lie beside it."""
    folder = tmp_path / "day_movies"
    folder.mkdir()
    lines = [{"frame": 0, "captions": ["A person walks.", "A pedestrian walks."]}]
    (folder / "m_facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = _shown([(0, 1, "m", 0, "A person walks."), (1, 2, "m", 1, "A dog.")])
    truth = captions_as_truth(shown, str(tmp_path / "day.nwb"))
    assert truth is not None
    assert truth.concept_intervals(rule('probe "pedestrian" of all > 0.5')) == ((0, S),)
    assert truth.concept_intervals(rule('probe "person" of all > 0.5')) == ((0, S),)
    assert "beside it" in truth.source
    (folder / "m_facts.jsonl").write_text('{"frame": 0}\n')
    with pytest.raises(UserError, match=r"m_facts.jsonl, line 1"):
        captions_as_truth(shown, str(tmp_path / "day.nwb"))
