"""An emulator of SpikeGLX: a recording, written to a file as SpikeGLX would write it.

For rehearsals and tests. What it leaves is a recording that SpikeInterface reads.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError
from stream_sources.player import Pacer
from stream_sources.rigs.raw_recording import microvolts_of
from stream_sources.rigs.spikeglx.emulated_meta import EmulatedProbe, emulated_probe
from stream_sources.rigs.spikeglx.sync_pulses import SYNC_BIT

if TYPE_CHECKING:
    from spikeinterface import BaseRecording

RUN_NAME = "emulated"

N_HELD_BYTES = 101
"""Written with the next block: a file that is being written ends within a sample."""


class WriterFault(NamedTuple):
    """Something that goes wrong at a second of the recording.

    ``pause``: nothing is written for `amount` seconds, then all that was due. ``truncate``: the
    file is cut to its first half. ``jump``: `amount` seconds are not saved, and the recording goes
    on in the next file.
    """

    kind: Literal["pause", "truncate", "jump"]
    at_s: float
    amount: float = 1.0


@dataclass(slots=True)
class WriterReport:
    """What was written."""

    n_files: int = 0
    n_samples: int = 0
    n_samples_skipped: int = 0
    n_clipped: int = 0
    max_lateness_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How to write.

    Attributes
    ----------
    part_number : str
        Probe: a key of `emulated_meta.PROBES`.
    speed : float or None
        Seconds of the recording per second; None for as fast as possible.
    pulses_s : array, shape (n_pulses, 2), float64, seconds
        Begin and end of each pulse of the sync line, in order; None for 1 Hz, half of it high.
    """

    part_number: str = "NP1010"
    probe_index: int = 0
    speed: float | None = 1.0
    block_ms: float = 20.0
    pulses_s: NDArray[np.float64] | None = None
    faults: Sequence[WriterFault] = ()


