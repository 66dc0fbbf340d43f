"""The source behind a writer: every sample once, marks, silence, next files, and what ends it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from spikeinterface.extractors import read_spikeglx

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import RecordingError, UserError
from contracts.spikes import Mark
from stream_sources.rigs.spikeglx.emulator import SpikeGlxWriter, WriterFault, WriterOptions
from stream_sources.rigs.spikeglx.source import SpikeGlxSource, next_file
from stream_sources.rigs.voltages import VoltageChunk, VoltageSource
from tests.support.manual_clock import ManualClock
from tests.support.spikeglx_files import begin_again, change_meta, make_recording, write_spikeglx

Item = VoltageChunk | Mark | None


def joined(items: list[Item]) -> dict[str, np.ndarray]:
    """Return the voltages of each run; its chunks have to follow each other without a hole."""
    runs: dict[str, list[np.ndarray]] = {}
    for chunk in items:
        if isinstance(chunk, VoltageChunk):
            before = runs.setdefault(chunk.run, [])
            assert chunk.first_sample == sum(map(len, before))
            assert chunk.voltages_uv.dtype == np.float32
            before.append(chunk.voltages_uv)
    return {run: np.concatenate(chunks) for run, chunks in runs.items()}


def read_all(source: VoltageSource) -> list[Item]:
    with closing(source):
        return list(source.chunks())


def until_nothing(chunks: Iterator[Item]) -> list[Item]:
    """Return what comes before the next None."""
    return list(iter(lambda: next(chunks), None))


def test_a_recording_is_read_as_spikeinterface_reads_it(tmp_path: Path):
    """In microvolts, to the last sample, and then it ends; the pulses of 1 Hz are marks."""
    path, report = write_spikeglx(tmp_path, make_recording(seconds=2.0))
    source: VoltageSource = SpikeGlxSource(path)
    items = read_all(source)
    (voltages_uv,) = joined(items).values()
    recording = read_spikeglx(path.parent, stream_id="imec0.ap")
    np.testing.assert_allclose(voltages_uv, recording.get_traces(return_in_uV=True), atol=1e-3)
    assert source.n_samples == len(voltages_uv) == report.n_samples == 60_000
    marks = [mark for mark in items if isinstance(mark, Mark)]
    assert [(m.start_ns, m.stop_ns, m.stimulus) for m in marks] == [
        (NS_PER_S, 3 * NS_PER_S // 2, "sync bit 6")
    ]
    (run,) = joined(items)
    assert (marks[0].run, marks[0].stream) == (run, "")


def test_a_file_is_followed_while_it_is_written(tmp_path: Path):
    """In real time, by a writer that always stops within a sample, and pauses once."""
    recording = make_recording(seconds=4.0)
    options = WriterOptions(speed=10.0, faults=[WriterFault("pause", 2.0, 0.2)])
    writer = SpikeGlxWriter(recording, tmp_path, options, HostClock())
    writer.begin()
    thread = Thread(target=writer.play)
    source = SpikeGlxSource(writer.path, end_silence_s=1.0)
    with closing(source):
        chunks = source.chunks()
        items = [next(chunks)]  # it reads from what is newest when it begins
        thread.start()
        items += list(chunks)
    thread.join()
    (voltages_uv,) = joined(items).values()
    assert source.n_samples is None
    assert len(voltages_uv) == writer.report.n_samples == 120_000
    np.testing.assert_allclose(voltages_uv, recording.get_traces(), atol=1.2)  # half a step
    assert sum(isinstance(one, Mark) for one in items) == 3
    assert any(one is None for one in items)


def test_silence_is_said_once_and_ends_the_source(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A file that stops growing: a warning after 2 s; the end after --end-silence."""
    path, _ = write_spikeglx(tmp_path)
    content = begin_again(path)
    clock = ManualClock()
    path.write_bytes(content[:1000])
    source = SpikeGlxSource(path, end_silence_s=5.0, clock=clock)
    with caplog.at_level(logging.INFO):
        items = read_all(source)
    assert items.count(None) < 5 * 60
    assert clock.now_ns() - 1_000_000_000 >= 5 * NS_PER_S
    assert [r.message for r in caplog.records].count("no data: the file has stopped growing") == 1
    assert source.counters.n_silences == 1
    assert source.counters.n_samples == 1000 // 18


def test_the_end_of_a_recording_is_told_from_a_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """By the .meta, which SpikeGLX writes again when it closes the file."""
    path, _ = write_spikeglx(tmp_path)
    meta = path.with_suffix(".meta").read_text()
    content = begin_again(path)
    source = SpikeGlxSource(path, end_silence_s=3.0, clock=ManualClock())
    path.write_bytes(content)
    path.with_suffix(".meta").write_text(meta)
    with caplog.at_level(logging.INFO):
        read_all(source)
    assert "the recording is over" in caplog.messages
    assert "no data: the file has stopped growing" not in caplog.messages


