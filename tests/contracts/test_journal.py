"""A journal is read back byte for byte, and to its last whole message wherever it was cut."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import UserError, WireError
from contracts.journal import framed, part_name, parts_of, unframed
from contracts.journal_reader import JournalReader
from tests.support.journals import packed, sent, write_journal


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a closed journal of 102 messages in five chunks."""
    return write_journal(tmp_path_factory.mktemp("journal"), list(sent(90)))


def test_every_byte_of_every_message_comes_back(journal: Path):
    """Parts, order, and the stamps of both clocks are as they were given."""
    reader = JournalReader(journal)
    messages = list(reader.messages())
    assert [message.parts for message in messages] == [packed(one) for one in sent(90)]
    assert [message.host_ns for message in messages] == [
        messages[0].host_ns + 1_000_000 * number for number in range(len(messages))
    ]
    (identity,) = reader.identities
    assert {one.wall_ns - one.host_ns for one in messages} == {identity.wall_offset_ns}
    assert reader.unclosed == []


def test_cut_at_any_byte_gives_whole_messages_alone(journal: Path, tmp_path: Path):
    """A prefix of the messages, never a damaged one; what is left out is counted in bytes."""
    content = (journal / part_name(0)).read_bytes()
    every = [packed(one) for one in sent(90)]
    path = tmp_path / part_name(0)
    n_read = set()
    for size in [*range(0, len(content) - 8, 97), *range(len(content) - 8, len(content))]:
        path.write_bytes(content[:size])
        reader = JournalReader(path)
        messages = [message.parts for message in reader.messages()]
        assert messages == every[: len(messages)]
        (part,) = reader.unclosed
        assert 0 <= part.n_bytes_ignored <= size
        assert "was not closed" in str(part)
        n_read.add(len(messages))
    assert {0, 25, 50, 75, 100} <= n_read


def test_flipped_bit_ends_the_part_there(journal: Path, tmp_path: Path):
    """A chunk whose checksum is wrong is left out, and what stands before it is read."""
    content = bytearray((journal / part_name(0)).read_bytes())
    every = [packed(one) for one in sent(90)]
    path = tmp_path / part_name(0)
    for place in range(400, len(content) // 2, 997):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        messages = [message.parts for message in JournalReader(path).messages()]
        assert messages == every[: len(messages)]


def test_tail_of_zeros_is_ignored(journal: Path, tmp_path: Path):
    """What some file systems leave after a power cut is no message."""
    content = (journal / part_name(0)).read_bytes()
    path = tmp_path / part_name(0)
    path.write_bytes(content[: len(content) // 2] + bytes(100_000))
    reader = JournalReader(path)
    n_messages = len(list(reader.messages()))
    assert n_messages in {25, 50, 75}
    assert reader.unclosed[0].n_bytes_ignored >= 100_000


def test_record_that_claims_exabytes_is_not_read(journal: Path, tmp_path: Path):
    """A damaged length ends the part instead of asking for its memory."""
    content = (journal / part_name(0)).read_bytes()
    path = tmp_path / part_name(0)
    path.write_bytes(content[:8] + struct.pack("<BQ", 6, 1 << 60) + content[17:])
    reader = JournalReader(path)
    assert list(reader.messages()) == []
    assert "exceeds limit" in reader.unclosed[0].reason


@pytest.mark.parametrize("content", [b"\x89MCAX0\r\n" + bytes(64), b"not a journal at all"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    """A file that is no MCAP is no journal that was cut."""
    path = tmp_path / part_name(0)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no journal"):
        list(JournalReader(path).messages())


def test_foreign_mcap_is_refused(tmp_path: Path):
    """An MCAP of another program does not say who sent its messages."""
    from mcap.writer import Writer

    path = tmp_path / "other.mcap"
    writer = Writer(str(path))
    writer.start()
    channel = writer.register_channel("topic", "json", 0)
    writer.add_message(channel, 0, b"{}", 0)
    writer.finish()
    with pytest.raises(UserError, match="does not say who sent"):
        list(JournalReader(path).messages())


def test_folder_without_parts_is_refused(tmp_path: Path):
    """So is a path to nothing."""
    with pytest.raises(UserError, match="holds no journal"):
        parts_of(tmp_path)
    with pytest.raises(UserError, match="There is no journal"):
        parts_of(tmp_path / "none")


def test_parts_are_read_by_number(tmp_path: Path):
    """The hundred-thousandth part comes last, though its name does not."""
    numbers = [100_000, 2, 99_999]
    for number in numbers:
        (tmp_path / part_name(number)).touch()
    (tmp_path / "part-00001.mcap.bak").touch()
    assert parts_of(tmp_path) == [tmp_path / part_name(number) for number in sorted(numbers)]


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_frames_round_trip(parts: list[bytes]):
    """What is put into one text of bytes comes out of it."""
    assert unframed(framed(parts)) == tuple(parts)


@settings(max_examples=200)
@given(st.binary(max_size=64))
def test_frames_of_garbage_are_refused(data: bytes):
    """Anything else is a `WireError` or a list of byte strings."""
    try:
        parts = unframed(data)
    except WireError:
        return
    assert all(isinstance(part, bytes) for part in parts)
