"""Random populations in training, so that an encoder serves any population.

Serving holds units that are not selected at their mean (z = 0). To an encoder that was trained on
all units alone, that is an unknown brain state; so each training window is masked to a population
drawn at random, in the shapes that people select.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from contracts.population import Population

if TYPE_CHECKING:
    from torch import Tensor

Rows: TypeAlias = NDArray[np.bool_]

FEWEST_UNITS = 3
"""Smallest random subset: fewer units carry next to nothing, and `one_area` covers small areas."""


@dataclass(frozen=True, slots=True)
class MaskingOptions:
    """How often each kind of population is drawn; the weights need not sum to 1.

    A kind that the population cannot give (no areas, no cell types) is never drawn.
    """

    everyone: float = 0.35
    # A random subset; its size is log-uniform from 3 to all, as curves over the number of neurons
    # are drawn
    fraction: float = 0.25
    one_area: float = 0.15
    one_cell_type: float = 0.08
    several_areas: float = 0.07  # From two areas to all but one, each choice of a number alike
    all_but_one_area: float = 0.05  # A lesion
    nobody: float = 0.05  # No unit: trains the mean, which is the output for ``silent``
    unit_dropout: float = 0.1  # Probability, for `everyone`. The paper's is 0.1.

    def __post_init__(self) -> None:
        weights = [getattr(self, field.name) for field in fields(self)]
        if min(weights) < 0 or not sum(weights[:-1]) or self.unit_dropout >= 1:
            raise MisuseError(
                "weights of populations must be 0 or more with one above 0, and unit_dropout "
                f"below 1, got {self}"
            )


class PopulationMasks:
    """Draws masks for one population."""

    def __init__(self, population: Population, options: MaskingOptions) -> None:
        self._n_units = len(population)
        self._unit_dropout = options.unit_dropout
        self._areas = _membership([unit.area for unit in population.units])
        self._cell_types = _membership([unit.cell_type for unit in population.units])
        several = len(self._areas) > 2
        kinds: list[tuple[float, bool, Callable[[int, np.random.Generator], Rows]]] = [
            (options.everyone, True, self._everyone),
            (options.fraction, self._n_units > FEWEST_UNITS, self._fraction),
            (options.one_area, len(self._areas) > 0, self._one_area),
            (options.one_cell_type, len(self._cell_types) > 0, self._one_cell_type),
            (options.several_areas, several, self._several_areas),
            (options.all_but_one_area, len(self._areas) > 1, self._all_but_one_area),
            (options.nobody, True, self._nobody),
        ]
        possible = [(weight, draw) for weight, can_be, draw in kinds if can_be and weight > 0]
        if not possible:
            raise MisuseError(f"no population can be drawn from {population} with {options}")
        weights = np.array([weight for weight, _ in possible])
        self._probabilities = weights / weights.sum()
        self._draws = [draw for _, draw in possible]

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """Draw a population for each window of a batch.

        Returns bool of shape (n, n_units), True for a selected unit.
        """
        kind = rng.choice(len(self._draws), size=n, p=self._probabilities)
        masks = np.zeros((n, self._n_units), dtype=np.bool_)
        for index, draw in enumerate(self._draws):
            rows = np.flatnonzero(kind == index)
            if len(rows):
                masks[rows] = draw(len(rows), rng)
        return masks

    def _everyone(self, n: int, rng: np.random.Generator) -> Rows:
        return rng.random((n, self._n_units)) >= self._unit_dropout

    def _fraction(self, n: int, rng: np.random.Generator) -> Rows:
        n_selected = np.exp(rng.uniform(np.log(FEWEST_UNITS), np.log(self._n_units + 1), n))
        return _random_subsets(self._n_units, n_selected.astype(np.int64), rng)

    def _one_area(self, n: int, rng: np.random.Generator) -> Rows:
        return self._areas[rng.integers(len(self._areas), size=n)]

    def _one_cell_type(self, n: int, rng: np.random.Generator) -> Rows:
        return self._cell_types[rng.integers(len(self._cell_types), size=n)]

    def _several_areas(self, n: int, rng: np.random.Generator) -> Rows:
        n_areas = len(self._areas)
        chosen = _random_subsets(n_areas, rng.integers(2, n_areas, size=n), rng)
        return chosen @ self._areas  # of booleans: selected if any chosen area holds the unit

    def _all_but_one_area(self, n: int, rng: np.random.Generator) -> Rows:
        return ~self._one_area(n, rng)

    def _nobody(self, n: int, rng: np.random.Generator) -> Rows:
        return np.zeros((n, self._n_units), dtype=np.bool_)


def masked_z(counts: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """Scale counts as the exported graph does, operation by operation.

    Returns float32 of shape (n, n_bins, n_units), standard deviations.

    Parameters
    ----------
    counts : tensor, shape (n, n_bins, n_units), float32, spikes per bin
    mean, std : tensor, shape (n_units,), float32, spikes per bin
    mask : tensor, shape (n, n_units), float32
        1 for a selected unit, 0 for one held at its mean.
    """
    return (counts - mean) / std * mask.unsqueeze(1)


def _membership(labels: list[str]) -> Rows:
    """Return which units carry each label, shape (n_labels, n_units); no label is none."""
    names = sorted({label for label in labels if label})
    return np.array([[label == name for label in labels] for name in names], dtype=np.bool_)


def _random_subsets(n: int, sizes: NDArray[np.int64], rng: np.random.Generator) -> Rows:
    """Draw a subset of each size, shape (n_sizes, n)."""
    rank = rng.random((len(sizes), n)).argsort(axis=1).argsort(axis=1)
    return rank < sizes[:, np.newaxis]
