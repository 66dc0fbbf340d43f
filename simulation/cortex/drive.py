"""From frames to firing rates: the retina's adaptation, receptive fields, a non-linearity.

A frame's rates depend on that frame and on the one `BACK` before it, so a movie may be cut
anywhere. No noise and no spikes here.

Everything up to the rate is float64. BLAS adds in an order that depends on the number of frames
and on the processor, and a filter whose two halves nearly cancel turns the last digit of such a sum
into 0.02 spikes per second in float32: the rates of a movie would depend on how it is cut.

References
----------
.. [1] Adelson & Bergen 1985, J Opt Soc Am A 2:284: energy and motion energy.
.. [2] Albrecht & Hamilton 1982, J Neurophysiol 48:217: the hyperbolic response to contrast.
.. [3] Heeger 1992, Vis Neurosci 9:181: divisive normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulation.cortex.filters import COLS, POOL, ROWS, envelopes, filter_pairs
from simulation.cortex.units import BLIND, CENTRE, LUMINANCE, MOTION, SIMPLE, CortexUnits
from simulation.scenes.facts import Facts
from simulation.scenes.movie import random_movie
from simulation.scenes.scene import HEIGHT, WIDTH

BACK = 3
"""Frames back that motion is measured against: 0.1 s, in which slow things move enough."""

GREY = 127
"""Of the screen when no movie runs."""

DARK = 0.05
"""Stray light in the eye, as a share of white, so that black has a logarithm."""

LOG_LIGHT: NDArray[np.float64] = np.log(np.arange(255 * POOL**2 + 1) / (255 * POOL**2) + DARK)
"""By the sum over a pooled pixel."""

ADAPTATION_PX = 64.0
"""Standard deviation of the surroundings that a place adapts to, pixels of the screen."""

CONTRAST_FLOOR = 0.25
"""Contrast of the surroundings, in log units, at which normalisation has halved a response."""

HALF_QUANTILE = 0.86
"""Of a unit's drive over the reference movie: where its response is half of its largest."""

DIRECTION_WEIGHT = 0.7
"""How much of a motion unit's response the wrong direction takes away."""

REFERENCE_SEED = 987_001
REFERENCE_SCENES = 160
REFERENCE_FRAMES = 8
"""The movie that rates are set on; no session shows it."""

CHUNK_FRAMES = 240


