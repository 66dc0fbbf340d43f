"""Traces, sweeps, tables and the picture of a dry run, from scores made by hand."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.narration import Status
from daemon.triggers.rule_file import RuleBook
from daemon.triggers.rules import Rule
from evaluation.triggers import picture as triggers_picture
from evaluation.triggers.picture import check_picture, write_picture
from evaluation.triggers.report import (
    DryRun,
    RuleScore,
    ScoredRule,
    count_rows,
    latency_rows,
    notes,
    score_rows,
)
from evaluation.triggers.score_trace import Trace, best_of, narration_traces, sweep
from evaluation.triggers.scoring import (
    AnnotatedConcept,
    bootstrap_scores,
    chance_by_shifts,
    find_events,
    match,
)
from tests.support.narrations import narration
from tests.support.triggers import rule

S = 1_000_000_000
MS = 1_000_000
CAR = rule('probe "car" of all > 0.8', "car_seen", release=0.6)
EVENTS = ((2 * S, 4 * S), (10 * S, 12 * S), (20 * S, 22 * S))
CONCEPT = find_events(EVENTS, ((0, 30 * S),), tolerance_ns=300 * MS)


def _trace(high: dict[tuple[float, float], float], low: float = 0.1) -> Trace:
    """Return ten scores a second for 30 s: `low`, but in some stretches higher."""
    stop_ns = np.arange(1, 301, dtype=np.int64) * 100 * MS
    score = np.full(300, low)
    for (start_s, stop_s), value in high.items():
        score[(stop_ns >= start_s * S) & (stop_ns < stop_s * S)] = value
    return Trace(np.arange(300, dtype=np.int64), stop_ns, score, np.ones(300, np.bool_))


TRACE = _trace({(2.2, 4.2): 0.9, (10.2, 12.2): 0.7, (20.2, 22.2): 0.95, (15, 15.5): 0.5})


def _scored(each: Rule, trace: Trace, concept: AnnotatedConcept = CONCEPT) -> RuleScore:
    times = trace.stop_ns[trace.fired(each.level)].tolist()
    return RuleScore(
        rule=each,
        times_ns=tuple(times),
        host_ms={"p50": 4.0, "p95": 6.0, "p99": 7.0, "max": 8.0, "n": 2},
        trace=trace,
        n_fired=len(times),
        n_again=len(times),
        n_same=len(times),
        is_computed=False,
        result=ScoredRule(
            concept=concept,
            outcome=match(concept, times),
            scores=bootstrap_scores(concept, times),
            chance=chance_by_shifts(concept, times, n_shifts=50),
            swept=sweep(each, trace, concept),
        ),
    )


def _report(*rules: RuleScore, **changes: Any) -> DryRun:
    return replace(
        DryRun(
            command="neurrate triggers score s.nwb",
            recording="s.nwb",
            bundle="b" * 64,
            truth="the recording's captions",
            speed="max",
            mode="sequential",
            played=(0, 30 * S),
            annotated=((0, 30 * S),),
            counters={"windows": 300, "dropped": {"not_selected": 299}, "likeness_dropped": 0},
            rules=rules,
        ),
        **changes,
    )


def _unscored() -> RuleScore:
    return replace(_scored(CAR, TRACE), result="nobody knows", rule=replace(CAR, name="lost"))


def test_a_trace_fires_where_the_daemon_does():
    """The same state machine: once per crossing, with the release between."""
    assert TRACE.stop_ns[TRACE.fired(CAR.level)].tolist() == [2200 * MS, 20_200 * MS]


def test_a_sweep_tries_other_thresholds_with_the_release_as_far_away():
    """Two of three events score above 0.8; a threshold below 0.7 and above 0.5 hears all three."""
    swept = sweep(CAR, TRACE, CONCEPT)
    of = {each.threshold: each.counts for each in swept}
    assert list(of) == sorted(of)
    assert (of[0.8].n_hits, of[0.8].n_false_alarms) == (2, 0)
    best = best_of(swept, 0.8)
    assert best is not None
    assert 0.5 <= best.threshold < 0.7
    assert (best.counts.n_hits, best.counts.n_false_alarms) == (3, 0)
    # Of several thresholds with the same score it is the one nearest to the rule's own.
    equal = [each.threshold for each in swept if each.counts.f1 == 1]
    assert best.threshold == max(equal)


def test_a_word_has_no_thresholds():
    """It is said or not."""
    said = rule('narration of all says "car"')
    assert sweep(said, _trace({(2, 4): 1.0}, low=0.0), CONCEPT) == ()
    assert best_of((), 0.5) is None


def test_a_sweep_of_a_rule_for_what_goes_away():
    """A rule with < is swept as one: the release lies above each threshold."""
    gone = rule('probe "car" of all < 0.3', release=0.5)
    concept = find_events(EVENTS, ((0, 30 * S),), tolerance_ns=300 * MS, is_above=False)
    of = {each.threshold: each.counts for each in sweep(gone, TRACE, concept)}
    assert (of[0.3].n_hits, of[0.3].n_false_alarms) == (3, 0)
    assert min(each.n_hits for each in of.values()) == 0


def test_scores_that_are_no_numbers_are_none():
    """A window whose encoder failed neither fires nor counts as a threshold."""
    trace = replace(TRACE, score=np.full(300, np.nan))
    assert len(trace.fired(CAR.level)) == 0
    assert sweep(CAR, trace, CONCEPT) == ()


def test_narrations_become_traces():
    """In the order of publication, since they may overtake; failed and other ones are left out."""
    book = RuleBook((rule('narration of all says "dogs"', "dog_said"),), {})
    found = narration_traces(
        book,
        [
            narration(seq=1, text="A car drives.", total_ms=90),
            narration(seq=3, text="A dog runs.", total_ms=60),
            narration(seq=2, status=Status.FAILED, text=""),
            narration(seq=4, population="VISp", text="A dog."),
            narration(seq=5, text="A street without dogs.", total_ms=120),
        ],
    )["dog_said"]
    assert found.seq.tolist() == [3, 1, 5]
    assert found.score.tolist() == [1, 0, 0]
    assert found.stop_ns.tolist() == [1750 * MS, 750 * MS, 2750 * MS]


def test_tables_say_every_rule():
    """Counts, scores with intervals, latencies; a rule that is not scored has a latency alone."""
    rules = [_scored(CAR, TRACE), _unscored()]
    (counts,) = count_rows(rules)
    assert counts == {
        "rule": "car_seen", "events": 3, "hits": 2, "misses": 1, "repeats": 0,
        "false alarms": 0, "a minute": "0.00",
    }  # fmt: skip
    (scores,) = score_rows(rules)
    assert str(scores["precision"]).startswith("1.00 (1.00 to 1.00)")
    assert str(scores["recall"]).startswith("0.67 (")
    assert str(scores["F1"]).startswith("0.80 (")
    first, second = latency_rows(rules)
    assert (first["delay p50, s"], first["host p99, ms"]) == ("0.20", "7.00")
    assert (second["delay p50, s"], second["host p50, ms"]) == ("-", "4.00")


def test_notes_say_what_the_figures_rest_on():
    """Suggestion, tolerance, truth, reasons, and every doubt."""
    scored = _scored(CAR, TRACE)
    lines = "\n".join(notes(_report(scored, _unscored())))
    assert "would have the best F1 on this recording (1.00; > 0.8 has 0.80)" in lines
    assert "0.300 s after it" in lines
    assert "Not scored: lost: nobody knows." in lines
    assert "those of --speed max" in lines
    odd = replace(scored, n_again=5)
    counters = {
        "windows": 300, "dropped": {"encoder_busy": 7, "not_selected": 3}, "likeness_dropped": 4,
    }  # fmt: skip
    whole = replace(scored, is_computed=True, rule=replace(CAR, name="like"))
    report = _report(odd, whole, speed="1", counters=counters)
    lines = "\n".join(notes(report))
    assert "car_seen fired 2 times in the daemon and 5 times here" in lines
    assert "7 encoder_busy" in lines
    assert "not_selected" not in lines
    assert "like: the sentence model cannot compare" in lines
    assert "--speed 1 gives" not in lines


def test_a_threshold_that_is_best_already_is_left_alone():
    """The suggestion says so."""
    best = rule('probe "car" of all > 0.6', "car_seen")
    assert "its own threshold 0.6 has the best F1, 1.00" in _scored(best, TRACE).suggestion
    assert _unscored().suggestion == ""


def test_json_holds_everything_and_no_nan():
    """A rule that never fired has null where there is no number."""
    silent = _scored(rule('probe "car" of all > 0.99', "silent"), TRACE)
    report = _report(_scored(CAR, TRACE), silent, _unscored()).to_json()
    text = json.dumps(report, allow_nan=False)
    first, second, third = json.loads(text)["rules"]
    assert (first["n_hits"], first["n_misses"], first["scores"]["recall"]["value"]) == (2, 1, 2 / 3)
    assert first["heard_after_s"] == {"p50": 0.2, "p95": 0.2, "n": 2}
    assert first["triggers_s"] == [2.2, 20.2]
    assert first["luck"]["n_shifts"] == 50
    assert {each["threshold"] for each in first["sweep"]} >= {0.8, first["best_threshold"]}
    assert second["scores"]["precision"]["value"] is None
    assert second["luck"] is None
    assert third["not_scored"] == "nobody knows"
    assert "n_events" not in third


def test_picture_has_every_part(tmp_path: Path):
    """A row for each rule: what was there, its score, its triggers, latencies and thresholds."""
    path = tmp_path / "rules.svg"
    few_known = _report(_scored(CAR, TRACE), _unscored(), annotated=((0, 12 * S), (14 * S, 30 * S)))
    write_picture(path, few_known)
    ET.parse(path)
    written = path.read_text()
    # The library writes each text as glyphs, with the text itself in a comment.
    for text in (
        "car_seen", "precision 1.00, recall 0.67, F1 0.80", "session time, s", "concept shown",
        "not annotated", "false alarm", "release", "hits, s after onset; median 0.20",
        "precision over recall", "not scored", "no hits", "no thresholds",
    ):  # fmt: skip
        assert text in written, text


def test_a_rule_whose_concept_never_came_is_scored_on_false_alarms(tmp_path: Path):
    """Precision is 0, recall has no meaning, and there is nothing to suggest."""
    empty = find_events((), ((0, 30 * S),), tolerance_ns=300 * MS)
    scored = _scored(CAR, TRACE, empty)
    (counts,), (scores,) = count_rows([scored]), score_rows([scored])
    assert (counts["events"], counts["false alarms"]) == (0, 2)
    assert (scores["precision"], scores["recall"], scores["F1 by chance"]) == ("0.00", "-", "-")
    assert scored.suggestion == ""
    write_picture(tmp_path / "rules.svg", _report(scored))
    assert "precision 0.00, recall -, F1 0.00" in (tmp_path / "rules.svg").read_text()


def test_only_so_many_rules_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rest is said in the title."""
    monkeypatch.setattr(triggers_picture, "MAX_RULES", 1)
    path = tmp_path / "rules.svg"
    write_picture(path, _report(*[_unscored()] * 3))
    assert "2 rules more are not drawn" in path.read_text()


def test_pictures_are_files_of_a_known_kind(tmp_path: Path):
    """Said before the replay, not after it."""
    check_picture(None)
    check_picture(tmp_path / "rules.PNG")
    with pytest.raises(UserError, match=r"must end in .png, .svg, .pdf"):
        check_picture(tmp_path / "rules.jpg")
    with pytest.raises(UserError, match="there is no folder"):
        check_picture(tmp_path / "nowhere" / "rules.png")


def test_delay_is_from_the_first_frame_to_the_end_of_the_window():
    """Window, lag and dwell are in it; the host's latency is not."""
    assert _scored(CAR, TRACE).delays_s == (0.2, 0.2)
