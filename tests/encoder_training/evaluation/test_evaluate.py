"""Evaluation: a perfect decoder wins, a blind one is at chance, random weights lose."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from encoder_training.confidence.results import (
    ConfidenceTest,
    FittedConfidence,
    SelectiveAccuracy,
)
from encoder_training.data_set.training_set import measure_scaling
from encoder_training.evaluation.bootstrap import Interval, draw_groups
from encoder_training.evaluation.evaluate import _ResampledScores, evaluate_encoder
from encoder_training.evaluation.movie_runs import bootstrap_groups
from encoder_training.evaluation.report import BASELINES, write_report
from encoder_training.evaluation.report_figures import COLOURS
from encoder_training.evaluation.report_findings import chance_findings, seen_frames
from encoder_training.evaluation.results import (
    HEADLINES,
    METRICS,
    EncoderResults,
    MethodScores,
    PairedDifference,
    summary,
    verdict,
)
from encoder_training.evaluation.scoring import EvaluationSet
from encoder_training.masking import MaskingOptions
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.probes.calibration import Reliability
from encoder_training.probes.fitting import fit_probes
from tests.support.planted import LAG_NS, train_briefly
from tests.support.prepared import FRAME_NS, GRID, prepared_set, thinned_targets


@pytest.fixture(scope="module")
def prepared():
    """Return a movie whose middle fifth is held out, 24 units."""
    return prepared_set(n_frames=250, n_repeats=4, rate_hz=20.0, held_out="middle")


@pytest.fixture(scope="module")
def results(prepared) -> EncoderResults:
    """Return the evaluation of a short training."""
    data, parts = prepared.windows(LAG_NS)
    masking = MaskingOptions(
        everyone=0.6, fraction=0, one_area=0.4, one_cell_type=0, several_areas=0,
        all_but_one_area=0, nobody=0,
    )  # fmt: skip
    trained = train_briefly(prepared, masking)
    return evaluate_encoder(prepared, data, parts, trained.encoder, trained.scaling)


class Oracle:
    """Knows the windows, and gives the answers of a list."""

    name = "oracle"

    def __init__(self, bench: EvaluationSet, answer: np.ndarray) -> None:
        self._bench, self._answer, self._at = bench, answer, 0

    def patches(self, counts):
        """Give the true patches of the answers, window after window."""
        rows = self._answer[self._at : self._at + len(counts)]
        self._at += len(counts)
        return self._bench.data.targets[rows].astype(np.float32)

    def frames(self, counts, is_candidate):
        """Decide nothing."""


def scores_of(prepared, answer_of) -> MethodScores:
    """Score a decoder that gives the patches of chosen frames."""
    data, parts = prepared.windows(LAG_NS)
    bench = EvaluationSet.of(prepared, data, parts, parts.test)
    oracle = Oracle(bench, answer_of(bench))
    draws = draw_groups(bootstrap_groups(data, parts.test, bench.time)[0], seed=0)
    scored = bench.score(oracle, tqdm(disable=True))
    all_units = prepared.population.select("all")
    return _ResampledScores(oracle, "all", all_units, scored, draws, bench, True).scores


def test_a_perfect_decoder_has_perfect_scores():
    """No error, all skill, each frame first among those that are not the same scene."""
    found = scores_of(
        prepared_set(n_frames=450, held_out="middle", frames_per_scene=1, rate_hz=5.0),
        lambda bench: bench.true,
    )
    values = {name: score.value for name, score in found.scores.items()}
    expected = {
        "patch_mse": 0, "skill": 1, "raw_cosine": 1, "cosine": 1, "rank": 1 / 90, "top1": 1,
        "top5": 1, "within_1s": 1, "within_1s_by_patches": 1,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found.is_above_chance


def test_a_decoder_that_guesses_is_at_chance():
    """Patches of frames drawn at random: ranks in the middle, intervals that hold chance."""
    prepared = prepared_set(n_frames=300, frames_per_scene=3, held_out="middle", rate_hz=5.0)
    found = scores_of(
        prepared,
        lambda bench: np.random.default_rng(0).integers(300, size=len(bench.true)),
    )
    assert found.scores["rank"].holds(found.chance["rank"])
    assert found.scores["within_1s"].holds(found.chance["within_1s"])
    assert found.scores["within_1s_above_chance"].holds(0)
    assert found.scores["skill"].value < -0.5
    assert not found.is_above_chance


def test_a_short_training_beats_the_mean(results):
    """On frames that it never saw, the encoder explains what mean and shuffled units do not."""
    assert results.n_unseen == results.n_frames == 50
    encoder, mean = results.method("encoder"), results.method("mean patches")
    assert mean.scores["skill"].value == pytest.approx(0, abs=1e-4)
    assert mean.scores["rank"].value == pytest.approx(mean.chance["rank"])
    assert encoder.scores["skill"].low > 0
    for control in ("mean patches", "shuffled units"):
        assert results.against(control).verdict("skill") == "ahead"
        assert results.against(control).differences["cosine"].value > 0


def test_blind_units_are_seen_to_be_at_chance(results):
    """Through CA1 every method's interval holds chance; through VISp patches are explained."""
    for name in ("encoder", *BASELINES):
        ca1 = results.method(name, "area:CA1")
        assert ca1.n_units == 8
        assert ca1.against_chance == "at chance"
        assert ca1.scores["skill"].value < 0.1
        assert results.method(name, "area:VISp").scores["skill"].low > 0


