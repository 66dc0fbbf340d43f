"""From rates to spikes: latency, a low-pass, shared noise, drift, refractoriness.

Theory of operation
-------------------
A unit's rate is laid on a grid of 4 ms, low-passed, multiplied by its gain and summed up. Events
of a gamma process of rate one, drawn in that operational time, are mapped back through the sum,
which is exact for any rate. Latency is a shift of the spikes. Spikes are whole samples; one that
follows another too closely is left out.

References
----------
.. [1] Brown, Barbieri, Ventura, Kass & Frank 2002, Neural Comput 14:325: time rescaling.
.. [2] Goris, Movshon & Simoncelli 2014, Nat Neurosci 17:858: gain that units share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.clock import seconds_to_ns
from simulation.cortex.schedule import Pulses, Schedule
from simulation.cortex.units import BLIND, CA1, CortexUnits
from simulation.nwb_file import SAMPLING_HZ

REFRACTORY_SAMPLES = 45
"""1.5 ms, within which no unit fires twice."""

STEP_S = 0.004
SMOOTHING_S = 0.015
SMOOTHING_STEPS = 16
"""A leaky membrane: an exponential of 15 ms, so that a step is all there after about 30 ms."""

GLOBAL_SD, AREA_SD = 0.08, 0.08
"""Of the shared gains; together about 11 % [2]_."""

GAIN_STEP_S, GAIN_TAU_S = 0.05, 1.0
DRIFT_STEP_S, DRIFT_SD, MAX_DRIFT = 120.0, 0.05, 0.10
"""Each unit's rate wanders by at most 10 % over minutes."""

RHYTHM_HZ = (0.02, 0.2)
RHYTHM_DEPTH = 0.4
THETA_HZ, THETA_DEPTH = 7.0, 0.5
"""Of units that the movie does not drive; theta of CA1 alone."""

ANSWER_SHARE = 0.9
ANSWER_S = (0.0016, 0.0030)
"""Of the pulses a tagged unit answers, and after how long: directly driven, so within 3 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedTrains:
    """The spikes of a session, unit by unit."""

    samples: NDArray[np.int64]  # shape (n_spikes,), at 30 kHz; sorted within each unit
    bounds: NDArray[np.int64]  # (n_units + 1,); unit u has spikes bounds[u] to bounds[u + 1]
    schedule: Schedule

    @property
    def spike_times(self) -> NDArray[np.float64]:
        """Seconds, as a recording holds them; shape (n_spikes,)."""
        return self.samples / SAMPLING_HZ

    @property
    def spike_time_ns(self) -> NDArray[np.int64]:
        """Session nanoseconds, as a source sends them; shape (n_spikes,)."""
        return seconds_to_ns(self.spike_times)

    @property
    def unit_index(self) -> NDArray[np.int64]:
        """Row of each spike's unit; shape (n_spikes,), int64."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))

    def of(self, unit: int) -> NDArray[np.float64]:
        """Return one unit's spike times, seconds."""
        return self.spike_times[self.bounds[unit] : self.bounds[unit + 1]]


def draw_trains(
    units: CortexUnits,
    schedule: Schedule,
    rates: NDArray[np.float32],
    row_start_s: NDArray[np.float64],
    row_of: NDArray[np.int64],
    session_seed: int,
) -> SimulatedTrains:
    """Draw the spikes of every unit.

    Parameters
    ----------
    rates : array, shape (n_rows, n_units), float32, spikes per second
        Of every picture that is shown.
    row_start_s : array, shape (n_shown,), float64, seconds
        When each presentation starts; it lasts until the next.
    row_of : array, shape (n_shown,), int64
        Row of `rates` that each presentation shows.
    """
    n_steps = int(np.ceil(schedule.duration_s / STEP_S))
    middle_s = np.linspace(0.5 * STEP_S, (n_steps - 0.5) * STEP_S, n_steps)
    shown = np.maximum(np.searchsorted(row_start_s, middle_s, side="right") - 1, 0)
    row = row_of[shown]
    areas, gain = _area_gains(units, n_steps, session_seed)
    by_unit = np.ascontiguousarray(rates.T)
    trains = []
    for unit in range(len(units)):
        rng = np.random.default_rng([session_seed, 21, unit])
        rate_hz = _smoothed(by_unit[unit][row]) * gain[areas[unit]] * _drift(n_steps, rng)
        if units.kind[unit] == BLIND:
            rate_hz *= _rhythm(middle_s, rng, has_theta=units.area[unit] == CA1)
        samples = _renewal(rate_hz, units.regularity[unit], units.latency_s[unit], rng)
        samples = samples[samples < int(schedule.duration_s * SAMPLING_HZ)]
        answers = _answers(str(units.cell_type[unit]), schedule.pulses, rng)
        trains.append(_merged(_rested(samples), answers))
    bounds = np.concatenate([[0], np.cumsum([len(train) for train in trains])])
    return SimulatedTrains(np.concatenate(trains), bounds.astype(np.int64), schedule)


