"""The concept probes: how probable each concept is, from the mean patch.

``probability = sigmoid(scale * (weight @ mean_patch + bias) + offset)``, with a scale and an offset
for each population; see docs/training-report.md for how they are learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from contracts.embedding import PatchEmbedding
from contracts.errors import ManifestError, listed
from contracts.manifest import Manifest
from contracts.selection_text import read_expression

PROBES = "probes.safetensors"

HEADER = "probes"
"""Entry of the file's metadata: names of the concepts and populations, as JSON."""

PROBES_VERSION = 1

EVERYONE = "all"
"""The population whose calibration is taken where another has none of its own."""

LARGEST_LOGIT = 60.0
"""Beyond it a probability is 0 or 1 in float32 anyway, and exp does not overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptProbes:
    """The probes of one bundle."""

    concepts: tuple[str, ...]
    # expressions that have a calibration: ``all``, ``area:VISp``, ``cell_type:PV``
    populations: tuple[str, ...]
    weight: NDArray[np.float32]  # (n_concepts, dim)
    bias: NDArray[np.float32]  # (n_concepts,)
    # (n_populations, n_concepts)
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def calibration_of(self, expression: str) -> str:
        """Return the population whose calibration is used for an expression of the settings.

        A bare name is an area or else a cell type, as in `contracts.population.Population.select`.
        Recording probes, controls, single units and lists of units have no calibration: they take
        that of all units.
        """
        if expression in self.populations:
            return expression
        kind, names = read_expression(expression)
        by_meaning = {read_expression(name): name for name in self.populations}
        meant = [(one, names) for one in ((kind,) if kind else ("area", "cell_type"))]
        return next((by_meaning[one] for one in meant if one in by_meaning), EVERYONE)


def load_probes(manifest: Manifest) -> ConceptProbes | None:
    """Read the bundle's probes; None if it has none.

    Raises
    ------
    ManifestError
        If the file is not what it should be, with every problem found.
    """
    path = manifest.file(PROBES)
    if path is None:
        return None
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {
                name: file.get_tensor(name) for name in ("weight", "bias", "scale", "offset")
            }
        version = header["version"]
        concepts, populations = _names(header, "concepts"), _names(header, "populations")
    except (
        OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError
    ) as error:  # fmt: skip
        raise ManifestError(
            str(manifest.folder),
            f"{PROBES} does not hold concept probes: {error!r}. Export the encoder again",
        ) from error
    if version != PROBES_VERSION:
        raise ManifestError(
            str(manifest.folder),
            f"{PROBES} is of version {version!r}, this build reads {PROBES_VERSION}",
        )
    problems = _problems(tensors, concepts, populations, manifest.patch_grid.dim)
    if problems:
        raise ManifestError(str(manifest.folder), *problems)
    return ConceptProbes(concepts, populations, **tensors)


def _names(header: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = header[key]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{key} must be a list of names, got {names!r:.100}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{key} must differ, got {listed(twice)} more than once")
    return tuple(names)


def _problems(
    tensors: Mapping[str, NDArray[np.float32]],
    concepts: tuple[str, ...],
    populations: tuple[str, ...],
    dim: int,
) -> list[str]:
    n, n_populations = len(concepts), len(populations)
    shapes = {
        "weight": (n, dim),
        "bias": (n,),
        "scale": (n_populations, n),
        "offset": (n_populations, n),
    }
    problems = []
    for name, shape in shapes.items():
        found = tensors[name]
        if found.shape != shape or found.dtype != np.float32:
            problems.append(
                f"{PROBES}: {name} must be float32 of shape {shape}, got {found.dtype} of shape "
                f"{found.shape}"
            )
        elif not np.isfinite(found).all():
            problems.append(f"{PROBES}: {name} must be finite numbers")
    if EVERYONE not in populations:
        problems.append(f"{PROBES}: there must be a calibration for the population {EVERYONE!r}")
    return problems


class PopulationProbes:
    """Probabilities of all concepts, for some of the populations of a window.

    `expressions`, and `calibrations`, the name of the calibration that is taken, are by the name of
    a population.
    """

    def __init__(self, probes: ConceptProbes, expressions: Mapping[str, str]) -> None:
        self.concepts = probes.concepts
        self.calibrations = {
            name: probes.calibration_of(expression) for name, expression in expressions.items()
        }
        rows = [probes.populations.index(name) for name in self.calibrations.values()]
        self._row_of = {name: row for row, name in enumerate(expressions)}
        self._weight = probes.weight
        self._scale = probes.scale[rows]
        self._shift = self._scale * probes.bias + probes.offset[rows]
        self._mean = np.zeros((len(rows), probes.weight.shape[1]), dtype=np.float32)

    def probabilities(self, embeddings: Sequence[PatchEmbedding]) -> dict[str, NDArray[np.float32]]:
        """Return how probable each concept is, by population.

        All are NaN where the encoder gave numbers that are not finite, or so large that a concept's
        log odds are undefined. Populations that no rule names are passed over.

        Called on the fast loop.
        """
        names = [e.population for e in embeddings if e.population in self._row_of]
        # Sums and products of numpy itself: those of BLAS may start threads, which take the cores
        # from the encoder and wake up late (benchmarks/bench_trigger_evaluator.py).
        with np.errstate(all="ignore"):  # what is not finite becomes NaN, which no rule fires at
            for embedding in embeddings:
                row = self._row_of.get(embedding.population)
                if row is not None:
                    np.add.reduce(embedding.patches, axis=0, out=self._mean[row])
                    self._mean[row] /= len(embedding.patches)
            logit = np.einsum("pd,cd->pc", self._mean, self._weight) * self._scale + self._shift
            # Numbers that are finite and huge may still add up to infinity minus infinity.
            is_undefined = ~np.isfinite(self._mean).all(axis=1) | np.isnan(logit).any(axis=1)
            np.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT, out=logit)
            probability = 1 / (1 + np.exp(-logit))
            probability[is_undefined] = np.nan
        return {name: probability[self._row_of[name]] for name in names}
