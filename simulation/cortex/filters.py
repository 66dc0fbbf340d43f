"""Receptive fields as filters on the pixels of the retina. No frame here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.cortex.units import CENTRE, CortexUnits
from simulation.scenes.scene import HEIGHT, WIDTH

POOL = 8
"""Pixels of the screen in one of the retina's, across and down."""

ROWS, COLS = HEIGHT // POOL, WIDTH // POOL

SURROUND = 2.5
"""Of a centre-surround unit: how much wider the surround is than the centre. About what is found
in the mouse's thalamus (Grubb & Thompson 2003, J Neurophysiol 90:3594)."""


def filter_pairs(units: CortexUnits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Build the pairs of filters: Gabors, and differences of Gaussians for centre-surround units.

    Returns
    -------
    even, odd : array, shape (n_pixels, n_units), float64
        Each of unit length, and blind to even light. Simple cells have a phase of their own, which
        makes no difference to the others. The odd filter of a centre-surround unit is not used.
    """
    across, down = _offsets(units)
    envelope = envelopes(units)
    turn = across * np.cos(units.orientation) + down * np.sin(units.orientation)
    carrier = 2 * np.pi * turn / units.wavelength_px
    even = envelope * np.cos(carrier + units.phase)
    odd = envelope * np.sin(carrier + units.phase)
    centre = units.kind == CENTRE
    squared = (across**2 + down**2)[:, centre]
    surround = np.exp(-squared / (2 * (SURROUND * units.sigma_px[centre]) ** 2))
    even[:, centre] = envelope[:, centre] / envelope[:, centre].sum(axis=0)
    even[:, centre] -= surround / surround.sum(axis=0)
    return _unit_length(even, envelope), _unit_length(odd, envelope)


def _unit_length(
    filters: NDArray[np.float64], envelope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take away the response to even light, then make the filter of length one."""
    balanced = filters - envelope * (filters.sum(axis=0) / envelope.sum(axis=0))
    length = np.sqrt((balanced**2).sum(axis=0))
    return np.asarray(balanced / np.maximum(length, 1e-9))


def envelopes(units: CortexUnits) -> NDArray[np.float64]:
    """Build Gaussian fields, longer along the stripes.

    Returns
    -------
    envelopes : array, shape (n_pixels, n_units), float64
        One at the centre.
    """
    across, down = _offsets(units)
    sigma = np.maximum(units.sigma_px, POOL / 2)
    aspect = np.where(units.kind == CENTRE, 1.0, units.aspect)
    cos, sin = np.cos(units.orientation), np.sin(units.orientation)
    over, along = across * cos + down * sin, (down * cos - across * sin) / aspect
    return np.asarray(np.exp(-(over**2 + along**2) / (2 * sigma**2)))


def _offsets(units: CortexUnits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each pixel's distance from each field's centre, shape (n_pixels, n_units)."""
    rows, cols = np.divmod(np.arange(ROWS * COLS), COLS)
    across = (cols[:, None] + 0.5) * POOL - units.x_px
    down = (rows[:, None] + 0.5) * POOL - units.y_px
    return across, down
