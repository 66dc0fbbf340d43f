"""What the emulators send of a recording of voltages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.errors import RecordingError
from contracts.population import Population, Unit
from contracts.spikes import Mark, SpikeBatch
from stream_sources.source import SpikeBlock, cut_batches, new_run

if TYPE_CHECKING:
    from spikeinterface import BaseRecording


def microvolts_of(recording: BaseRecording, start: int, stop: int) -> NDArray[np.float32]:
    """Return samples of a recording, shape (n_samples, n_channels), in microvolts."""
    raw: Any = recording
    traces = raw.get_traces(start_frame=start, end_frame=stop, return_in_uV=True)
    return np.asarray(traces, dtype=np.float32)


def irregular_pulses(seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Return pulses of 0.1 s, 0.3 to 1.7 s from begin to begin, shape (n_pulses, 2), seconds."""
    rng = np.random.default_rng(seed)
    begins = np.cumsum(rng.uniform(0.3, 1.7, round(seconds / 0.3) + 1))
    begins = begins[begins < seconds]
    return np.stack([begins, begins + 0.1], axis=1)


class BlocksOfRecording:
    """A recording without its spikes, as a `stream_sources.source.SpikeSource`: time and marks.

    The marks are irregular pulses, by which clocks can be joined (docs/several-probes.md).

    Raises
    ------
    RecordingError
        If the interval has no samples of the recording.
    """

    def __init__(
        self,
        recording: BaseRecording,
        *,
        start_s: float | None = None,
        duration_s: float | None = None,
        block_ms: float = 20.0,
    ) -> None:
        self.stream, self.run, self.label = "recording", new_run(), "recording"
        self.population = Population([Unit("none")])
        self.n_spikes: int | None = 0
        seconds = recording.get_num_samples() / recording.sampling_frequency
        start_s = start_s or 0.0
        stop_s = min(seconds, start_s + (duration_s or seconds))
        if not 0 <= start_s < stop_s:
            raise RecordingError("--start", f"it must be within the recording's {seconds:g} s")
        self._start_ns, self._stop_ns = round(start_s * NS_PER_S), round(stop_s * NS_PER_S)
        self.span_ns: tuple[int, int] | None = (self._start_ns, self._stop_ns)
        self._pulses_s = irregular_pulses(seconds)
        self._block_ns = round(block_ms * 1e6)

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield empty batches, one a block."""
        none = np.empty(0, np.int64), np.empty(0, np.uint32)
        blocks = [SpikeBlock(self._start_ns, self._stop_ns, *none)]
        return cut_batches(blocks, stream=self.stream, run=self.run, batch_ns=self._block_ns)

    def marks(self) -> Iterator[Mark]:
        """Yield the pulses that begin within the interval."""
        pulses_ns = np.rint(self._pulses_s * NS_PER_S).astype(np.int64)
        for number, (start_ns, stop_ns) in enumerate(pulses_ns.tolist()):
            if self._start_ns <= start_ns < self._stop_ns:
                yield Mark(self.stream, self.run, start_ns, stop_ns, "pulse", number)

    def close(self) -> None:
        """Release nothing: the recording is the caller's."""
