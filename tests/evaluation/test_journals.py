"""A journal compared with what was sent: losses at a kill, and those that nothing explains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.clock import NS_PER_S
from contracts.spikes import SourceMessage, SpikeBatch
from evaluation.journals import Missing, Outage, Sent, missing_from, read_journal
from tests.support.journals import sent as messages_sent
from tests.support.journals import write_journal

PERIOD_NS = NS_PER_S // 10


def stamped(message: SourceMessage) -> SourceMessage:
    """Return a batch with the time at which it was sent; anything else as it is."""
    if isinstance(message, SpikeBatch):
        return replace(message, sent_host_ns=NS_PER_S + message.seq * PERIOD_NS)
    return message


MESSAGES = [stamped(message) for message in messages_sent(50)]
OUTAGE = Outage(killed_ns=NS_PER_S + 20 * PERIOD_NS, again_ns=NS_PER_S + 24 * PERIOD_NS)


def compared(folder: Path, without: range, outages: tuple[Outage, ...], **changes) -> Missing:
    """Compare a journal that lacks some batches with what was sent."""
    kept = [
        replace(message, **changes) if changes and isinstance(message, SpikeBatch) else message
        for message in MESSAGES
        if not (isinstance(message, SpikeBatch) and message.seq in without)
    ]
    sent = Sent()
    for message in MESSAGES:
        if isinstance(message, SpikeBatch):
            sent.batches.add(message)
    journal = read_journal(write_journal(folder, kept))
    assert journal.accounts.holes["spikes"] == len(without)
    assert journal.batches.n_batches + len(without) == sent.batches.n_batches == 50
    return missing_from(journal, sent, outages)


def test_whole_journal_has_everything(tmp_path: Path):
    """Each batch with its stamp and its spikes."""
    assert compared(tmp_path, range(0), ()) == Missing()


@pytest.mark.parametrize(
    ("without", "n_unexplained", "lost_s"),
    [
        (range(17, 25), 0, 0.3),  # before the kill, and until the next recorder
        (range(8, 25), 2, 1.0),  # more than a second before
        (range(17, 37), 2, 0.3),  # long after the next recorder has begun
    ],
)
def test_losses_are_explained_by_a_kill(tmp_path: Path, without, n_unexplained, lost_s):
    """A second before it, and until the subscriptions of the next recorder."""
    missing = compared(tmp_path, without, (OUTAGE,))
    assert missing.n_batches == len(without)
    assert missing.n_spikes == 20 * len(without)
    assert missing.n_batches_unexplained == n_unexplained
    assert missing.lost_before_kill_s == pytest.approx(lost_s)


@pytest.mark.parametrize(
    ("without", "n_between"), [(range(10), 0), (range(40, 50), 0), (range(20, 25), 5)]
)
def test_only_holes_between_recorded_batches_show(tmp_path: Path, without, n_between):
    """Nothing tells a recorder of what was sent before it came, or after a source was killed."""
    sent = Sent()
    for message in MESSAGES:
        if isinstance(message, SpikeBatch):
            sent.batches.add(message)
    kept = [
        message
        for message in MESSAGES
        if isinstance(message, SpikeBatch) and message.seq not in without
    ]
    journal = read_journal(write_journal(tmp_path, kept))
    missing = missing_from(journal, sent, ())
    assert (missing.n_batches, missing.n_batches_between) == (len(without), n_between)
    assert journal.accounts.holes["spikes"] == n_between


def test_loss_without_a_kill_is_unexplained(tmp_path: Path):
    """Every batch of it."""
    assert compared(tmp_path, range(17, 25), ()).n_batches_unexplained == 8


def test_changed_batch_is_noticed(tmp_path: Path):
    """One that is not as it was sent, stamp included."""
    assert compared(tmp_path, range(0), (), sent_host_ns=1).n_changed == 50