def test_frames_that_were_held_out_are_decided_by_patches(results):
    """Who can name training frames alone is not counted wrong for that on new ones."""
    chosen = [results.method(name, "all").chosen for name in ("naive Bayes", "kNN")]
    assert all("frames by patches" in settings for settings in chosen)


def test_an_encoder_that_has_learned_nothing_is_seen_to_lose(tmp_path):
    """Random weights lose to every baseline, stated first; half the frames have patches."""
    prepared = thinned_targets(prepared_set(n_frames=240, rate_hz=20.0, n_repeats=4), 2)
    data, parts = prepared.windows(LAG_NS)
    torch.manual_seed(0)
    encoder = PatchEncoder(EncoderSpec.tiny(data.n_units, GRID))
    scaling = measure_scaling(data, parts.train)
    results = evaluate_encoder(prepared, data, parts, encoder, scaling)
    assert results.period_s == {"natural_movie_one": pytest.approx(FRAME_NS / 1e9)}
    assert results.drawn == "runs of 1 s of movie time from 1 held-out group"
    assert results.method("naive Bayes").is_above_chance
    for baseline in BASELINES:
        assert results.against(baseline).verdict("cosine") == "behind"
        assert results.against(baseline).verdict("skill") == "behind"
    sentences = verdict(results, BASELINES)
    assert len(sentences) == len(BASELINES) * len(HEADLINES)
    assert sentences[0].startswith("The encoder LOSES to naive Bayes in cosine:")
    text = write_report(tmp_path, results).read_text(encoding="utf-8")
    assert "the encoder **loses to** naive Bayes (cosine, skill" in text.splitlines()[2]
    assert "## Frames seen in training" not in write_report(
        tmp_path, replace(results, n_unseen=1)
    ).read_text(encoding="utf-8")
    assert "## Frames seen in training" in text
    assert evaluate_encoder(prepared, data, parts, encoder, scaling) == results


def test_an_encoder_that_wins_is_seen_to_win(results):
    """The same sentences say so the other way round, where the numbers do."""
    ahead = {name: Interval(0.2, 0.1, 0.3) for name in METRICS}
    better = replace(
        results,
        ahead=tuple(
            PairedDifference(
                lead.other, lead.population, ahead | {"patch_mse": Interval(-1, -2, -0.5)}
            )
            for lead in results.ahead
        ),
    )
    assert better.against("kNN").verdict("patch_mse") == "ahead"
    assert better.against("kNN").verdict("rank") == "behind"
    text = summary(better, BASELINES)
    assert "**is ahead of** naive Bayes (cosine, skill, within 1 s), ridge" in text
    assert "loses" not in text
    assert all("is ahead of" in sentence for sentence in verdict(better, BASELINES))
    tie = PairedDifference("kNN", "all", {"skill": Interval(0.2, -0.1, 0.3)})
    assert tie.verdict("skill") == "not told apart"


def with_populations(results: EncoderResults, low_of: dict[str, dict[str, float]]):
    """Return results whose methods are above chance, by population, where `low_of` is above 0."""
    encoder = results.method("encoder")
    populations = []
    for population, low in low_of.items():
        for name in ("encoder", *BASELINES):
            score = Interval(0.1, low.get(name, -0.1), 0.3)
            scores = encoder.scores | {"within_1s_above_chance": score}
            populations.append(replace(encoder, name=name, population=population, scores=scores))
    return replace(results, populations=tuple(populations))


def test_an_area_is_blind_only_if_every_method_is_at_chance(results):
    """Where a baseline is above chance, the report says that the encoder alone is not."""
    planted = with_populations(
        results,
        {
            "area:CA1": {},
            "area:LP": {},
            "area:VISl": {"ridge": 0.05},
            "area:VISam": {"ridge": 0.05},
            "area:LGd": {"naive Bayes": 0.01, "kNN": 0.02},
            "area:VISp": {"encoder": 0.05},
        },
    )
    assert chance_findings(planted) == [
        "In area:VISl and area:VISam the encoder is at chance within 1 s and ridge is not.",
        "In area:LGd the encoder is at chance within 1 s and naive Bayes and kNN are not.",
        "No better than chance within 1 s, by any method: area:CA1, area:LP.",
    ]
    assert chance_findings(with_populations(results, {"area:VISp": {"encoder": 0.05}})) == []
    unknown = with_populations(results, {"area:CA1": dict.fromkeys(BASELINES, float("nan"))})
    assert chance_findings(unknown) == []