def test_a_pause_is_no_gap(tmp_path: Path):
    """Samples that come late go on with the number after the last."""
    path, _ = write_spikeglx(tmp_path)
    content = begin_again(path)
    clock = ManualClock()
    with closing(SpikeGlxSource(path, clock=clock)) as source:
        chunks = source.chunks()
        items: list[Item] = []
        for begin in range(0, len(content), 100_001):
            with path.open("ab") as file:
                file.write(content[begin : begin + 100_001])
            items += until_nothing(chunks)
            clock.sleep_ns(10 * NS_PER_S)
    (voltages_uv,) = joined(items).values()
    assert len(voltages_uv) == 60_000


def test_a_source_that_joins_late_begins_with_what_is_newest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Under the numbers that the samples have in the file; it is said how much is passed over."""
    path, _ = write_spikeglx(tmp_path)
    content = begin_again(path)
    path.write_bytes(content[: 40_000 * 18 + 5])  # and a sample in part
    with caplog.at_level(logging.WARNING), closing(SpikeGlxSource(path)) as source:
        chunks = source.chunks()
        items = until_nothing(chunks)
        with path.open("ab") as file:
            file.write(content[40_000 * 18 + 5 :])
        items += until_nothing(chunks)
    voltages = [one for one in items if isinstance(one, VoltageChunk)]
    assert voltages[0].first_sample == 40_000 - 7_500 == source.counters.n_samples_before
    received = np.concatenate([chunk.voltages_uv for chunk in voltages])
    wanted = np.frombuffer(content, np.int16).reshape(-1, 9)[32_500:, :8] * source._meta.uv_per_bit
    np.testing.assert_allclose(received, wanted, rtol=1e-6)
    (record,) = [r for r in caplog.records if r.message.startswith("joins a recording")]
    assert record.passed_over_s == pytest.approx(1.083)  # type: ignore[attr-defined]


@pytest.mark.parametrize("speed", [0.5, 1.0, 20.0])
def test_a_recording_is_played_at_its_speed(tmp_path: Path, speed: float):
    """Each chunk once its last sample is over, so that a publisher is not overrun."""
    path, report = write_spikeglx(tmp_path)
    clock = ManualClock()
    began_ns = clock.now_ns()
    with closing(SpikeGlxSource(path, speed=speed, clock=clock)) as source:
        for item in source.chunks():
            if isinstance(item, VoltageChunk):
                over_s = (item.first_sample + len(item.voltages_uv)) / source.rate_hz
                passed_s = (clock.now_ns() - began_ns) / NS_PER_S
                assert passed_s == pytest.approx(over_s / speed)
    assert source.counters.n_samples == report.n_samples


@pytest.mark.parametrize("n_bytes", [None, 300])
def test_the_meta_of_a_next_file_may_come_late(tmp_path: Path, n_bytes: int | None):
    """On a network share it is seen, or whole, after the first samples are."""
    fault = WriterFault("jump", 1.0, 0.5)
    path, report = write_spikeglx(tmp_path, faults=[fault])
    last = path.with_name(path.name.replace("_t0.", "_t1."))
    contents = begin_again(path), begin_again(last)
    meta = last.with_suffix(".meta").read_text()
    last.unlink()
    last.with_suffix(".meta").unlink()
    clock = ManualClock()
    source = SpikeGlxSource(path, end_silence_s=3.0, clock=clock)
    chunks = source.chunks()
    items = until_nothing(chunks)
    path.write_bytes(contents[0])
    items += until_nothing(chunks)
    last.write_bytes(contents[1])
    if n_bytes is not None:
        last.with_suffix(".meta").write_text(meta[:n_bytes])
    seen_ns = clock.now_ns()
    while clock.now_ns() - seen_ns < 5 * NS_PER_S:
        assert next(chunks) is None
    last.with_suffix(".meta").write_text(meta)
    with closing(source):
        items += list(chunks)
    assert sum(map(len, joined(items).values())) == report.n_samples
    assert source.counters.n_files == 2


def test_a_next_file_without_a_meta_ends_the_source_at_last(tmp_path: Path):
    """After ten seconds, with the name of what is missing."""
    fault = WriterFault("jump", 1.0, 0.5)
    path, _ = write_spikeglx(tmp_path, faults=[fault])
    begin_again(path)
    path.with_name(path.name.replace("_t0.", "_t1.")).with_suffix(".meta").unlink()
    clock = ManualClock()
    with pytest.raises(UserError, match=r"_t1\.imec0\.ap\.meta"):
        read_all(SpikeGlxSource(path, end_silence_s=3.0, clock=clock))


def test_the_next_file_is_a_new_run(tmp_path: Path):
    """Its samples are numbered from 0: how far apart the files are is not known yet."""
    fault = WriterFault("jump", 1.0, 0.5)
    path, report = write_spikeglx(tmp_path, make_recording(seconds=2.0), faults=[fault])
    assert report.n_samples_skipped == 15_000
    last = path.with_name(path.name.replace("_t0.", "_t1."))
    contents = begin_again(path), begin_again(last)
    source = SpikeGlxSource(path, end_silence_s=3.0, clock=ManualClock())
    chunks = source.chunks()
    items = until_nothing(chunks)
    path.write_bytes(contents[0])
    items += until_nothing(chunks)
    last.write_bytes(contents[1])
    with closing(source):
        items += list(chunks)
    first, second = joined(items).values()
    assert len(first) + len(second) == report.n_samples == 45_000
    assert source.counters.n_files == 2


def test_a_next_file_with_other_channels_is_refused(tmp_path: Path):
    """Whoever sorts would take them for those of before."""
    fault = WriterFault("jump", 1.0, 0.1)
    path, _ = write_spikeglx(tmp_path, faults=[fault])
    begin_again(path)
    last = path.with_name(path.name.replace("_t0.", "_t1."))
    change_meta(last, snsSaveChanSubset="0:6,100,768")
    source = SpikeGlxSource(path, clock=ManualClock())
    with pytest.raises(RecordingError, match=r"t1\.imec0.*are not those of .*t0"):
        read_all(source)


@pytest.mark.parametrize(
    ("path", "following"),
    [
        ("a_g0/a_g0_imec1/a_g0_t0.imec1.ap.bin", "a_g0/a_g0_imec1/a_g0_t1.imec1.ap.bin"),
        ("a_g0/a_g0_imec1/a_g0_t0.imec1.ap.bin", "a_g1/a_g1_imec1/a_g1_t0.imec1.ap.bin"),
        ("a_g9/a_g9_t3.imec0.ap.bin", "a_g10/a_g10_t0.imec0.ap.bin"),
        ("any/a_g0_t0.imec0.ap.bin", "any/a_g1_t0.imec0.ap.bin"),
        ("a_g0/a_g0_t0.imec0.ap.bin", None),
        ("a_g0/named.imec0.ap.bin", None),
    ],
)
def test_the_next_file_is_found_where_spikeglx_puts_it(
    tmp_path: Path, path: str, following: str | None
):
    """The next trigger, or the next gate, in each of the folder layouts; an empty file is none."""
    empty = tmp_path / path.replace("t0", "t1")
    empty.parent.mkdir(parents=True, exist_ok=True)
    empty.touch()
    if following is not None:
        (tmp_path / following).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / following).write_bytes(b"x")
    assert next_file(tmp_path / path) == (tmp_path / following if following else None)


@pytest.mark.parametrize("change", [-2, 2, 18])
def test_a_recording_whose_size_is_not_that_of_its_meta_is_refused(tmp_path: Path, change: int):
    """Cut, or of another recording: what it would give is not known."""
    path, _ = write_spikeglx(tmp_path)
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(UserError, match="it was cut, is still being copied"):
        SpikeGlxSource(path)


def test_a_file_that_is_cut_ends_the_source_with_its_sizes(tmp_path: Path):
    """No sample is read from what is left."""
    path, _ = write_spikeglx(tmp_path)
    content = begin_again(path)
    path.write_bytes(content)
    with closing(SpikeGlxSource(path, clock=ManualClock())) as source:
        chunks = source.chunks()
        until_nothing(chunks)
        os.truncate(path, 1000)
        with pytest.raises(RecordingError, match="the file became shorter: it had 1,080,000 bytes"):
            next(chunks)


def test_a_recording_without_sync_has_no_marks_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its sync channel was not saved."""
    path, _ = write_spikeglx(tmp_path, make_recording(n_channels=9))
    change_meta(path, snsSaveChanSubset="0:9", snsApLfSy="10,0,0")
    items = read_all(SpikeGlxSource(path))
    assert not any(isinstance(one, Mark) for one in items)
    assert "no sync" in caplog.messages


def test_close_ends_it(tmp_path: Path):
    """Also while nothing comes."""
    path, _ = write_spikeglx(tmp_path)
    begin_again(path)
    source = SpikeGlxSource(path, clock=ManualClock())
    chunks = source.chunks()
    assert list(islice(chunks, 3)) == [None] * 3
    source.close()
    assert list(chunks) == []


@pytest.mark.parametrize("bit", [-1, 16])
def test_a_bit_that_no_word_has_is_refused(tmp_path: Path, bit: int):
    """A word has 16."""
    with pytest.raises(UserError, match="from 0 to 15"):
        SpikeGlxSource(tmp_path / "x.imec0.ap.bin", sync_bit=bit)
