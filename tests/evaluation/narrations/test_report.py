"""The report: its keys, its judgement, its page and its figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from evaluation.narrations.facts_score import SCORES, tallies
from evaluation.narrations.figures import write_figures
from evaluation.narrations.page import page, table
from evaluation.narrations.pairs import NarratedPair, pair_results
from evaluation.narrations.report import ClipResults, Example, NarratorScores, Report, SameTokens
from evaluation.narrations.targets import comparisons, evaluate_targets
from evaluation.scores import difference, draw_scenes, score
from simulation.captions import caption
from simulation.scenes.pairs import FEATURES, controlled_pair
from simulation.scenes.scene import random_scene

N_SCENES = 60
FACTS = [random_scene(seed).facts for seed in range(N_SCENES)]
DRAWS = draw_scenes(N_SCENES, n_draws=500)


def _tallies(share_right, seed=0):
    """Say the truth of a share of the scenes, and of other scenes for the rest."""
    is_right = np.random.default_rng(seed).random(N_SCENES) < share_right
    texts = [
        caption(FACTS[at] if is_right[at] else FACTS[(at + 7) % N_SCENES]) for at in range(N_SCENES)
    ]
    return tallies(FACTS, texts)


def _scored(found, n_units):
    return NarratorScores(
        n_units, N_SCENES, {name: score(each, DRAWS) for name, each in found.items()}
    )


@pytest.fixture(scope="module")
def report():
    """Return a report of narrators that are right about a known share of the scenes."""
    shares = {"all": 0.9, "VISp": 0.6, "CA1": 0.0, "shuffled": 0.0, "silent": 0.0}
    found = {name: _tallies(share) for name, share in shares.items()}
    spikes = {name: _scored(each, 40) for name, each in found.items()}
    units = {number: _scored(_tallies(share), number) for number, share in ((10, 0.3), (30, 0.7))}
    true_patches = _scored(_tallies(1.0), None)
    differences = {
        f"{one}-{other}": difference(found[one]["object_f1"], found[other]["object_f1"], DRAWS)
        for one, other in comparisons(list(found))
    }
    same = (
        SameTokens("worker, --speed 1", 40, 40, 3),
        SameTokens("worker, --speed max", 40, 39, 0),
    )
    scenes = [(feature, controlled_pair(feature, seed)) for feature in FEATURES for seed in (1, 2)]
    pairs = [
        NarratedPair(feature, one.facts, other.facts, caption(one.facts), caption(other.facts))
        for feature, (one, other) in scenes
    ]
    return Report(
        command="neurrate simulate score",
        n_scenes=N_SCENES,
        bundle="0" * 64,
        model="tiny-llava",
        true_patches=true_patches,
        spikes=spikes,
        units=units,
        against=differences,
        pairs=(
            ClipResults("true_patches", pair_results(pairs)),
            ClipResults("spikes", pair_results(pairs)),
        ),
        sbert={},
        same_tokens=same,
        targets=evaluate_targets(true_patches, spikes, units, differences, same),
        examples=(Example("A car | a tree.", {"all": "A car."}),),
        seconds={"all": 61.0},
    )


def test_json_has_the_agreed_keys(report):
    """What other programs read is there, and no number is not-a-number."""
    tree = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert tree["true_patches"]["object_f1"] == 1
    for name in SCORES:
        low, high = tree["spikes"]["VISp"][f"{name}_ci"]
        assert low <= tree["spikes"]["VISp"][name] <= high
        assert {f"{name}_corrected", f"{name}_chance", f"{name}_corrected_ci"} <= set(
            tree["spikes"]["VISp"]
        )
    assert set(tree["units"]) == {"10", "30"}
    assert {each["feature"] for each in tree["pairs"]} == set(FEATURES)
    assert tree["same_tokens"]["worker, --speed 1"]["is_same"] is True
    assert tree["same_tokens"]["worker, --speed max"]["is_same"] is False
    assert [len(tree["examples"]), tree["command"]] == [1, "neurrate simulate score"]


def test_targets_say_what_is_met_and_by_how_much_it_is_missed(report):
    """A perfect narrator meets its targets; one other word in forty misses by a fortieth."""
    by_name = {each.name: each for each in report.targets}
    assert by_name["true patches: object f1"].is_met
    assert by_name["all units above the better control: object F1"].is_met
    assert by_name["CA1 no better than silent: lower end of the interval of its lead"].is_met
    assert by_name["object F1 grows with the number of units: smallest step"].is_met
    missed = by_name["same words as in the sequential mode: worker, --speed max (40 sentences)"]
    assert not missed.is_met
    assert missed.missed_by == pytest.approx(1 / 40)


def test_targets_that_are_missed_are_not_met():
    """Narrators that say nothing true miss every number, by the whole of it."""
    bad = _scored(tallies(FACTS, [""] * N_SCENES), 40)
    good = _scored(_tallies(1.0), 40)
    difference_of = difference(_tallies(1.0)["object_f1"], _tallies(0.0)["object_f1"], DRAWS)
    found = evaluate_targets(
        bad, {"all": bad}, {10: good, 30: bad}, {"CA1-silent": difference_of}, []
    )
    assert not any(each.is_met for each in found)
    by_name = {each.name: each.missed_by for each in found}
    assert by_name["all units: object F1"] == pytest.approx(0.75)
    assert by_name["object F1 grows with the number of units: smallest step"] == pytest.approx(1)


def test_better_control_is_the_one_that_counts(report):
    """The lead that is judged is the smaller of the two."""
    leads = [report.against["all-shuffled"].value, report.against["all-silent"].value]
    (target,) = [each for each in report.targets if "better control" in each.name]
    assert target.found == min(leads)


def test_page_shows_every_population_and_target(report):
    """Each narrator, feature and target has its line, and tables stay tables."""
    text = page(report, {"Object F1 by population": "images/f1.svg"})
    for name in (
        *report.spikes,
        "true patches",
        *FEATURES,
        *(each.name for each in report.targets),
    ):
        assert name in text
    assert "![Object F1 by population](images/f1.svg)" in text
    assert "A car \\| a tree." in text
    assert "**no**, by 0.025" in text
    assert "nan" not in text
    assert text.endswith("\n")


def test_table_rows_have_as_many_cells_as_the_head():
    """A cell with a bar or a line break does not make another."""
    lines = table(["a", "b"], [["x|y", "1\n2"]]).splitlines()
    assert len(lines) == 3
    assert [line.replace("\\|", "").count("|") for line in lines] == [3, 3, 3]


def test_figures_are_readable_and_repeatable(report, tmp_path):
    """Three drawings that parse, name what they show, and come out the same twice."""
    one = write_figures(report, tmp_path / "one")
    two = write_figures(report, tmp_path / "two")
    assert len(one) == 3
    for caption_of, path in one.items():
        assert path.read_bytes() == two[caption_of].read_bytes()
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    populations = one["Object F1 by population"].read_text(encoding="utf-8")
    assert all(name in populations for name in ("VISp", "silent", "true patches"))
