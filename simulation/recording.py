"""A small recording with the layout of the public Allen sessions, made from a seed.

Poisson units in four areas watch a movie; three of the areas follow its frames and CA1 is blind
to it. The file is for replay and for tests; nothing in it says that it is simulated but its
description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLING_HZ = 30_000
"""Sampling rate of Neuropixels' action potential band; every spike time is a whole sample."""

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

FIRST_UNIT_ID = 951_000_000
FIRST_CHANNEL_ID = 850_000_000
FIRST_PROBE_ID = 810_000_000
"""Of nine digits, as in the public sessions."""

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
    """Write a recording as an NWB file.

    The same arguments give the same units, spikes and presentations; only the random object
    names that the format demands differ.

    Parameters
    ----------
    path : Path
        File to write.
    seconds : float
        Length.
    n_units : int
        Units, shared out evenly over the areas.
    seed : int
        Of everything that is drawn.
    """
    from pynwb import NWBHDF5IO

    rng = np.random.default_rng(seed)
    rows = [AREAS[row * len(AREAS) // n_units] for row in range(n_units)]
    session = _session(rng, rows, seconds)
    rate_hz = rng.lognormal(np.log(MEDIAN_RATE_HZ), RATE_SIGMA, n_units)
    trains = [_train(rng, session, row, rate_hz[row]) for row in range(n_units)]
    file = _new_file(seed)
    channels = _add_electrodes(file)
    _add_units(file, rng, rows, trains, channels)
    _add_presentations(file, session)
    with NWBHDF5IO(path, "w") as io:
        io.write(file)


def _session(rng: np.random.Generator, rows: Sequence[SmallArea], seconds: float) -> SmallSession:
    """Draw how each unit follows the movie: a few smooth bumps over its frames."""
    drive = np.array([area.drive for area in rows])[:, None]
    frames = np.arange(MOVIE_FRAMES)
    peaks = rng.uniform(0, MOVIE_FRAMES, (len(rows), 12, 1))
    bumps = np.exp(-0.5 * ((frames - peaks) / 8.0) ** 2).sum(axis=1)
    gain = np.ones((len(rows), MOVIE_FRAMES + 1))
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


def _new_file(seed: int) -> Any:
    from pynwb import NWBFile

    return NWBFile(
        session_description="simulated units that watch a movie; not a recording of an animal",
        identifier=str(700_000_000 + seed),
        session_start_time=datetime(2026, 1, 1, tzinfo=UTC),
        session_id=str(700_000_000 + seed),
        stimulus_notes="brain_observatory_1.1",
    )


def _add_electrodes(file: Any) -> dict[str, list[int]]:
    """Add both probes; return the ids of each area's channels."""
    columns = {
        "probe_id": "id of the probe",
        "valid_data": "whether the channel can be trusted",
        "probe_vertical_position": "micrometres from the tip",
    }
    for name, description in columns.items():
        file.add_electrode_column(name, description)
    channels: dict[str, list[int]] = {area.name: [] for area in AREAS}
    next_id = FIRST_CHANNEL_ID
    for number, probe in enumerate(sorted({area.probe for area in AREAS})):
        device = file.create_device(name=probe, description="simulated Neuropixels 1.0")
        group = file.create_electrode_group(
            name=probe, description=probe, location="brain", device=device
        )
        for depth, location in enumerate(_locations(probe)):
            file.add_electrode(
                id=next_id,
                location=location,
                group=group,
                probe_id=FIRST_PROBE_ID + number,
                valid_data=depth % CHANNELS_PER_AREA != CHANNELS_PER_AREA - 1,
                probe_vertical_position=20 * depth,
            )
            if location in channels:
                channels[location].append(next_id)
            next_id += 1
    return channels


def _locations(probe: str) -> list[str]:
    """Return the structure at each channel, from the tip up and out of the brain."""
    inside = [area.name for area in AREAS if area.probe == probe for _ in range(CHANNELS_PER_AREA)]
    return inside + ["None"] * CHANNELS_OUTSIDE


def _add_units(
    file: Any,
    rng: np.random.Generator,
    rows: Sequence[SmallArea],
    trains: Sequence[NDArray[np.float64]],
    channels: dict[str, list[int]],
) -> None:
    columns = {
        "peak_channel_id": "id of the electrode with the largest waveform",
        "quality": "good or noise",
        "amplitude_cutoff": "share of spikes below the threshold, estimated",
        "presence_ratio": "share of the session in which the unit fires",
        "isi_violations": "rate of refractory violations, relative",
        "firing_rate": "spikes per second",
    }
    for name, description in columns.items():
        file.add_unit_column(name, description)
    last_s = max((train[-1] for train in trains if len(train)), default=1.0)
    for row, (area, train) in enumerate(zip(rows, trains, strict=True)):
        fails = row % FAILS_EVERY == FAILS_EVERY - 1
        file.add_unit(
            id=FIRST_UNIT_ID + row,
            spike_times=train,
            peak_channel_id=int(rng.choice(channels[area.name])),
            quality="noise" if row % NOISE_EVERY == NOISE_EVERY - 1 else "good",
            amplitude_cutoff=float(rng.uniform(0.0, 0.1)),
            presence_ratio=float(rng.uniform(0.5, 0.9) if fails else rng.uniform(0.95, 1.0)),
            isi_violations=float(rng.uniform(0.0, 0.5)),
            firing_rate=float(len(train) / last_s),
        )


def _add_presentations(file: Any, session: SmallSession) -> None:
    starts = session.movie_start_s + np.arange(session.n_shown + 1) * FRAME_S
    movie = _table("natural_movie_one", "frames of the movie", frame="frame of the movie")
    for shown in range(session.n_shown):
        movie.add_interval(
            start_time=starts[shown],
            stop_time=starts[shown + 1],
            stimulus_name="natural_movie_one",
            stimulus_block=1.0,
            frame=float(shown % MOVIE_FRAMES),
        )
    grey = _table("spontaneous", "grey screen")
    for block, (start_s, stop_s) in enumerate(
        [(0.0, session.movie_start_s), (starts[-1], session.seconds)]
    ):
        grey.add_interval(
            start_time=start_s,
            stop_time=stop_s,
            stimulus_name="spontaneous",
            stimulus_block=2.0 * block,
        )
    for table in (movie, grey):
        file.add_time_intervals(table)


def _table(stimulus: str, description: str, **extra: str) -> Any:
    from pynwb.epoch import TimeIntervals

    table = TimeIntervals(name=f"{stimulus}_presentations", description=description)
    table.add_column("stimulus_name", "name of the stimulus")
    table.add_column("stimulus_block", "number of the block")
    for name, text in extra.items():
        table.add_column(name, text)
    return table
