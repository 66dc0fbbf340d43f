"""The calibrated minutes once more, sorted by the online sorter: what live will send."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import whole_file
from contracts.clock import NS_PER_S
from contracts.progress import ProgressBar
from contracts.spikes import SpikeBatch
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.online_sorter.templates import SorterTemplates

SPIKES = "online.npz"
N_TIMES = 40
"""Intervals in which rates and waveforms are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class OnlineSpikes:
    """What the online sorter found in the calibrated minutes.

    Attributes
    ----------
    time_ns : array, shape (n_spikes,), int64, nanoseconds
        Session time: since the recording's first sample.
    unit_index : array, shape (n_spikes,), int64
        Row of the templates.
    edges_s : array, shape (n_times + 1,), seconds
        Of the intervals that `similarity` and `amplitude` are of.
    similarity, amplitude : array, shape (n_units, n_times)
        Of the recent waveforms and the template at the end of each interval; NaN where too few.
    real_time_factor : float
        Processor time over recorded time.
    """

    time_ns: NDArray[np.int64]
    unit_index: NDArray[np.int64]
    edges_s: NDArray[np.float64]
    similarity: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    real_time_factor: float

    def trains_ns(self, n_units: int) -> list[NDArray[np.int64]]:
        """Return the spike times of each unit, in order."""
        order = np.lexsort((self.time_ns, self.unit_index))
        bounds = np.searchsorted(self.unit_index[order], np.arange(1, n_units))
        return np.split(self.time_ns[order], bounds)

    def rates_hz(self, n_units: int) -> NDArray[np.float64]:
        """Return spikes per second of each unit in each interval, shape (n_units, n_times)."""
        counts, _, _ = np.histogram2d(
            self.unit_index,
            self.time_ns / NS_PER_S,
            bins=(np.arange(n_units + 1), self.edges_s),
        )
        rates: NDArray[np.float64] = counts / np.diff(self.edges_s)
        return rates


def sort_online(
    recording: Any, templates: SorterTemplates, *, method: str, block_ms: float, label: str
) -> OnlineSpikes:
    """Sort a recording as fast as possible with the code that sorts live."""
    voltages = RecordingVoltages(recording, label=label, speed=None)
    options = SorterOptions(method=method, block_ms=block_ms, speed=None)
    duration_s = recording.get_num_samples() / recording.get_sampling_frequency()
    edges_s = np.linspace(0.0, duration_s, N_TIMES + 1)
    times, units = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    states: list[NDArray[np.float64]] = []
    with (
        closing(OnlineSorterSource(voltages, templates, options)) as source,
        ProgressBar(desc="sorting online", unit="second", total=round(duration_s)) as bar,
    ):
        for message in source.messages():
            if not isinstance(message, SpikeBatch):
                continue
            times.append(message.spike_time_ns)
            units.append(message.unit_index.astype(np.int64))
            sorted_s = message.stop_ns / NS_PER_S
            bar.update(round(sorted_s) - bar.n)
            while len(states) < N_TIMES and sorted_s >= edges_s[len(states) + 1]:
                states.append(_state(source))
        states += [_state(source)] * (N_TIMES - len(states))
        factor = source.load.busy_s / max(source.load.sorted_s, 1e-9)
    looks = np.stack(states, axis=-1)
    return OnlineSpikes(
        np.concatenate(times), np.concatenate(units), edges_s, looks[0], looks[1], factor
    )


def save_online(spikes: OnlineSpikes, folder: Path) -> None:
    """Write the spikes to the calibration's folder."""
    with whole_file(folder / SPIKES) as partial, partial.open("wb") as file:
        np.savez(file, **{name: getattr(spikes, name) for name in OnlineSpikes.__slots__})


def load_online(folder: Path) -> OnlineSpikes:
    """Read what `save_online` wrote."""
    with np.load(folder / SPIKES, allow_pickle=False) as file:
        arrays = {name: file[name] for name in OnlineSpikes.__slots__}
    factor = float(arrays.pop("real_time_factor"))
    return OnlineSpikes(**arrays, real_time_factor=factor)


def _state(source: OnlineSorterSource) -> NDArray[np.float64]:
    """Return similarity and amplitude of each unit now, shape (2, n_units)."""
    states = source.units.states()
    looks = [[state.similarity for state in states], [state.amplitude for state in states]]
    return np.array(looks, dtype=np.float64)
