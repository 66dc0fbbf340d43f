"""docs/faults.md: what was observed of each fault, and what the kills counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evaluation.faults.case import SECTIONS, FaultResult
from evaluation.faults.kills import PROCESSES, RoundCounts, totals

HEADER = """<!-- Made by `python scripts/faults.py`; do not edit. -->

# Faults

What happens when something around the daemon, or a part of it, fails. Each line was tried on real
processes: a source (`neurrate stream`), the daemon (`neurrate run`) and subscribers, on a small
recording; logs, sentences and counters are quoted from that run, and the script fails if one of
them is not as expected. Where the daemon goes on, narrations go on; no case leaves a process, and
no hostile peer makes the daemon larger by 100 MB. Counters are explained in
[metrics.md](metrics.md), exit codes in [exit-codes.md](exit-codes.md). Tests are below `tests/`.
"""

COLUMNS = ("fault", "what the operator sees", "what is counted", "what is lost", "test")

KILLS_TITLE = "## kill -9 at random moments"

KILLS = """
{title}

{date}, `{command}`. Each process was killed with SIGKILL {n} times or more. A round
kills a daemon, {n_starting} of {n} while it started and the others while they narrated, then the
source, the recorder, the narrator worker and a subscriber of its successor in random order, starts
each again, and ends source, daemon and recorder gently; some recorders were killed again while they
started. After each round no process of it was left, and no file, socket or shared memory. Seeds
{first} to {last}; {seconds:.0f} s of rounds.

| process | killed | left behind after the next start | back again |
|---|---|---|---|
"""

SPIKES = """
Daemons which lived to the end: {received:,} spikes received = {binned:,} binned + {late:,} late +
{unknown:,} unknown, and {lost:,} batches were missing by their numbers; the statistics of those
that were killed add up in the same way. Every spike that a source sent between its start and its
end was received. A subscriber that was not killed saw each of the {narrations:,} narrations once,
without a hole in `seq`.

Every journal was readable, with whole messages in their order: {batches:,} of the {sent:,} batches
that sources sent, byte for byte, in {parts} parts, {unclosed} of them not closed. The other
{missing:,} were sent while no recorder ran, or less than a second before a kill: {lost_s:.2f} s
before that of a recorder at most. Holes in the numbers count {holes:,} of them; the rest are the
last ones of sources that were killed, behind which no number stands.
"""


def make_page(
    results: Sequence[FaultResult], rounds: Sequence[RoundCounts], *, date: str, command: str
) -> str:
    """Return the page."""
    lines = [HEADER, f"{date}, `{command}`: {len(results)} faults as expected."]
    for section, group in groupby(results, key=lambda result: result.case.section):
        lines += ["", f"## {SECTIONS[section]}", "", _row(COLUMNS), "|---" * len(COLUMNS) + "|"]
        lines += [_row(_cells(result)) for result in group]
    page = "\n".join(lines) + "\n"
    return with_kills(page, rounds, date=date, command=command) if rounds else page


def with_kills(page: str, rounds: Sequence[RoundCounts], *, date: str, command: str) -> str:
    """Return a page with the kills of these rounds."""
    before, _, _ = page.partition(KILLS_TITLE)
    return before.rstrip("\n") + "\n" + _kills(rounds, date, command)


def _cells(result: FaultResult) -> Sequence[str]:
    seen = result.observations
    tests = (f"`{test}`" for test in result.case.tests)
    return (
        result.case.title,
        "<br>".join(dict.fromkeys(seen.sees)),
        "<br>".join(dict.fromkeys(seen.counted)),
        "<br>".join(filter(None, (result.case.lost, *seen.lost))),
        "<br>".join(tests),
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _kills(rounds: Sequence[RoundCounts], date: str, command: str) -> str:
    total = totals(rounds)
    head = KILLS.format(
        title=KILLS_TITLE,
        date=date,
        command=command,
        n=len(rounds),
        n_starting=total.n_killed_while_starting,
        first=rounds[0].seed,
        last=rounds[-1].seed,
        seconds=total.seconds,
    )
    rows = [f"| {name} | {total.kills[name]} | 0 | {total.kills[name]} |" for name in PROCESSES]
    tail = SPIKES.format(
        **total.spikes,
        **total.recorded,
        lost=total.n_batches_lost,
        narrations=total.n_narrations,
        lost_s=total.lost_before_kill_s,
    )
    return head + "\n".join(rows) + "\n" + tail
