"""A journal on the disk: chunks, parts, and what happens when the disk has no more room."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace

import jsonschema
import pytest

from contracts.daemon_json import pack_daemon
from contracts.errors import UserError
from contracts.journal import Identity, Origin, part_name
from contracts.journal_reader import JournalReader
from contracts.narration_wire import load
from contracts.schemas import schema_of
from contracts.spikes import Hello
from subscribers.recorder import journal_writer
from subscribers.recorder.journal_writer import PART_NS, JournalWriter, Taken
from subscribers.recorder.part_file import PartFile
from subscribers.recorder.write_thread import FLUSH_NS, WriteThread
from tests.support.journals import (
    WALL_NS,
    batch,
    of_source,
    packed,
    read_journal,
    sent,
    write_journal,
)
from tests.support.manual_clock import ManualClock
from tests.support.wait_until import wait_until


def writer_to(folder: Path, clock: ManualClock, **options: int) -> JournalWriter:
    options = {"part_bytes": 1 << 30, "min_free_bytes": 1, **options}
    return JournalWriter(folder, clock, wall_ns=lambda: WALL_NS, **options)


def last_words(clock: ManualClock) -> Taken:
    return Taken(Origin.RECORDER, "", clock.now_ns(), (b"recorder", b'{"state":"stopping"}'))


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond a size: a full disk without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_flushed_survives_without_a_close(tmp_path: Path):
    """The journal of a process that was killed holds every message up to its last flush."""
    messages = list(sent(60))
    folder = write_journal(tmp_path / "j", messages, closes=False)
    reader = JournalReader(folder)
    assert [one.parts for one in reader.messages()] == [packed(one) for one in messages[:50]]
    assert [part.n_bytes_ignored for part in reader.unclosed] == [0]


def test_flush_is_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each flush waits for the disk with all of its bytes written, and a new name too."""
    synced: list[tuple[str, int]] = []

    def note(descriptor: int) -> None:
        synced.append(_sized(descriptor))

    monkeypatch.setattr(os, "fdatasync", note)
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock)
    path = tmp_path / "j" / part_name(0)
    for seq in range(3):
        writer.add(of_source(batch(seq), clock.now_ns()))
        writer.flush()
        assert synced[-1] == (path.name, path.stat().st_size)
        assert len(read_journal(path)) == seq + 1
    writer.close()
    assert synced[-1] == (path.name, path.stat().st_size)


def _sized(descriptor: int) -> tuple[str, int]:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name, os.fstat(descriptor).st_size


def test_each_part_has_what_is_needed_to_read_it(tmp_path: Path):
    """The newest hello and the daemon's identity are written again at its beginning."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock, part_bytes=1500)
    identity = pack_daemon(bundle="0" * 64, settings={"x": 1}, host_ns=3)
    writer.add(Taken(Origin.DAEMON, "tcp://127.0.0.1:1", clock.now_ns(), tuple(identity)))
    for message in sent(30):
        writer.add(of_source(message, clock.now_ns()))
        writer.flush()
    writer.close()
    assert writer.n_parts == len(list((tmp_path / "j").iterdir())) >= 3
    for path in sorted((tmp_path / "j").iterdir())[1:]:
        first = read_journal(path)[:2]
        assert {one.kind for one in first} == {"daemon", "hello"}
    identities = _identities(tmp_path / "j")
    assert [one.part for one in identities] == list(range(writer.n_parts))
    assert {one.recording for one in identities} == {writer.recording}
    assert identities[0].boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    content = load(read_journal(tmp_path / "j")[0].parts[1])
    jsonschema.validate(content, schema_of("daemon"))
    assert content["software"]["commit"] == identities[0].commit


def _identities(folder: Path) -> list[Identity]:
    reader = JournalReader(folder)
    list(reader.messages())
    return reader.identities


def test_restarted_recorder_begins_a_new_part(tmp_path: Path):
    """Nothing that is there is opened again for writing."""
    folder = write_journal(tmp_path / "j", list(sent(30)), closes=False)
    before = (folder / part_name(0)).read_bytes()
    write_journal(folder, list(sent(5, first=30)))
    assert (folder / part_name(0)).read_bytes() == before
    assert len({one.recording for one in _identities(folder)}) == 2


def test_folder_has_one_recorder(tmp_path: Path):
    """A second one is refused while the first has it, and not after."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock)
    with pytest.raises(UserError, match="Another recorder writes to"):
        writer_to(tmp_path / "j", clock)
    writer.close()
    writer_to(tmp_path / "j", clock).close()