class SpikeGlxWriter:
    """Writes a recording below `folder`, in the folders that SpikeGLX makes.

    Raises
    ------
    UserError
        If the channels are not at electrodes of the probe, or there are such files already.
    """

    def __init__(
        self, recording: BaseRecording, folder: Path, options: WriterOptions, clock: Clock
    ) -> None:
        self.report = WriterReport()
        self._recording = recording
        self._options = options
        self._clock = clock
        self._rate_hz = float(recording.get_sampling_frequency())
        self._probe: EmulatedProbe = emulated_probe(
            recording.get_channel_locations(), options.part_number, options.probe_index
        )
        run = f"{RUN_NAME}_g0"
        self._folder = folder / run / f"{run}_imec{options.probe_index}"
        self._trigger = 0
        self._file: _OpenFile | None = None
        if any(self._folder.glob("*.ap.bin")):
            raise UserError(f"{self._folder} has a recording. Name another folder, or remove it.")

    @property
    def path(self) -> Path:
        """The file that is being written, or will be first."""
        name = f"{RUN_NAME}_g0_t{self._trigger}.imec{self._options.probe_index}.ap.bin"
        return self._folder / name

    def begin(self) -> None:
        """Begin the first file, which is empty until `play`."""
        if self._file is None:
            self._begin_file(0)

    def play(self, should_stop: Callable[[], bool] = lambda: False) -> WriterReport:
        """Write everything, each block when its last sample is over."""
        pacer = Pacer(self._clock, self._options.speed)
        faults = deque(sorted(self._options.faults, key=lambda fault: fault.at_s))
        n_samples = int(self._recording.get_num_samples())
        length = max(1, round(self._options.block_ms / 1e3 * self._rate_hz))
        start = 0
        self.begin()
        try:
            while start < n_samples and not should_stop():
                stop = min(start + length, n_samples)
                pacer.due_in_ns(round(start / self._rate_hz * NS_PER_S))
                due_ns = round(stop / self._rate_hz * NS_PER_S)
                while (wait_ns := pacer.due_in_ns(due_ns)) and not should_stop():
                    self._clock.sleep_ns(min(wait_ns, NS_PER_S // 20))
                self._write(start, stop)
                start = stop
                while faults and faults[0].at_s * self._rate_hz < stop:
                    start = self._fail(faults.popleft(), start)
        finally:
            self._end_file()
        self.report.max_lateness_s = pacer.max_lateness_ns / NS_PER_S
        return self.report

    def _begin_file(self, first_sample: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        meta = self._probe.meta(self.path, self._rate_hz)
        self._file = _OpenFile(self.path, meta, first_sample)
        self.report.n_files += 1

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.finalize(self._rate_hz, self._probe.n_columns)
            self._file = None

    def _write(self, start: int, stop: int) -> None:
        probe, report = self._probe, self.report
        traces_uv = microvolts_of(self._recording, start, stop)
        bits = np.rint(traces_uv[:, probe.order] / probe.uv_per_bit)
        largest = probe.largest
        report.n_clipped += int(((bits < -largest) | (bits > largest - 1)).sum())
        samples = np.empty((stop - start, probe.n_columns), dtype="<i2")
        samples[:, :-1] = np.clip(bits, -largest, largest - 1)
        samples[:, -1] = self._sync(start, stop)
        report.n_samples += stop - start
        assert self._file is not None  # noqa: S101 - `play` has begun one
        self._file.write(samples.tobytes())

    def _sync(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return the digital word, whose bit of the sync line is set within pulses."""
        times_s = np.arange(start, stop) / self._rate_hz
        pulses_s = self._options.pulses_s
        if pulses_s is None:
            is_high = times_s % 1.0 < 0.5
        elif not len(pulses_s):
            is_high = np.zeros(len(times_s), dtype=bool)
        else:
            row = np.searchsorted(pulses_s[:, 0], times_s, side="right") - 1
            is_high = (row >= 0) & (times_s < pulses_s[np.maximum(row, 0), 1])
        return (is_high.astype(np.int16) << SYNC_BIT).astype(np.int16)

    def _fail(self, fault: WriterFault, start: int) -> int:
        """Let something go wrong; return the sample with which the recording goes on."""
        if fault.kind == "pause":
            self._clock.sleep_ns(round(fault.amount * NS_PER_S))
        elif fault.kind == "truncate":
            assert self._file is not None  # noqa: S101 - `play` has begun one
            self._file.cut()
        else:
            n_skipped = round(fault.amount * self._rate_hz)
            self.report.n_samples_skipped += n_skipped
            start += n_skipped
            self._end_file()
            self._trigger += 1
            self._begin_file(start)
        return start


class _OpenFile:
    """A ``.ap.bin`` that is being written, and its ``.meta``."""

    def __init__(self, path: Path, meta: dict[str, str], first_sample: int) -> None:
        self._path = path
        self._meta = meta
        self._first_sample = first_sample
        self._file = path.open("wb", buffering=0)
        self._held = b""
        self._write_meta()

    def write(self, content: bytes) -> None:
        """Write all but the last bytes, which come with the next block."""
        content = self._held + content
        self._file.write(content[:-N_HELD_BYTES])
        self._held = content[-N_HELD_BYTES:]

    def cut(self) -> None:
        """Cut the file to its first half; what follows is written behind that."""
        size = self._file.tell() // 2
        os.truncate(self._path, size)
        self._file.seek(size)

    def finalize(self, rate_hz: float, n_columns: int) -> None:
        """Write the rest, and the ``.meta`` anew with what is known now."""
        self._file.write(self._held)
        self._file.close()
        with self._path.open("rb") as file:
            sha1 = hashlib.file_digest(file, "sha1")
        n_bytes = self._path.stat().st_size
        n_samples = n_bytes // 2 // n_columns
        self._meta |= {
            "fileSHA1": sha1.hexdigest().upper(),
            "fileSizeBytes": str(n_bytes),
            "fileTimeSecs": f"{n_samples / rate_hz:.10g}",
            "firstSample": str(self._first_sample),
        }
        self._write_meta()

    def _write_meta(self) -> None:
        lines = [f"{key}={value}" for key, value in sorted(self._meta.items())]
        self._path.with_suffix(".meta").write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse_writer_fault(text: str) -> WriterFault:
    """Read ``pause@5:1``, ``truncate@10`` or ``jump@20:3``.

    Raises
    ------
    UserError
        If it is none of them.
    """
    kind, _, rest = text.partition("@")
    at_s, _, amount = rest.partition(":")
    try:
        if kind in {"pause", "truncate", "jump"}:
            return WriterFault(kind, float(at_s), float(amount or 1))  # type: ignore[arg-type]
    except ValueError:
        pass
    raise UserError(
        "--fault must be pause@SECOND:SECONDS, truncate@SECOND or jump@SECOND:SECONDS, "
        f"got {text!r}."
    )
