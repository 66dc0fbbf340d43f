"""The truth beside the words: captions by time, and the running score of objects."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from contracts.narration import Status
from contracts.narration_wire import pack_narration
from contracts.spikes import Hello, Mark
from contracts.wire import pack
from evaluation.narrations.facts_score import tallies
from simulation.captions import caption, parse
from simulation.scenes.scene import random_scene
from subscribers.watch.report import scores_of
from subscribers.watch.state import ReceivedNarration, WatchState
from subscribers.watch.truth import MAX_SPANS, CaptionTimeline, ObjectScore
from subscribers.watch.view import draw
from tests.support.narrations import narration
from tests.support.tiny_bundle import tiny_population
from tests.support.watching import take

S = 1_000_000_000
RUN = "0123456789abcdef"
NAMES = ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled")
DOG = "A dog runs to the left nearby, by day."
CARS = "Two cars drive away far off, at night."


def kinds_of(text: str) -> frozenset[str]:
    """Return the kinds of things that a text names."""
    return frozenset(parse(text).kinds)


def mark(start_s: float, stop_s: float, said: str | None, *, run: str = RUN) -> Mark:
    """Return one presentation."""
    return Mark("nwb", run, round(start_s * S), round(stop_s * S), "movie", 0, 0, said)


@pytest.fixture
def state():
    """Return a watcher that has been told of two scenes of half a second, from 0 s on."""
    state = WatchState("tcp://127.0.0.1:5571", 0, order=NAMES, kinds_of=kinds_of)
    for frame in range(30):
        said = DOG if frame < 15 else CARS
        take(state, pack(mark(frame / 30, (frame + 1) / 30, said)))
    return state


def test_frames_of_one_scene_are_one_span():
    """Captions are kept for as long as they hold, and are found by time, half open."""
    truth = CaptionTimeline()
    for one in (mark(1, 2, DOG), mark(2, 3, DOG), mark(3, 4, CARS), mark(4, 5, None)):
        truth.add(one)
    assert len(truth.spans) == 2
    said = [truth.caption_at(round(second * S)) for second in (0.9, 1, 2.99, 3, 3.99, 4, 9)]
    assert said == ["", DOG, DOG, CARS, CARS, "", ""]


def test_a_hole_between_frames_has_no_caption():
    """What was not shown, or not heard of, is not known, even between two equal captions."""
    truth = CaptionTimeline()
    truth.add(mark(0, 1, DOG))
    truth.add(mark(2, 3, DOG))
    assert truth.caption_at(round(1.5 * S)) == ""
    assert truth.caption_at(2 * S) == DOG


def test_a_source_that_starts_again_starts_anew():
    """Another run has other times: what an earlier one showed is forgotten."""
    truth = CaptionTimeline()
    truth.add(mark(5, 6, DOG))
    truth.add(mark(0, 1, CARS, run="f" * 16))
    assert truth.caption_at(round(5.5 * S)) == ""
    assert truth.caption_at(0) == CARS


def test_captions_are_bounded():
    """A source that never ends takes no more memory; the oldest captions go."""
    truth = CaptionTimeline()
    for second in range(MAX_SPANS + 5):
        truth.add(mark(second, second + 1, f"{second} dogs"))
    assert len(truth.spans) == MAX_SPANS
    assert truth.caption_at(4 * S) == ""
    assert truth.caption_at(5 * S) == "5 dogs"


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9), st.sampled_from("ab")), max_size=9)
)
def test_any_time_finds_the_caption_that_was_shown(shown):
    """Merged or not, a time finds the mark that covers it, as a plain search would."""
    truth, at, marks = CaptionTimeline(), 0, []
    for gap, length, said in shown:
        marks.append((at + gap, at + gap + length, said))
        at += gap + length
    for start, stop, said in marks:
        truth.add(Mark("nwb", RUN, start, stop, "movie", 0, 0, said))
    for time in range(at + 1):
        found = [said for start, stop, said in marks if start <= time < stop]
        assert truth.caption_at(time) == "".join(found)


def test_objects_are_counted_by_kind():
    """Named and there, named and not there, there and not named."""
    score = ObjectScore()
    assert score.f1 is None
    score.add(kinds_of("A dog and a tree."), kinds_of(DOG))
    assert (score.n_right, score.n_wrong, score.n_missed) == (1, 1, 0)
    score.add(kinds_of(""), kinds_of(CARS))
    assert (score.n, score.n_missed) == (2, 1)
    assert score.f1 == pytest.approx(2 / 4)


def test_the_running_score_is_the_evaluation_s():
    """The number on the screen is the one that a report would print for the same sentences."""
    facts = [random_scene(seed).facts for seed in range(60)]
    said = [caption(facts[(at * 7) % 60 if at % 3 else at], at) for at in range(60)]
    score = ObjectScore()
    for one, text in zip(facts, said, strict=True):
        score.add(kinds_of(text), kinds_of(caption(one, 1)))
    assert score.f1 is not None
    assert 0.2 < score.f1 < 0.9
    assert score.f1 == pytest.approx(tallies(facts, said)["object_f1"].value)


def test_narrations_are_scored_by_the_moment_they_describe(state):
    """Not the end of the window but the frame counts: at 0.7 s the cars were shown."""
    for seq, frame_s, text in ((0, 0.2, DOG), (1, 0.7, DOG), (2, 0.7, CARS), (3, 7.0, "A tree.")):
        said = replace(narration(seq=seq, text=text), frame_s=frame_s, window_stop_s=0.1)
        take(state, pack_narration(said), host_ns=S)
    assert [one.truth for one in state.kept] == [DOG, CARS, CARS, ""]
    assert scores_of(state) == {"all": {"object_f1": pytest.approx(4 / 6), "n": 3}}
    assert state.kept[0].line.endswith(f"(60 ms) | truth: {DOG}")
    assert "truth" not in state.kept[3].line


def test_a_narration_that_failed_names_nothing(state):
    """The reason of a failure is no sentence, whatever words it has."""
    failed = narration(text="", status=Status.FAILED)
    failed = replace(failed, utterance=replace(failed.utterance, reason="dog ate it"))
    take(state, pack_narration(failed), host_ns=S)
    assert scores_of(state)["all"] == {"object_f1": 0.0, "n": 1}


@pytest.mark.parametrize("frame_s", [float("inf"), float("nan"), 1e300])
def test_a_time_that_is_none_has_no_truth(state, frame_s):
    """A sender that breaks the format cannot break the score."""
    topic, payload = pack_narration(narration(text=DOG))
    broken = payload.replace(b'"frame_s":0.2', b'"frame_s":' + _json(frame_s))
    assert broken != payload
    heard = take(state, [topic, broken], host_ns=S)
    assert isinstance(heard, ReceivedNarration)
    assert heard.truth == ""


def _json(value: float) -> bytes:
    return {"inf": b"Infinity", "nan": b"NaN"}.get(str(value), str(value).encode())


def test_other_messages_of_a_source_are_passed_over(state):
    """A hello is no mark and no error; what cannot be read is counted."""
    take(state, pack(Hello("nwb", RUN, "tests", tiny_population())))
    assert state.n_unreadable == 0
    take(state, [b"mark.nwb", b"\xff"])
    assert state.n_unreadable == 1
    assert len(state.truth.spans) == 2


def _drawn(state: WatchState, *, height: int | None = None, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(state, S, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _say_all(state: WatchState, text: str, *, seq: int = 0, frame_s: float = 0.7) -> None:
    for name in sorted(NAMES):
        said = replace(narration(seq=seq, population=name, text=text), frame_s=frame_s)
        take(state, pack_narration(said), host_ns=S)


@pytest.mark.parametrize("height", [14, 24, 50])
def test_the_truth_stands_above_the_words_and_each_score_beside_them(state, height):
    """At 100 columns: the caption, then each population in the order asked for."""
    _say_all(state, CARS)
    lines = _drawn(state, height=height).splitlines()
    assert len(lines) <= height
    (truth,) = [at for at, line in enumerate(lines) if line.startswith(f"truth  {CARS}")]
    rows = lines[truth + 2 : truth + 2 + len(NAMES)]
    assert [row.split()[:2] for row in rows] == [[name, "1.00"] for name in NAMES]
    assert all(CARS in row and row.rstrip().endswith("60 ms") for row in rows)


def test_long_sentences_wrap_where_there_is_room_and_are_cut_where_there_is_none(state):
    """Nothing is drawn below the edge, and a cut sentence says so."""
    _say_all(state, f"{CARS} " * 4)
    assert "…" not in _drawn(state)
    assert _drawn(state, height=14).count("…") == len(NAMES)


@pytest.mark.parametrize("width", [20, 80, 100])
def test_no_scored_view_is_taller_than_the_terminal(state, width):
    """Whatever the size of the terminal, nothing is drawn below its edge."""
    _say_all(state, f"{CARS} " * 4)
    for height in range(1, 40):
        assert len(_drawn(state, height=height, width=width).splitlines()) <= height


def test_grey_is_said_and_not_scored(state):
    """Between two movies the truth line says that nothing with a caption is there."""
    _say_all(state, CARS)
    _say_all(state, CARS, seq=1, frame_s=8.0)
    assert "truth  nothing that has a caption  at 8.00 s" in _drawn(state)
    assert {one["n"] for one in scores_of(state).values()} == {1}


def test_without_truth_the_view_is_as_before(state):
    """No score, no truth line, no column: a recording without captions loses nothing."""
    blind = WatchState("tcp://127.0.0.1:5571", 0, kinds_of=kinds_of)
    take(blind, pack_narration(narration(text=CARS)), host_ns=S)
    shown = _drawn(blind)
    assert "truth" not in shown
    assert "F1" not in shown
    assert "╭" in shown
    assert scores_of(blind) == {}
    assert np.isfinite(blind.kept[0].frame_s)