def _smoothed(rate_hz: NDArray[np.float32]) -> NDArray[np.float64]:
    kernel = np.exp(-np.arange(SMOOTHING_STEPS) * STEP_S / SMOOTHING_S)
    padded = np.concatenate([np.full(SMOOTHING_STEPS - 1, rate_hz[0]), rate_hz])
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _area_gains(
    units: CortexUnits, n_steps: int, session_seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the row of each unit's area, and the areas' gains, shape (n_areas, n_steps)."""
    names, areas = np.unique(units.area, return_inverse=True)
    rng = np.random.default_rng([session_seed, 22])
    n_knots = int(n_steps * STEP_S / GAIN_STEP_S) + 2
    kept = np.exp(-GAIN_STEP_S / GAIN_TAU_S)
    noise = rng.normal(0, 1, (n_knots, 1 + len(names)))
    state = noise[0]
    states = np.empty_like(noise)
    for knot in range(n_knots):
        state = kept * state + np.sqrt(1 - kept**2) * noise[knot]
        states[knot] = state
    together = 1 + GLOBAL_SD * states[:, :1] + AREA_SD * states[:, 1:]
    at_s, knots_s = np.arange(n_steps) * STEP_S, np.arange(n_knots) * GAIN_STEP_S
    gain = np.stack([np.interp(at_s, knots_s, together[:, a]) for a in range(len(names))])
    return areas.astype(np.int64), np.maximum(gain, 0.3)


def _drift(n_steps: int, rng: np.random.Generator) -> NDArray[np.float64]:
    length_s = n_steps * STEP_S
    knots = np.clip(
        rng.normal(0, DRIFT_SD, int(length_s / DRIFT_STEP_S) + 2), -MAX_DRIFT, MAX_DRIFT
    )
    at = np.arange(n_steps) * (STEP_S / DRIFT_STEP_S)
    return np.asarray(1 + np.interp(at, np.arange(len(knots)), knots))


def _rhythm(
    at_s: NDArray[np.float64], rng: np.random.Generator, *, has_theta: bool
) -> NDArray[np.float64]:
    slow_hz, phase = rng.uniform(*RHYTHM_HZ), rng.uniform(0, 2 * np.pi, 2)
    gain = 1 + RHYTHM_DEPTH * np.sin(2 * np.pi * slow_hz * at_s + phase[0])
    if has_theta:
        gain *= 1 + THETA_DEPTH * np.sin(2 * np.pi * THETA_HZ * at_s + phase[1])
    return np.asarray(gain)


def _renewal(
    rate_hz: NDArray[np.float64], regularity: float, latency_s: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw spikes of a gamma process with this rate, as samples."""
    passed = np.concatenate([[0.0], np.cumsum(rate_hz * STEP_S)])
    expected = passed[-1]
    n_drawn = int(expected + 8 * np.sqrt(expected) + 20)
    steps = rng.standard_gamma(regularity, n_drawn) / regularity
    steps[0] *= rng.random()  # the recording starts anywhere within an interval
    events = np.cumsum(steps)
    events = events[events < expected]
    times_s = np.interp(events, passed, np.arange(len(passed)) * STEP_S) + latency_s
    return np.asarray(np.floor(times_s * SAMPLING_HZ), dtype=np.int64)


def _rested(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out every spike that follows a spike that stays within the refractory time."""
    while True:
        close = np.diff(samples) < REFRACTORY_SAMPLES
        if not close.any():
            return samples
        # The first of a run of short intervals follows a spike that stays; its own end goes.
        first = close & ~np.concatenate([[False], close[:-1]])
        samples = np.delete(samples, np.flatnonzero(first) + 1)


def _answers(cell_type: str, pulses: Pulses, rng: np.random.Generator) -> NDArray[np.int64]:
    n = len(pulses.start_s)
    draws, delay_s = rng.random(n), rng.uniform(*ANSWER_S, n)
    mine = np.array([cell_type != "" and tagged == cell_type for tagged in pulses.cell_type], bool)
    answered = mine & (draws < ANSWER_SHARE)
    times_s = pulses.start_s[answered] + delay_s[answered]
    return np.asarray(np.floor(times_s * SAMPLING_HZ), dtype=np.int64)


def _merged(samples: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add the answers; spikes too close to one of them give way."""
    if not len(answers):
        return samples
    after = np.searchsorted(answers, samples)
    nearest = np.minimum(
        np.abs(samples - answers[np.minimum(after, len(answers) - 1)]),
        np.abs(samples - answers[np.maximum(after - 1, 0)]),
    )
    return np.sort(np.concatenate([samples[nearest >= REFRACTORY_SAMPLES], answers]))
