"""A journal as a source: the same spikes bit for bit, holes and runs included."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from contracts import wire
from contracts.clock import HostClock
from contracts.errors import UserError
from contracts.journal import part_name
from contracts.spikes import Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from stream_sources.journal import JournalSource
from stream_sources.player import play
from stream_sources.publisher import SpikePublisher
from stream_sources.source import hello_of
from subscribers.listener import ANY_NUMBER, Listener
from tests.support.journals import BATCH_NS, batch, packed, population, sent, write_journal

OTHER_RUN = "f" * 16


def of_run(messages: Sequence[SourceMessage], run: str) -> list[tuple[bytes, ...]]:
    """Return what messages are on the wire, as if they were of one run."""
    return [packed(one, run=run) for one in messages]


def test_batches_and_marks_are_those_that_were_recorded(tmp_path: Path):
    """Every byte but the run's name, in the order of arrival."""
    source = JournalSource(write_journal(tmp_path / "j", list(sent(40, first=7))))
    again = [one for one in source.in_order() if not isinstance(one, Hello)]
    recorded = [one for one in sent(40, first=7) if not isinstance(one, Hello)]
    assert of_run(again, source.run) == of_run(recorded, source.run)
    assert next(iter(source.batches())).seq == source.next_seq == 7
    assert [mark.presentation_id for mark in source.marks()] == [10, 20, 30, 40]
    assert (source.label, source.population.fingerprint) == (
        "journal:nwb:1",
        population().fingerprint,
    )
    assert source.n_unreadable == 0


def test_subscriber_of_a_replay_sees_what_the_recorder_saw(tmp_path: Path):
    """Over a socket: numbers, holes, marks and the recorded totals."""
    recorded = [one for one in sent(30, first=3) if getattr(one, "seq", 0) not in {9, 10}]
    source = JournalSource(write_journal(tmp_path / "j", recorded))
    with zmq.Context() as context:
        publisher = SpikePublisher(
            context, "tcp://127.0.0.1:*", hello_of(source), HostClock(), is_lossless=True
        )
        with Listener(publisher.endpoint, (b"",), setting="test", queue=ANY_NUMBER) as listener:
            report = play(source, publisher, HostClock(), speed=None, wait_for_subscribers=1)
            values: list[SourceMessage] = []
            while not values or not isinstance(values[-1], StreamEnd):
                for received in listener.messages(wait_ms=1000):
                    assert isinstance(received.value, (Hello, SpikeBatch, Mark, StreamEnd))
                    values.append(received.value)
        publisher.close()
    hellos = [value for value in values if isinstance(value, Hello)]
    assert hellos[0].next_seq == 3
    others = [value for value in values if not isinstance(value, Hello)]
    expected = [one for one in recorded if not isinstance(one, Hello)]
    assert len(others) == len(expected)
    for other, one in zip(others, expected, strict=True):
        again = packed(other, run=source.run, sent_host_ns=0)
        assert again == packed(one, run=source.run, sent_host_ns=0)
    assert (report.n_batches, report.n_spikes, report.n_marks) == (28, 28 * 20, 3)


def test_runs_follow_each_other_under_new_names(tmp_path: Path):
    """A source that was restarted is replayed with a restart; both totals are counted."""
    messages = [*sent(12, ends=False), *sent(5, run=OTHER_RUN)]
    source = JournalSource(write_journal(tmp_path / "j", messages))
    again = list(source.in_order())
    hellos = [one for one in again if isinstance(one, Hello)]
    assert len({hello.run for hello in hellos}) == 2
    assert hellos[0].run == source.run
    assert [one.seq for one in again if isinstance(one, SpikeBatch)] == [*range(12), *range(5)]
    assert isinstance(again[-1], StreamEnd)
    assert again[-1].run == hellos[1].run


def test_cut_journal_is_played_to_its_last_whole_message_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What is left is a prefix, and the log names the part."""
    folder = write_journal(tmp_path / "j", list(sent(90)))
    path = folder / part_name(0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        source = JournalSource(folder)
    assert "part-00000.mcap was not closed" in caplog.text
    seqs = [one.seq for one in source.batches()]
    assert 0 < len(seqs) < 90
    assert seqs == list(range(len(seqs)))


def test_parts_are_one_recording(tmp_path: Path):
    """A journal of many small parts plays as one, and each part plays alone."""
    folder = write_journal(tmp_path / "j", list(sent(90)), part_bytes=2000)
    n_parts = len(list(folder.iterdir()))
    assert n_parts >= 4
    assert [one.seq for one in JournalSource(folder).batches()] == list(range(90))
    alone = [
        one.seq
        for number in range(n_parts - 1)
        for one in JournalSource(folder / part_name(number)).batches()
    ]
    assert alone[:60] == list(range(60))


def test_interval_is_cut_at_whole_batches(tmp_path: Path):
    """--start and --seconds choose the batches that lie in the interval at least in part."""
    folder = write_journal(tmp_path / "j", list(sent(50)))
    source = JournalSource(folder, start_s=0.105, duration_s=0.1)
    assert [one.start_ns // BATCH_NS for one in source.batches()] == list(range(10, 21))
    assert source.next_seq == 10
    assert [mark.frame for mark in source.marks()] == [10, 20]
    with pytest.raises(UserError, match="has no spikes in the interval"):
        JournalSource(folder, start_s=100.0)


def test_one_of_several_streams_is_chosen(tmp_path: Path):
    """Two probes are two streams; nothing of the other one is sent."""
    messages = [*sent(5), *sent(7, stream="probeB", run=OTHER_RUN)]
    folder = write_journal(tmp_path / "j", messages)
    source = JournalSource(folder, stream="probeB")
    assert [one.stream for one in source.batches()] == ["probeB"] * 7
    with pytest.raises(UserError, match="several streams"):
        JournalSource(folder)
    with pytest.raises(UserError, match="no stream 'probeC'"):
        JournalSource(folder, stream="probeC")


def test_journal_without_a_source_says_what_to_do(tmp_path: Path):
    """Batches of a run that never said hello cannot be placed."""
    folder = write_journal(tmp_path / "j", [batch(0), batch(1)])
    with pytest.raises(UserError, match="--spikes"):
        JournalSource(folder)


def test_messages_that_break_the_format_are_not_sent_again(tmp_path: Path):
    """They are in the journal as they came, and are counted."""
    messages = list(sent(5, ends=False))
    messages += [batch(5, run=OTHER_RUN), replace(batch(6), seq=6)]
    source = JournalSource(write_journal(tmp_path / "j", messages))
    assert [one.seq for one in source.batches()] == [0, 1, 2, 3, 4, 6]
    assert source.n_unreadable == 1


def test_marks_keep_their_place(tmp_path: Path):
    """A mark comes before the batch in which it begins, also before the first."""
    source = JournalSource(write_journal(tmp_path / "j", list(sent(11))))
    kinds = [type(one) for one in source.in_order()]
    assert kinds[:3] == [Hello, Mark, SpikeBatch]
    assert kinds[-3:] == [Mark, SpikeBatch, StreamEnd]
    assert all(wire.pack(one) for one in source.in_order())
