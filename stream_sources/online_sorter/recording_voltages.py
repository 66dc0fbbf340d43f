"""A recording that SpikeInterface can open, played as a probe would give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contracts.clock import Clock, HostClock
from contracts.errors import UserError, shown
from contracts.spikes import Mark
from stream_sources.online_sorter.template_estimation import check_recording, layout_of
from stream_sources.player import Pacer
from stream_sources.recordings.pickles import refuse_pickles
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.voltages import ProbeLayout, VoltageChunk
from stream_sources.source import new_run

CHUNK_MS = 20.0
"""What acquisition systems give at once."""

WAIT_NS = 50_000_000
"""The longest that nothing is yielded."""


class RecordingVoltages:
    """One segment of a recording with gains and a probe; a `stream_sources.rigs.voltages` source.

    Parameters
    ----------
    recording : spikeinterface.BaseRecording
    label : str
        For people, as in `VoltageSource`.
    speed : float or None
        Recorded seconds per second; None for as fast as it is taken.
    duration_s : float, optional
        Of the recording; to its end if omitted.

    Raises
    ------
    UserError
        If the recording does not have what is needed.
    """

    def __init__(
        self,
        recording: Any,
        *,
        label: str,
        speed: float | None = 1.0,
        duration_s: float | None = None,
        chunk_ms: float = CHUNK_MS,
        clock: Clock | None = None,
    ) -> None:
        check_recording(recording, label)
        self.label = label
        self.rate_hz = float(recording.get_sampling_frequency())
        self.layout: ProbeLayout = layout_of(recording)
        self.session_start_utc = ""
        self.n_samples: int | None = int(recording.get_num_samples())
        if duration_s is not None:
            self.n_samples = min(self.n_samples, round(duration_s * self.rate_hz))
        self._recording = recording
        self._speed = speed
        self._chunk = max(1, round(chunk_ms / 1e3 * self.rate_hz))
        self._clock = clock or HostClock()
        self._run = new_run()
        self._is_closed = False

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield each chunk once its last sample is over, and None while it waits."""
        pacer = Pacer(self._clock, self._speed)
        pacer.due_in_ns(0)
        n_samples = self.n_samples or 0
        for first in range(0, n_samples, self._chunk):
            last = min(first + self._chunk, n_samples)
            over_ns = int(samples_to_ns(np.array([last]), self.rate_hz)[0])
            traces = self._recording.get_traces(
                start_frame=first, end_frame=last, return_in_uV=True
            )
            while (due_in_ns := pacer.due_in_ns(over_ns)) > 0 and not self._is_closed:
                yield None
                self._clock.sleep_ns(min(due_in_ns, WAIT_NS))
            if self._is_closed:
                return
            voltages = np.ascontiguousarray(traces, dtype=np.float32)
            yield VoltageChunk(self._run, first, voltages)

    def close(self) -> None:
        """End `chunks`."""
        self._is_closed = True


def load_recording(path: Path) -> Any:
    """Load what SpikeInterface has saved: a folder, a Zarr folder, or a JSON file.

    Raises
    ------
    UserError
        If it is none, holds no recording, or is or holds a pickle.
    """
    import spikeinterface

    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder.")
    refuse_pickles(path)
    try:
        loaded = spikeinterface.load(path)
    except Exception as error:  # its loaders raise whatever the format's reader does
        raise UserError(
            f"{path}: SpikeInterface cannot load it: {shown(str(error), limit=300)}. Save the "
            "recording with recording.save(folder=...)."
        ) from error
    if not isinstance(loaded, spikeinterface.BaseRecording):
        raise UserError(f"{path}: a recording is wanted, got a {type(loaded).__name__}.")
    return loaded