def test_too_little_held_out_is_said_once(tmp_path):
    """One run of a second: no interval, no verdict, and one sentence for all of it."""
    prepared = prepared_set(n_frames=30, n_repeats=4, rate_hz=20.0)
    data, parts = prepared.windows(LAG_NS)
    encoder = PatchEncoder(EncoderSpec.tiny(data.n_units, GRID))
    scaling = measure_scaling(data, parts.train)
    results = evaluate_encoder(prepared, data, parts, encoder, scaling)
    assert results.n_drawn == 1
    assert not results.has_intervals
    probes = fit_probes(prepared, data, parts, encoder, scaling, concepts=["car"])
    score = Interval(0.25, float("nan"), float("nan"))
    test = ConfidenceTest("all", 23, score, score, score, Reliability((0.2,), (0.3,), (23,)))
    selective = SelectiveAccuracy((0.5, 1.0), (0.3, 0.2), score, score)
    confidence = FittedConfidence(None, "", 46, 2, 23, test, selective, (test,))
    text = write_report(tmp_path, results, probes, confidence).read_text(encoding="utf-8")
    assert text.splitlines()[2].startswith("**Too little was held out for a verdict.** Intervals")
    assert "and there is only 1, so" in text
    assert {word: text.count(word) for word in ("verdict", "at chance", "nterval", "95 %")} == {
        "verdict": 1, "at chance": 1, "nterval": 1, "95 %": 0,
    }  # fmt: skip
    assert verdict(results, BASELINES) == []
    for method in results.populations:
        own = f"| {method.population} | {method.n_units} | {method.name} | "
        assert own + f"{method.scores['cosine'].value:.3f} | " in text
    assert "| all | 23 | 0.250 | 0.250 | 0.250 |" in text
    assert "| within 1 s | encoder, naive Bayes, ridge, kNN | 1.000 | 1.000 |" in text
    assert "(`neurrate train --help` lists them)" not in text


def test_what_is_best_on_seen_frames_follows_from_the_scores(results):
    """The best of each score is named, and the advice is by who is ahead of whom."""
    seen = replace(results, n_unseen=0)
    lead, trail = Interval(0.2, 0.1, 0.3), Interval(-0.2, -0.3, -0.1)

    def with_leads(**of: dict[str, Interval]) -> EncoderResults:
        ahead = [
            replace(one, differences=one.differences | dict.fromkeys(HEADLINES, lead))
            if one.other not in of
            else replace(one, differences=one.differences | of[one.other])
            for one in seen.ahead
        ]
        better: EncoderResults = replace(seen, ahead=tuple(ahead))
        return better

    assert seen_frames(results, BASELINES, "patches") == []
    text = seen_frames(with_leads(), BASELINES, "patches")
    for metric in HEADLINES:
        methods = [seen.method(name) for name in ("encoder", *BASELINES)]
        best = max(methods, key=lambda method: method.scores[metric].value)
        own = seen.method("encoder").scores[metric]
        assert f"| {METRICS[metric]} | {best.name} | {best.scores[metric]} | {own} |" in text
    assert text[-1].startswith("No baseline is ahead of the encoder (variant patches) here.")
    behind = with_leads(ridge={"cosine": trail, "skill": lead, "within_1s": trail})
    advice = seen_frames(behind, BASELINES, "patches")[-1]
    assert advice.startswith(
        "Ahead of the encoder (variant patches) here: ridge (cosine, within 1 s). These choose"
    )
    assert "`--architecture evidence`, the default" in advice
    assert "| score | best | its score | encoder |" in seen_frames(seen, BASELINES, "")


def test_results_are_json(results):
    """Every score comes back; what is no number is null."""
    tree = json.loads(json.dumps(results.to_json(), allow_nan=False))
    assert tree["methods"][0]["scores"]["skill"]["value"] == pytest.approx(
        results.methods[0].scores["skill"].value
    )
    assert None in tree["over_time"]["accuracy"]["encoder"]


def test_the_report_shows_what_there_is(results, tmp_path):
    """Tables, pictures and, where training left them, its curves."""
    (tmp_path / "curves.png").write_bytes(b"")
    text = write_report(tmp_path, results).read_text(encoding="utf-8")
    for name in ("methods.png", "populations.png", "over_time.png", "decoded.png", "curves.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).exists()
    assert "lag.png" not in text
    assert "| area:CA1 | 8 | encoder |" in text
    assert "*chance*" in text
    assert set(COLOURS) == {method.name for method in results.methods}
