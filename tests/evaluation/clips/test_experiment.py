"""The file of an experiment, and the schedule that is drawn of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from contracts.errors import UserError
from evaluation.clips.experiment import is_mentioned, load_experiment
from evaluation.clips.schedule import make_schedule, read_schedule, write_schedule
from simulation.captions import caption

CONFIGS = Path(__file__).parents[3] / "configs" / "clips"

PAIR = """
[[pairs]]
feature = "car"
with = "{n}-car.mp4"
without = "{n}.mp4"
words = ["car"]
"""
PAIRS = "".join(PAIR.format(n=n) for n in range(5))


def _load(tmp_path, text):
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = ", "is not TOML"),
        ('name = "a"', "this has neither"),
        ('name = "a"\nfeatures = [{name = "light"}]' + PAIRS, "this has both"),
        ('features = [{name = "light"}]', "name must be given"),
        ('name = "a"\nseed = 11\nfeatures = [{name = "light"}]', "that no training has used"),
        ('name = "a"\nfeatures = [{name = "lihgt"}]', "got 'lihgt' (did you mean 'light'?)"),
        ('name = "a"\nfeatures = [{name = "light"}, {name = "light"}]', "again"),
        ('name = "a"\nfeatures = [{name = "light", pairs = 4}]', "features[0].pairs must be"),
        (
            'name = "a"\ngap_second = 1\nfeatures = [{name = "light"}]',
            "(did you mean 'gap_seconds'",
        ),
        ('name = "a"\ngap_seconds = 0.1\nfeatures = [{name = "light"}]', "gap_seconds must be"),
        ('name = "a"\nclip_seconds = 0.2\nfeatures = [{name = "light"}]', "clip_seconds must be"),
        ('name = "a"' + PAIR.format(n=0), "has 1 pairs"),
        ('name = "a"' + PAIRS + PAIR.format(n=3), "pairs[5].with is the clip '3-car.mp4'"),
        ('name = "a"' + PAIRS.replace('words = ["car"]', ""), "pairs[0].words must be given"),
        ('name = "a"' + PAIRS.replace('["car"]', "[]"), "pairs[0].words must"),
        ('name = "a"' + PAIRS.replace('"car"]', '"42"]'), "must be words of letters"),
        ('name = "a"' + PAIRS.replace("without", "without_clip"), "(did you mean 'without'?)"),
        (
            'name = "a"' + PAIRS + 'with_shows = ["car", "dog"]\nwithout_shows = ["tree"]\n',
            "pairs[4] must differ in one feature",
        ),
        (
            'name = "a"' + PAIRS + 'with_shows = ["tree", "dog"]\nwithout_shows = ["tree"]\n',
            "pairs[4].words must mention 'dog'",
        ),
        (
            'name = "a"' + PAIRS + 'with_shows = ["car", "toy car"]\nwithout_shows = ["toy car"]\n',
            "must not mention what both clips show",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, problem):
    """The rule, what was found and where; never a traceback."""
    with pytest.raises(UserError) as caught:
        _load(tmp_path, text)
    assert problem in str(caught.value)
    assert "experiment.toml" in str(caught.value)


def test_every_mistake_is_named_at_once(tmp_path):
    """Not the first alone."""
    with pytest.raises(UserError) as caught:
        _load(tmp_path, 'name = "a"\nfeatures = [{name = "lihgt"}, {name = "colour"}]')
    assert "features[0]" in str(caught.value)
    assert "features[1]" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """With what the system says."""
    with pytest.raises(UserError, match="no such file"):
        load_experiment(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["simulated.toml", "rig.toml"])
def test_the_examples_can_be_loaded(name):
    """Both that are shipped."""
    experiment = load_experiment(CONFIGS / name)
    assert experiment.is_simulated == (name == "simulated.toml")
    assert len(make_schedule(experiment)) == (2 * len(experiment.pairs) * experiment.table.repeats)


def test_a_drawn_pair_is_mentioned_by_the_caption_of_its_own_clip_alone(tmp_path):
    """True sentences: every feature in the clip that has it, never in the other."""
    names = ("kind", "count", "heading", "distance", "light", "second")
    tables = ", ".join(f'{{name = "{name}", pairs = 5}}' for name in names)
    experiment = _load(tmp_path, f'name = "a"\nfeatures = [{tables}]')
    assert experiment.features == names
    for pair in experiment.pairs:
        assert pair.scenes is not None
        present, absent = (caption(scene.facts, 3) for scene in pair.scenes)
        assert pair.mentions(present), (pair.name, present)
        assert not pair.mentions(absent), (pair.name, absent)


def test_populations_are_called_what_their_narrations_call_them(tmp_path):
    """Without the marks of a quoted name."""
    experiment = _load(tmp_path, 'name = "a"\npopulations = ["all", \'area:"L2/3"\']' + PAIRS)
    assert experiment.populations == ("all", "area:L2/3")


def test_words_are_read_as_rules_on_narrations_read_them():
    """Plurals count, and what a sentence says to be absent does not."""
    assert is_mentioned(["car"], "Two cars drive away.")
    assert not is_mentioned(["car"], "A street without cars, at night.")


def test_order_is_mixed_and_balanced(tmp_path):
    """Each clip once a repeat; half of the pairs begin with the feature, the other half next."""
    experiment = _load(
        tmp_path, 'name = "a"\nrepeats = 2\nfeatures = [{name = "light"}, {name = "kind"}]'
    )
    schedule = make_schedule(experiment)
    assert set(Counter((one.clip, one.repeat) for one in schedule).values()) == {1}
    first: dict[tuple[str, int], int] = {}
    for one in schedule:
        first.setdefault((one.pair, one.repeat), one.has_feature)
    for feature in experiment.features:
        of_feature = [pair.name for pair in experiment.pairs if pair.feature == feature]
        assert sum(first[name, 0] for name in of_feature) == 10
        assert all(first[name, 0] + first[name, 1] == 1 for name in of_feature)
    onsets = [one.onset_s for one in schedule]
    assert onsets[0] == 0.5
    assert {round(b - a, 6) for a, b in pairwise(onsets)} == {1.5}
    assert schedule == make_schedule(experiment)


def test_a_schedule_is_read_as_it_was_written(tmp_path):
    """Also with more columns; one of another experiment, or with a number twice, is refused."""
    experiment = _load(tmp_path, 'name = "a"' + PAIRS)
    schedule = make_schedule(experiment)
    path = tmp_path / "schedule.csv"
    write_schedule(path, schedule)
    lines = path.read_text().splitlines()
    assert all(name.isidentifier() for name in lines[0].split(","))
    assert "0-car.mp4" in path.read_text()
    path.write_text("\n".join([f"{lines[0]},extra", *(f"{line},x" for line in lines[1:])]))
    assert read_schedule(path, experiment) == schedule
    path.write_text("\n".join(lines).replace("car-001", "dog-001"))
    with pytest.raises(UserError, match="2 show other clips"):
        read_schedule(path, experiment)
    path.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(UserError, match=r"more than once: 9\. Number the rows"):
        read_schedule(path, experiment)
    path.write_text("\n".join(lines).replace("duration_s", "seconds"))
    with pytest.raises(UserError, match="line 2 must have a value for duration_s"):
        read_schedule(path, experiment)