@pytest.mark.parametrize("folder", ["/proc/self/journal", "/dev/null", "/dev/null/journal"])
def test_folder_that_cannot_be_written_is_refused(folder: str):
    """Before anything is received, with what is in the way."""
    with pytest.raises(UserError, match=f"Cannot record to {folder}: .*Name a folder"):
        writer_to(Path(folder), ManualClock())


def test_nearly_full_disk_is_refused(tmp_path: Path):
    """With how much there is and how much it should be."""
    with pytest.raises(UserError, match=r"MB left, and recording needs .*--min-free-mb"):
        writer_to(tmp_path / "j", ManualClock(), min_free_bytes=1 << 60)
    assert list((tmp_path / "j").iterdir()) == []


def test_recording_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """There is room to finish: everything queued is written, and the part is closed."""
    free = [10_000]
    monkeypatch.setattr(
        journal_writer,
        "shutil",
        SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free[0])),
    )
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock, min_free_bytes=5000)
    thread = WriteThread(writer, clock, max_bytes=1 << 20)
    messages = list(sent(20))
    for message in messages[:10]:
        assert thread.put(of_source(message, clock.now_ns()))
    free[0] = 4000
    clock.ns += FLUSH_NS
    wait_until(lambda: thread.error is not None, what="the end of recording")
    for message in messages[10:]:
        assert thread.put(of_source(message, clock.now_ns()))
    thread.close(lambda: last_words(clock))
    assert "MB left" in str(thread.error)
    assert thread.n_unwritten == 0
    reader = JournalReader(tmp_path / "j")
    read = list(reader.messages())
    assert [one.parts for one in read[:-1]] == [packed(one) for one in messages]
    assert read[-1].topic == "recorder"
    assert reader.unclosed == []


def test_full_disk_ends_the_journal_at_its_last_flush(tmp_path: Path):
    """What does not fit is counted, and the file ends with a whole record."""
    clock = ManualClock()
    thread = WriteThread(writer_to(tmp_path / "j", clock), clock, max_bytes=1 << 30)
    n_put = 0
    path = tmp_path / "j" / part_name(0)
    with largest_file(60_000):
        n_put += thread.put(of_source(batch(n_put, n_spikes=200), clock.now_ns()))

        def is_flushed() -> bool:
            clock.ns += FLUSH_NS  # again and again, for the thread may not have begun to wait
            return bool(read_journal(tmp_path / "j"))

        # More than fits may otherwise be queued before the thread first runs.
        wait_until(is_flushed, what="a flush")
        while thread.error is None:
            n_put += thread.put(of_source(batch(n_put, n_spikes=200), clock.now_ns()))
            clock.ns += FLUSH_NS // 4
        thread.close(lambda: last_words(clock))
    assert f"Cannot record to {path}: file too large." in str(thread.error)
    reader = JournalReader(path)
    n_read = len(list(reader.messages()))
    assert n_read > 0
    assert n_read + thread.n_unwritten == n_put
    assert [part.n_bytes_ignored for part in reader.unclosed] == [0]


