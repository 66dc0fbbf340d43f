"""The table of faults: its cases, and the page that is made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluation.faults.case import FaultCase, FaultResult
from evaluation.faults.cases import CASES
from evaluation.faults.kills import RoundCounts
from evaluation.faults.observations import ExpectationError, Observations, wait_for
from evaluation.faults.page import make_page, with_kills

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tests_of_the_table_exist(case: FaultCase):
    """Each line names tests that are there."""
    for test in case.tests:
        path, _, name = test.partition("::")
        assert re.search(rf"(?m)^def {name}", (TESTS / path).read_text(encoding="utf-8")), test


def test_page_quotes_what_was_observed():
    """Sentences, counters and losses of a case stand in its line; a bar breaks no table."""
    seen = Observations(["`a|b`"], ["`n_total` +1"], ["spikes: 2 sent, 2 received"])
    result = FaultResult(CASES[0], seen, error="", seconds=1.0)
    page = make_page([result], [], date="2026-01-02", command="python scripts/faults.py")
    (line,) = (line for line in page.splitlines() if CASES[0].title in line)
    assert line.startswith(f"| {CASES[0].title} | `a\\|b` | `n_total` +1 | ")
    assert "spikes: 2 sent, 2 received |" in line


def test_page_sums_up_the_rounds():
    """Kills, spikes and narrations of all rounds are added."""
    rounds = [RoundCounts(seed) for seed in (5, 6)]
    for one in rounds:
        one.kills.update(daemon=1, source=1, worker=1, subscriber=1, recorder=2)
        one.spikes.update(received=1500, binned=1499, late=1, unknown=0)
        one.n_narrations = 20
        one.recorded.update(
            sent=500, batches=450, missing=50, holes=40, parts=2 + one.seed % 2, unclosed=1
        )
        one.lost_before_kill_s = one.seed / 10
    page = make_page([], rounds, date="2026-01-02", command="python scripts/faults.py")
    assert "3,000 spikes received = 2,998 binned" in page
    assert "| worker | 2 | 0 | 2 |" in page
    assert "each of the 40 narrations" in page
    again = with_kills(
        page, rounds, date="2026-01-03", command="python scripts/faults.py --only-kills"
    )
    assert again.startswith(page.partition("## kill -9")[0])
    assert again.endswith(page.partition("Each process was killed")[2])
    assert "2026-01-03, `python scripts/faults.py --only-kills`. Each process" in again
    assert "| recorder | 4 | 0 | 4 |" in page
    assert "900 of the 1,000 batches" in page
    assert "in 5 parts, 2 of them not closed" in page
    assert "0.60 s\nbefore that of a recorder at most. Holes in the numbers count 80" in page


def test_missing_observation_says_what_was_expected():
    """A case fails with what was not seen."""
    with pytest.raises(ExpectationError, match="not seen within 0 s: a log line"):
        wait_for(lambda: None, lambda: "a log line", deadline_s=0)
