"""The file of a probe as a source of voltages, while SpikeGLX writes it.

Theory of operation
-------------------
Samples are numbered from the first of the file, as ``firstSample``, the number since the start of
the acquisition, is not known before the file is closed. Hence each file is a run of its own: what
lies between two files is unknown while they are followed (docs/decisions/0033-spikeglx.md).

A file whose ``.meta`` is final when the source is opened is a recording: it is read to its end, at
the pace of `speed`, and nothing follows. Any other file is followed, from what is newest when the
reading begins: what was written before would be minutes late. When it has stopped growing, the next
file of the same run and probe is looked for: the next trigger (t), or the first of the next gate
(g).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import RecordingError, UserError
from contracts.spikes import Mark
from stream_sources.player import Pacer
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.spikeglx.growing_file import BYTES, GrowingFile
from stream_sources.rigs.spikeglx.meta_file import (
    ProbeMeta,
    check_size,
    final_size,
    meta_path,
    read_meta,
)
from stream_sources.rigs.spikeglx.sync_pulses import SYNC_BIT, PulseReader
from stream_sources.rigs.voltages import ProbeLayout, VoltageChunk
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

CHUNK_S = 0.25
"""Longest chunk: 384 channels are 12 MB of float32."""

WAIT_NS = NS_PER_S // 50
"""Between two looks for samples. SpikeGLX writes every 0.1 s."""

PACED_S = 0.02
"""A chunk of a recording that is played at a pace: what acquisition systems give at once."""

NEXT_FILE_NS = NS_PER_S
SILENT_NS = 2 * NS_PER_S
"""Without samples for so long, a next file is looked for, and the recording counts as stopped."""

META_NS = 10 * NS_PER_S
"""A file on a network share may be seen before its ``.meta`` is, or is whole: for so long."""

NUMBERS = re.compile(r"_g(?P<gate>\d+)_t(?P<trigger>\d+)\.")


@dataclass(slots=True)
class FileCounters:
    """What was read, over all files."""

    n_samples: int = 0
    n_samples_before: int = 0  # written before the source began: not read
    n_files: int = 1
    n_pulses: int = 0
    n_silences: int = 0


class SpikeGlxSource:
    """Follows the ``.ap.bin`` of one probe; a `stream_sources.rigs.voltages.VoltageSource`.

    Parameters
    ----------
    path : Path
        The ``.ap.bin``; its ``.meta`` lies beside it.
    sync_bit : int
        Bit of the digital word whose pulses become marks.
    speed : float or None
        Recorded seconds per second of a recording that is over; None for as fast as it is taken. A
        file that is followed comes at its own pace.
    end_silence_s : float, optional
        End after so long without samples; None: go on until closed.

    Raises
    ------
    UserError
        If the files are none of a probe's action potentials, or do not belong together.
    """

    def __init__(
        self,
        path: Path,
        *,
        sync_bit: int = SYNC_BIT,
        speed: float | None = None,
        end_silence_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0 <= sync_bit < 16:
            raise UserError(f"the sync bit must be from 0 to 15, got {sync_bit}.")
        self.counters = FileCounters()
        self.label = f"spikeglx:{path}"
        self.session_start_utc = ""  # fileCreateTime has no time zone
        self._sync_bit, self._speed = sync_bit, speed
        self._clock = clock or HostClock()
        self._end_silence_ns = None if end_silence_s is None else round(end_silence_s * NS_PER_S)
        self._waits_since_ns: int | None = None  # for the .meta of a next file
        self._open(path, read_meta(meta_path(path)))
        self.rate_hz: float = self._meta.rate_hz
        self.layout: ProbeLayout = self._meta.layout
        self.n_samples = self._check_size()
        if self._meta.sync_column is None:
            logger.warning("no sync", extra={"why": f"{path}: its sync channel was not saved"})

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield chunks as they are written, marks among them, and None while there is nothing.

        Raises
        ------
        RecordingError
            If the file was cut, replaced or written anew, or if the next one has other channels.
        """
        if self.n_samples is not None:
            yield from self._play()
            return
        self._begin_at_newest()
        newest_ns = looked_ns = self._clock.now_ns()
        is_silent = False
        while not self._file.is_closed:
            samples = self._file.read(round(CHUNK_S * self.rate_hz))
            now_ns = self._clock.now_ns()
            if len(samples):
                newest_ns, is_silent = now_ns, False
                yield from self._take(samples)
                continue
            if now_ns - max(newest_ns, looked_ns) > NEXT_FILE_NS:
                looked_ns = now_ns
                if self._go_on_with_next():
                    newest_ns = now_ns
                    continue
            if not is_silent and now_ns - newest_ns > SILENT_NS:
                is_silent = True
                self._note_silence()
            if self._end_silence_ns is not None and self._waits_since_ns is None:
                if now_ns - newest_ns > self._end_silence_ns:
                    return
            yield None
            self._clock.sleep_ns(WAIT_NS)

    def close(self) -> None:
        """Close the file; `chunks` ends."""
        self._file.close()

    def _play(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield a recording, each chunk once its last sample is over, and None while it waits."""
        pacer = Pacer(self._clock, self._speed)
        pacer.due_in_ns(0)
        length = round((CHUNK_S if self._speed is None else PACED_S) * self.rate_hz)
        while not self._file.is_closed and len(samples := self._file.read(length)):
            over_ns = round(self._file.n_samples / self.rate_hz * NS_PER_S)
            while (due_in_ns := pacer.due_in_ns(over_ns)) > 0:
                yield None
                if self._file.is_closed:
                    return
                self._clock.sleep_ns(min(due_in_ns, WAIT_NS))
            yield from self._take(samples)

    def _begin_at_newest(self) -> None:
        n_before = self._file.skip_to_newest(round(CHUNK_S * self.rate_hz))
        if n_before:
            self.counters.n_samples_before = n_before
            fields = {"file": str(self._path), "first_sample": n_before}
            logger.warning(
                "joins a recording: what was written before is not read",
                extra={**fields, "passed_over_s": round(n_before / self.rate_hz, 3)},
            )

    def _open(self, path: Path, meta: ProbeMeta) -> None:
        self._path, self._meta = path, meta
        self._file = GrowingFile(path, meta.n_columns)
        self._run = new_run()
        self._pulses = PulseReader(self._sync_bit)
        fields = {"file": str(path), "run": self._run, "sampling_rate_hz": meta.rate_hz}
        logger.info("file", extra={**fields, "n_channels": len(meta.layout.channel_ids)})

    def _check_size(self) -> int | None:
        """Return the samples of a recording that is over; None of one that is not.

        Raises
        ------
        RecordingError
            If it is over, and has another size than its ``.meta`` says.
        """
        wanted, row_bytes = self._meta.n_bytes, self._meta.n_columns * BYTES
        if wanted is None:
            return None
        try:
            check_size(self._path, self._file.n_bytes, self._meta)
        except RecordingError:
            self._file.close()
            raise
        return wanted // row_bytes

    def _take(self, samples: NDArray[np.int16]) -> Iterator[VoltageChunk | Mark]:
        counters, meta = self.counters, self._meta
        first = self._file.n_samples - len(samples)
        counters.n_samples += len(samples)
        voltages_uv = samples[:, : len(meta.uv_per_bit)].astype(np.float32)
        voltages_uv *= meta.uv_per_bit
        yield VoltageChunk(self._run, first, voltages_uv)
        if meta.sync_column is None:
            return
        words = np.ascontiguousarray(samples[:, meta.sync_column])
        for edges in self._pulses.take(first, words):
            start_ns, stop_ns = samples_to_ns(np.array(edges), self.rate_hz).tolist()
            stimulus, number = f"sync bit {self._sync_bit}", counters.n_pulses
            counters.n_pulses += 1
            yield Mark("", self._run, start_ns, stop_ns, stimulus, number)

    def _note_silence(self) -> None:
        """Say that nothing comes, and whether the recording is over."""
        self.counters.n_silences += 1
        fields = {"source": self.label, "file": str(self._path)}
        size = final_size(self._path.with_suffix(".meta"))
        if size is None:
            logger.warning("no data: the file has stopped growing", extra=fields)
        elif size == self._file.n_bytes:
            now = "waits for the run's next file; --end-silence would end it"
            logger.info("the recording is over", extra={**fields, "now": now})
        else:
            sizes = {"n_bytes": self._file.n_bytes, "n_bytes_of_meta": size}
            fields |= {name: f"{number:,}" for name, number in sizes.items()}
            logger.warning("the recording is over and its size is another", extra=fields)

    def _go_on_with_next(self) -> bool:
        """Open the next file of the run, if it has samples and a whole ``.meta``.

        Raises
        ------
        RecordingError
            If its channels or its sampling rate are others.
        UserError
            If its ``.meta`` cannot be read, for longer than `META_NS`.
        """
        path = next_file(self._path)
        meta = None if path is None else self._read_next_meta(path)
        if path is None or meta is None:
            return False
        ours, its = self.layout, meta.layout
        if (
            meta.rate_hz != self.rate_hz
            or its.channel_ids != ours.channel_ids
            or not np.array_equal(its.positions_um, ours.positions_um)
        ):
            raise RecordingError(
                str(path),
                f"its channels or sampling rate are not those of {self._path.name}, the file "
                "before it. Start the source again with it",
            )
        self._file.close()
        self._open(path, meta)
        self.counters.n_files += 1
        return True

    def _read_next_meta(self, path: Path) -> ProbeMeta | None:
        """Return the ``.meta`` of a next file; None while it may not have come.

        Raises
        ------
        UserError
            If it still cannot be read after `META_NS`.
        """
        now_ns = self._clock.now_ns()
        try:
            meta = read_meta(meta_path(path))
        except UserError as error:
            if self._waits_since_ns is None:
                self._waits_since_ns = now_ns
                fields = {"file": str(path), "why": str(error)}
                logger.warning("the next file cannot be read yet", extra=fields)
            if now_ns - self._waits_since_ns > META_NS:
                raise
            return None
        self._waits_since_ns = None
        return meta


def next_file(path: Path) -> Path | None:
    """Return the file that continues a run of one probe; None while there is none with samples.

    It is the next trigger in the same folder, or trigger 0 of the next gate, whose folders have its
    number.
    """
    numbers = NUMBERS.search(path.name)
    if numbers is None:
        return None
    gate, trigger = int(numbers["gate"]), int(numbers["trigger"])
    this_gate, next_gate = f"_g{gate}", f"_g{gate + 1}"
    name = path.name.replace(f"{this_gate}_t{trigger}.", f"{next_gate}_t0.", 1)
    # RUN_g0/RUN_g0_imec0/RUN_g0_t0.imec0.ap.bin, or without the folder of the probe, or without any
    folders = [path.parent, path.parent.with_name(path.parent.name.replace(this_gate, next_gate))]
    run_folder = path.parent.parent
    if this_gate in run_folder.name:
        folders.append(
            run_folder.with_name(run_folder.name.replace(this_gate, next_gate)) / folders[1].name
        )
    next_trigger = path.name.replace(f"{this_gate}_t{trigger}.", f"{this_gate}_t{trigger + 1}.", 1)
    for candidate in (path.parent / next_trigger, *(folder / name for folder in folders)):
        if _has_bytes(candidate):
            return candidate
    return None


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
