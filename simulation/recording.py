"""A small recording with the layout of the public Allen sessions, made from a seed.

Poisson units in four areas watch a movie; three of the areas follow its frames and CA1 is blind
to it. No frame is drawn: a minute of 120 units takes half a second, a tenth of what
`simulation.cortex` takes, and any number of units will do. For replay and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.nwb_file import (
    DEVICE,
    ELECTRODE_COLUMNS,
    FIRST_CHANNEL_ID,
    FIRST_PROBE_ID,
    FIRST_UNIT_ID,
    INTERVAL_COLUMNS,
    SAMPLING_HZ,
    UNIT_COLUMNS,
    new_file,
)
from stream_sources.recordings.nwb_writing import (
    add_electrodes,
    add_units,
    intervals,
    write_file,
)

DESCRIPTION = "simulated units that watch a movie; not a recording of an animal"

FRAME_S = 0.033361
"""Period of a movie frame as measured in the public sessions (300.25 s for 9,000 frames)."""

MOVIE_FRAMES = 900
"""Length of the Allen movie ``natural_movie_one``."""

REFRACTORY_S = 0.001
"""No unit fires twice within this."""

MEDIAN_RATE_HZ = 4.0
RATE_SIGMA = 0.8
"""Log-normal rates: 5 % of the units fire above 15 Hz, as in cortex (Buzsaki & Mizuseki 2014)."""

SPONTANEOUS_S = 5.0
"""Grey screen before the movie, as far as the recording is long enough."""

CHANNELS_PER_AREA = 24
CHANNELS_OUTSIDE = 4
"""Channels above the brain, whose location is ``None`` as in the public files."""

NOISE_EVERY = 12
"""Every twelfth unit is labelled noise, and every ninth fails one of the metrics."""
FAILS_EVERY = 9


@dataclass(frozen=True, slots=True)
class SmallArea:
    """One structure: where it is recorded and how strongly it follows the movie."""

    name: str
    probe: str
    drive: float


AREAS = (
    SmallArea("VISp", "probeA", 1.0),
    SmallArea("VISl", "probeA", 0.6),
    SmallArea("LGd", "probeB", 1.2),
    SmallArea("CA1", "probeB", 0.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class SmallSession:
    """When the movie ran and how strongly each unit follows each of its frames."""

    seconds: float
    movie_start_s: float
    n_shown: int
    gain: NDArray[np.float64]
    """Shape (n_units, MOVIE_FRAMES + 1): factor on the unit's rate; the last column is grey."""

    def frame_at(self, time_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the frame on the screen; `MOVIE_FRAMES` for grey."""
        shown = np.floor((time_s - self.movie_start_s) / FRAME_S).astype(np.int64)
        on = (shown >= 0) & (shown < self.n_shown)
        return np.where(on, shown % MOVIE_FRAMES, MOVIE_FRAMES)


def write_recording(
    path: Path, *, seconds: float = 60.0, n_units: int = 120, seed: int = 0
) -> None:
    """Write a recording as an NWB file, its units shared out evenly over the areas.

    The same arguments give the same units, spikes and presentations; only the random object
    names that the format demands differ.
    """
    rng = np.random.default_rng(seed)
    areas = [AREAS[row * len(AREAS) // n_units] for row in range(n_units)]
    session = _session(rng, areas, seconds)
    rate_hz = rng.lognormal(np.log(MEDIAN_RATE_HZ), RATE_SIGMA, n_units)
    trains = [_train(rng, session, row, rate_hz[row]) for row in range(n_units)]
    file = new_file(DESCRIPTION, seed)
    electrodes = _electrodes()
    add_electrodes(file, electrodes, ELECTRODE_COLUMNS, device=DEVICE)
    add_units(
        file,
        [FIRST_UNIT_ID + row for row in range(n_units)],
        _unit_columns(rng, areas, trains, electrodes),
        np.concatenate(trains),
        np.cumsum([len(train) for train in trains]),
        UNIT_COLUMNS,
    )
    for stimulus, columns in _presentations(session).items():
        table = intervals(f"{stimulus}_presentations", columns, INTERVAL_COLUMNS)
        file.add_time_intervals(table)
    write_file(path, file)


def _session(rng: np.random.Generator, areas: Sequence[SmallArea], seconds: float) -> SmallSession:
    """Draw how each unit follows the movie: a few smooth bumps over its frames."""
    drive = np.array([area.drive for area in areas])[:, None]
    frames = np.arange(MOVIE_FRAMES)
    peaks = rng.uniform(0, MOVIE_FRAMES, (len(areas), 12, 1))
    bumps = np.exp(-0.5 * ((frames - peaks) / 8.0) ** 2).sum(axis=1)
    gain = np.ones((len(areas), MOVIE_FRAMES + 1))
    gain[:, :MOVIE_FRAMES] += drive * (3.0 * bumps - 0.3)
    movie_start_s = min(SPONTANEOUS_S, seconds / 6)
    n_shown = int((seconds - movie_start_s - seconds / 60) / FRAME_S)
    return SmallSession(seconds, movie_start_s, n_shown, gain)


def _train(
    rng: np.random.Generator, session: SmallSession, row: int, rate_hz: float
) -> NDArray[np.float64]:
    """Draw one train: Poisson at the highest rate, thinned to the rate of the moment.

    Thinning only lengthens the intervals, so the refractory time holds.

    Returns
    -------
    times : array, shape (n_spikes,), float64, seconds
        Sorted, whole samples.
    """
    gain = session.gain[row]
    highest = rate_hz * gain.max()
    n_drawn = int(session.seconds * highest * 1.2) + 50
    intervals = REFRACTORY_S + rng.exponential(1 / highest, n_drawn)
    times = np.cumsum(intervals)
    keep = rng.random(n_drawn) * gain.max() < gain[session.frame_at(times)]
    times = times[keep & (times < session.seconds)]
    return np.unique(np.round(times * SAMPLING_HZ)) / SAMPLING_HZ


def _electrodes() -> list[dict[str, Any]]:
    """Lay out the channels of both probes, from the tip up and out of the brain."""
    rows: list[dict[str, Any]] = []
    for number, probe in enumerate(sorted({area.probe for area in AREAS})):
        inside = [area.name for area in AREAS if area.probe == probe]
        locations = [name for name in inside for _ in range(CHANNELS_PER_AREA)]
        for depth, location in enumerate(locations + ["None"] * CHANNELS_OUTSIDE):
            rows.append(
                {
                    "id": FIRST_CHANNEL_ID + len(rows),
                    "probe": probe,
                    "location": location,
                    "probe_id": FIRST_PROBE_ID + number,
                    "valid_data": depth % CHANNELS_PER_AREA != CHANNELS_PER_AREA - 1,
                    "probe_vertical_position": 20 * depth,
                }
            )
    return rows


def _unit_columns(
    rng: np.random.Generator,
    areas: Sequence[SmallArea],
    trains: Sequence[NDArray[np.float64]],
    electrodes: Sequence[dict[str, Any]],
) -> dict[str, list[Any]]:
    last_s = max((train[-1] for train in trains if len(train)), default=1.0)
    columns: dict[str, list[Any]] = {name: [] for name in UNIT_COLUMNS}
    for row, (area, train) in enumerate(zip(areas, trains, strict=True)):
        fails = row % FAILS_EVERY == FAILS_EVERY - 1
        channels = [channel["id"] for channel in electrodes if channel["location"] == area.name]
        values = {
            "peak_channel_id": int(rng.choice(channels)),
            "quality": "noise" if row % NOISE_EVERY == NOISE_EVERY - 1 else "good",
            "amplitude_cutoff": rng.uniform(0.0, 0.1),
            "presence_ratio": rng.uniform(0.5, 0.9) if fails else rng.uniform(0.95, 1.0),
            "isi_violations": rng.uniform(0.0, 0.5),
            "firing_rate": float(len(train) / last_s),
        }
        for name, value in values.items():
            columns[name].append(value)
    return columns


def _presentations(session: SmallSession) -> dict[str, dict[str, Any]]:
    """Return the columns of each stimulus: the movie's frames, and grey before and after."""
    edges_s = session.movie_start_s + np.arange(session.n_shown + 1) * FRAME_S
    return {
        "natural_movie_one": {
            "start_time": edges_s[:-1],
            "stop_time": edges_s[1:],
            "stimulus_name": ["natural_movie_one"] * session.n_shown,
            "stimulus_block": np.ones(session.n_shown),
            "frame": np.arange(session.n_shown) % MOVIE_FRAMES * 1.0,
        },
        "spontaneous": {
            "start_time": np.array([0.0, edges_s[-1]]),
            "stop_time": np.array([session.movie_start_s, session.seconds]),
            "stimulus_name": ["spontaneous"] * 2,
            "stimulus_block": np.array([0.0, 2.0]),
        },
    }