class FrameSource(Protocol):
    """What the simulation needs of a movie, such as `simulation.scenes.movie.SceneMovie`."""

    @property
    def name(self) -> str:
        """Name of the stimulus."""
        ...

    @property
    def n_frames(self) -> int:
        """Length, frames."""
        ...

    def frames(self, first: int, stop: int, /) -> NDArray[np.uint8]:
        """Return frames, shape (n_frames, 304, 608)."""
        ...

    def facts(self, frame: int, /) -> Facts:
        """Return what is true of a frame."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ResponseModel:
    """The filters of an animal's units, and how what they pass becomes a rate."""

    even: NDArray[np.float64]  # shape (n_pixels, n_units): filters of unit length
    odd: NDArray[np.float64]  # in quadrature with the even ones
    absolute: NDArray[np.float64]  # shape (n_pixels, n_units_luminance): fields for light itself
    kind: NDArray[np.int64]  # shape (n_units,), as are the others
    sign: NDArray[np.float64]
    exponent: NDArray[np.float64]
    half: NDArray[np.float64]  # drive at half of the largest response
    base_hz: NDArray[np.float64]  # rate without any drive
    gain_hz: NDArray[np.float64]  # what the strongest drive adds

    def rates(
        self, frames: NDArray[np.uint8], before: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float32]:
        """Return the rate of every unit for every frame.

        Parameters
        ----------
        frames : array, shape (n_frames, 304, 608), uint8
        before : array, shape (up to `BACK`, 304, 608), uint8, optional
            Frames that came before them; without, the first stood still.

        Returns
        -------
        rates : array, shape (n_frames, n_units), float32, spikes per second
        """
        n_before = 0 if before is None else len(before)
        together = frames if before is None else np.concatenate([before, frames])
        response = _hyperbolic(self.drive(together)[n_before:], self.half, self.exponent)
        return (self.base_hz + self.gain_hz * response).astype(np.float32)

    def drive(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return what drives each unit, before the non-linearity; shape (n_frames, n_units)."""
        light, contrast = retina(frames)
        even, odd = contrast @ self.even, contrast @ self.odd
        energy = np.sqrt(even**2 + odd**2)
        drive = energy.copy()
        linear = (self.kind == SIMPLE) | (self.kind == CENTRE)
        drive[:, linear] = np.maximum(even[:, linear] * self.sign[linear], 0)
        moves = self.kind == MOTION
        drive[:, moves] = _motion(even[:, moves], odd[:, moves], self.sign[moves])
        bright = self.kind == LUMINANCE
        mean_light = light @ self.absolute
        drive[:, bright] = np.where(self.sign[bright] > 0, mean_light, 1.0 - mean_light)
        drive[:, self.kind == BLIND] = 0
        return drive


def build_response_model(units: CortexUnits) -> ResponseModel:
    """Build the filters of an animal and set its rates on the reference movie: seconds."""
    even, odd = filter_pairs(units)
    bright = units.kind == LUMINANCE
    absolute = envelopes(units)[:, bright]
    ones = np.ones(len(units))
    bare = ResponseModel(
        even=even,
        odd=odd,
        absolute=absolute / absolute.sum(axis=0),
        kind=units.kind,
        sign=units.sign,
        exponent=np.where(bright, 3.0, units.exponent),
        half=ones,
        base_hz=0 * ones,
        gain_hz=ones,
    )
    return _calibrated(bare, units)


def movie_rates(
    response: ResponseModel,
    movie: FrameSource,
    on_frames: Callable[[FrameSource, int, NDArray[np.uint8]], None] | None = None,
) -> NDArray[np.float32]:
    """Return the rates for a whole movie, drawn once.

    Shape (n_frames, n_units), float32, spikes per second. `on_frames` receives the number of a
    frame and the frames from there on.
    """
    rates = np.empty((movie.n_frames, len(response.kind)), dtype=np.float32)
    before: NDArray[np.uint8] | None = None
    for first in range(0, movie.n_frames, CHUNK_FRAMES):
        frames = movie.frames(first, min(first + CHUNK_FRAMES, movie.n_frames))
        rates[first : first + len(frames)] = response.rates(frames, before)
        before = frames[-BACK:]
        if on_frames is not None:
            on_frames(movie, first, frames)
    return rates


def grey_rates(response: ResponseModel) -> NDArray[np.float32]:
    """Return the rates for a grey screen, shape (n_units,), spikes per second."""
    screen = np.full((1, HEIGHT, WIDTH), GREY, dtype=np.uint8)
    rates: NDArray[np.float32] = response.rates(screen)[0]
    return rates


def retina(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pool, adapt to the light, and normalise by the contrast around.

    Parameters
    ----------
    frames : array, shape (n_frames, 304, 608), uint8

    Returns
    -------
    light : array, shape (n_frames, 2888), float64
        From 0 for black to 1 for white, on a logarithmic scale.
    contrast : array, shape (n_frames, 2888), float64
        What stands out from its surroundings, day and night alike.
    """
    n = len(frames)
    rows = frames.reshape(n, ROWS, POOL, WIDTH).sum(axis=2, dtype=np.uint16)
    pooled = rows.reshape(n, ROWS, COLS, POOL).sum(axis=3, dtype=np.uint16)
    log = LOG_LIGHT[pooled]
    stands_out = log - _blur(log)
    around = np.sqrt(_blur(stands_out**2))
    contrast = stands_out / (CONTRAST_FLOOR + around)
    light = (log - LOG_LIGHT[0]) / (LOG_LIGHT[-1] - LOG_LIGHT[0])
    return light.reshape(n, -1), contrast.reshape(n, -1)


def _blur(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the surroundings, which end at the edge of the screen.

    One large product each way: with one for each image, BLAS threads mostly wait for each other.
    """
    n = len(images)
    across = images.reshape(-1, COLS) @ _smoother(COLS).T
    by_row = across.reshape(n, ROWS, COLS).transpose(1, 0, 2).reshape(ROWS, -1)
    down = (_smoother(ROWS) @ by_row).reshape(ROWS, n, COLS)
    return np.ascontiguousarray(down.transpose(1, 0, 2))


def _smoother(n: int) -> NDArray[np.float64]:
    place = np.arange(n) * POOL / ADAPTATION_PX
    weights = np.exp(-0.5 * (place[:, None] - place[None, :]) ** 2)
    smoother: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return smoother


def _motion(
    even: NDArray[np.float64], odd: NDArray[np.float64], sign: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return energy, less where the pattern moves against the preferred direction.

    The phase of a quadrature pair turns as the pattern moves; its sine over `BACK` frames tells
    the direction, whatever the contrast.
    """
    row = np.maximum(np.arange(len(even)) - BACK, 0)
    energy = np.sqrt(even**2 + odd**2)
    turned = (odd * even[row] - even * odd[row]) / (energy * energy[row] + 1e-6)
    drive = energy * (1 - DIRECTION_WEIGHT * (1 - sign * turned) / 2)
    return np.asarray(drive)


def _hyperbolic(
    drive: NDArray[np.float64], half: NDArray[np.float64], exponent: NDArray[np.float64]
) -> NDArray[np.float64]:
    powered = np.maximum(drive / half, 0) ** exponent
    response: NDArray[np.float64] = powered / (1 + powered)
    return response


def _calibrated(bare: ResponseModel, units: CortexUnits) -> ResponseModel:
    """Set each unit's half point, base and gain on the reference movie."""
    reference = random_movie(
        "reference",
        seed=REFERENCE_SEED,
        n_scenes=REFERENCE_SCENES,
        frames_per_scene=REFERENCE_FRAMES,
    )
    chunk = REFERENCE_FRAMES * (CHUNK_FRAMES // REFERENCE_FRAMES)
    pieces = [
        bare.drive(reference.frames(first, min(first + chunk, reference.n_frames)))
        for first in range(0, reference.n_frames, chunk)
    ]
    # The first frames of a scene are measured against the scene before, so they are left out.
    is_within = np.arange(reference.n_frames) % REFERENCE_FRAMES >= BACK
    drive = np.concatenate(pieces)[is_within]
    half = np.maximum(np.quantile(drive, HALF_QUANTILE, axis=0), 1e-3)
    mean = _hyperbolic(drive, half, bare.exponent).mean(axis=0)
    driven_hz = units.rate_hz * (1 - units.base_share)
    gain_hz = np.minimum(driven_hz / np.maximum(mean, 1e-3), units.peak_hz)
    gain_hz[~units.is_visual] = 0.0
    return replace(bare, half=half, base_hz=units.rate_hz - gain_hz * mean, gain_hz=gain_hz)
