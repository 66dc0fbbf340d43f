"""What was received and lost, by numbers that messages carry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.daemon_json import pack_daemon
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.narration_wire import as_repeat, pack_narration
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello, SpikeBatch
from neurrate.cli import main
from subscribers.recorder.accounting import MAX_TOPICS, Accountant, accounts_of
from tests.support.journals import ADDRESS, RUN, batch, packed, population, sent, write_journal
from tests.support.narrations import narration

DAEMON = "tcp://127.0.0.1:5571"


def admit_all(accountant: Accountant, messages: object) -> None:
    for message in messages:  # type: ignore[attr-defined]
        assert accountant.admit(Origin.SOURCE, ADDRESS, packed(message))


def test_every_missing_number_is_counted():
    """Batches lost before the first, in between and before the end; none twice."""
    accountant = Accountant()
    messages = [
        one
        for one in sent(20, first=5)
        if not (isinstance(one, SpikeBatch) and one.seq in {5, 11, 12, 23, 24})
    ]
    admit_all(accountant, messages)
    accounts = accountant.accounts
    assert accounts.holes == {"spikes": 5}
    assert accounts.received == {"hello": 1, "mark": 2, "spikes": 15, "end": 1}
    assert accounts.n_spikes == 15 * 20


def test_what_was_sent_before_the_recorder_came_is_not_lost():
    """The hello states the number that the next batch has; a second hello changes nothing."""
    accountant = Accountant()
    hello = Hello("probeA", RUN, "nwb:1", population(), next_seq=1000)
    admit_all(accountant, [hello, batch(1000), replace(hello, next_seq=1001), batch(1001)])
    assert not accountant.accounts.holes


def test_new_run_begins_anew():
    """A source that restarts from zero has lost nothing."""
    accountant = Accountant()
    admit_all(accountant, [*sent(5), *sent(3, run="f" * 16)])
    assert not accountant.accounts.holes


def test_lossless_sources_are_remembered():
    """They may be held while the disk is slow."""
    accountant = Accountant()
    admit_all(accountant, [Hello("probeA", RUN, "nwb:1", population(), is_lossless=True)])
    assert accountant.lossless == {ADDRESS}


def test_narrations_are_written_once_and_their_holes_counted():
    """A repeat whose id is known is passed over; one of before the recorder came is kept."""
    accountant = Accountant()
    first, second, fourth = (pack_narration(narration(seq=seq)) for seq in (6, 7, 9))
    old = [first[0], as_repeat(first[1])]
    assert accountant.admit(Origin.DAEMON, DAEMON, old)
    assert accountant.admit(Origin.DAEMON, DAEMON, second)
    assert not accountant.admit(Origin.DAEMON, DAEMON, [second[0], as_repeat(second[1])])
    assert accountant.admit(Origin.DAEMON, DAEMON, fourth)
    assert accountant.accounts.holes == {"narration": 1}
    assert accountant.accounts.repeats == 1
    other = pack_narration(narration(seq=0, population="VISp"))
    assert accountant.admit(Origin.DAEMON, DAEMON, other)
    assert accountant.accounts.holes == {"narration": 1}


def test_marks_units_and_identity_are_written_once():
    """Last values that are sent again to newcomers are in the journal already."""
    mark = next(one for one in sent(1) if type(one).__name__ == "Mark")
    hello = Hello("probeA", RUN, "nwb:1", population())
    for parts in (
        pack_mark(mark),  # type: ignore[arg-type]
        pack_units(hello),
        pack_daemon(bundle="0" * 64, settings={"a": 1}, host_ns=5),
    ):
        accountant = Accountant()
        assert accountant.admit(Origin.DAEMON, DAEMON, [parts[0], as_repeat(parts[1])])
        assert not accountant.admit(Origin.DAEMON, DAEMON, [parts[0], as_repeat(parts[1])])
        assert accountant.admit(Origin.DAEMON, DAEMON, parts)
        assert not accountant.admit(Origin.DAEMON, DAEMON, [parts[0], as_repeat(parts[1])])


def test_unreadable_messages_are_written_all_the_same():
    """A message of another version is evidence too."""
    accountant = Accountant()
    assert accountant.admit(Origin.SOURCE, ADDRESS, (b"spikes.probeA", b"\x81", b"", b""))
    assert accountant.admit(Origin.DAEMON, DAEMON, (b"narration.all", b'{"id":7}'))
    assert accountant.admit(Origin.DAEMON, DAEMON, (b"narration.all", b"[" * 9000))
    assert accountant.accounts.unreadable == 3


def test_foreign_topics_are_refused():
    """A journal has a channel for each topic, so that their number is bounded."""
    accountant = Accountant()
    for parts in ((b"\xff.x", b""), (b"spikes.a b", b""), (b"a" * 1000, b""), (b"stats",)):
        assert not accountant.admit(Origin.SOURCE, ADDRESS, parts)
    for number in range(MAX_TOPICS + 5):
        accountant.admit(Origin.SOURCE, ADDRESS, (f"x.{number}".encode(), b""))
    assert accountant.accounts.refused == 4 + 5


def test_holes_between_recorders_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A recorder that was killed is continued by the next: what neither has is missing."""
    messages = list(sent(50))
    write_journal(tmp_path, messages[:20], closes=False, flush_every=10)
    write_journal(tmp_path, [messages[0], *messages[30:]])
    n_missing = sum(isinstance(message, SpikeBatch) for message in messages[20:30])
    accounts = accounts_of(JournalReader(tmp_path))
    assert accounts.holes == {"spikes": n_missing}
    assert accounts.received["spikes"] == 50 - n_missing
    assert main(["journal", "check", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"'spikes': {n_missing}" in shown
    assert "part-00000.mcap was not closed" in shown