def test_disk_that_becomes_read_only_ends_the_journal_at_its_last_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As after an error of the file system: nothing can be written, nor cut off any more."""
    clock = ManualClock()
    thread = WriteThread(writer_to(tmp_path / "j", clock), clock, max_bytes=1 << 30)
    for seq in range(10):
        thread.put(of_source(batch(seq), clock.now_ns()))

    def later() -> bool:
        clock.ns += FLUSH_NS  # again and again, for the thread may not have begun to wait
        return True

    wait_until(lambda: later() and len(read_journal(tmp_path / "j")) == 10, what="a flush")

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(PartFile, "write", refuse)
    monkeypatch.setattr(PartFile, "drop_unfinished", refuse)
    for seq in range(10, 15):
        thread.put(of_source(batch(seq), clock.now_ns()))
    wait_until(lambda: later() and thread.error is not None, what="the end of recording")
    thread.close(lambda: last_words(clock))
    assert "read-only file system" in str(thread.error)
    assert thread.n_unwritten == 5
    assert len(read_journal(tmp_path / "j")) == 10


def test_slow_disk_is_given_all_that_waits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where a flush takes longer than they are apart, none is for a part of what has arrived."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock)
    n_flushes = [0]
    flush, turns = writer.flush, Semaphore(0)

    def slow_flush() -> None:
        flush()
        clock.ns += 2 * FLUSH_NS
        n_flushes[0] += 1
        turns.acquire(timeout=100)

    monkeypatch.setattr(writer, "flush", slow_flush)
    thread = WriteThread(writer, clock, max_bytes=1 << 20)
    clock.ns += FLUSH_NS
    wait_until(lambda: n_flushes[0] or not thread.put(of_source(batch(0), 0)), what="a flush")
    n_before = len(read_journal(tmp_path / "j"))
    for seq in range(100):
        assert thread.put(of_source(batch(seq), clock.now_ns()))
    turns.release()
    wait_until(lambda: n_flushes[0] == 2, what="the next flush")
    assert len(read_journal(tmp_path / "j")) >= n_before + 100
    turns.release(1000)
    thread.close(lambda: last_words(clock))


def test_part_is_closed_after_a_while(tmp_path: Path):
    """However little has come: its index is in memory as long as it is open."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock)
    for seq in range(4):
        writer.add(of_source(batch(seq), clock.now_ns()))
        clock.ns += PART_NS // 2
        writer.flush()
    writer.close()
    assert writer.n_parts == 3
    assert len(read_journal(tmp_path / "j")) == 4


def test_full_queue_refuses_messages(tmp_path: Path):
    """Its bound is in bytes; what is refused is the caller's to count."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock)
    thread = WriteThread(writer, clock, max_bytes=0)
    assert thread.is_full
    assert not thread.put(of_source(batch(0), clock.now_ns()))
    thread.close(lambda: last_words(clock))
    assert [one.topic for one in read_journal(tmp_path / "j")] == ["recorder"]


def test_wall_clock_that_jumps_moves_no_stamp(tmp_path: Path):
    """Stamps follow the monotonic clock within a part; the next part takes the new offset."""
    clock, wall = ManualClock(), [WALL_NS]
    writer = JournalWriter(
        tmp_path / "j", clock, part_bytes=1000, min_free_bytes=1, wall_ns=lambda: wall[0]
    )
    offset_ns = WALL_NS - clock.now_ns()
    for seq in range(4):
        clock.ns += 1000
        wall[0] += 1000 if seq != 1 else -3600 * 10**9
        writer.add(of_source(batch(seq), clock.now_ns()))
    writer.flush()
    writer.close()
    read = read_journal(tmp_path / "j")
    assert [one.host_ns for one in read] == [clock.ns - 3000 + 1000 * seq for seq in range(4)]
    assert [one.wall_ns - one.host_ns for one in read] == [offset_ns] * 4
    assert [one.wall_offset_ns for one in _identities(tmp_path / "j")] == [
        offset_ns,
        wall[0] - clock.now_ns(),
    ]


def test_hello_of_each_source_is_repeated_once(tmp_path: Path):
    """Two sources at two addresses may have streams of one name."""
    clock = ManualClock()
    writer = writer_to(tmp_path / "j", clock, part_bytes=1)
    hello = next(one for one in sent(0) if isinstance(one, Hello))
    for address in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:1"):
        writer.add(of_source(hello, clock.now_ns(), address))
    writer.flush()
    writer.close()
    addresses = [one.address for one in read_journal(tmp_path / "j" / part_name(1))]
    assert addresses == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
