"""Concept probes as values, and as files of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy.special import expit

from contracts.atomic_files import write_json
from contracts.errors import UserError
from encoder_training.evaluation.bootstrap import Interval
from encoder_training.files import plain, write_tensors
from encoder_training.probes.calibration import Reliability

HEADER = "probes"
"""Entry of the file's metadata: names of the concepts and populations, as JSON. One entry, since
the order of several is not kept and the same probes must give the same bytes."""

PROBES_VERSION = 1
"""Raised when a name or a meaning in the files changes."""


@dataclass(frozen=True, slots=True)
class ProbeTest:
    """One concept through one population, on test windows."""

    concept: str
    population: str
    n: int
    n_with: int
    # Area under the ROC curve; NaN where the concept is in none of the windows, or in all
    auc: Interval
    # Mean, in nats; after and before the population's calibration
    log_loss: float
    log_loss_uncalibrated: float
    calibration_error: float  # Expected, over ten bins of probability
    is_calibrated: bool  # False where validation has not both kinds; then scale is 1 and offset 0
    reliability: Reliability
    # False and true alarms; empty where there is no area
    roc: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def is_scored(self) -> bool:
        """Whether test windows have both kinds."""
        return 0 < self.n_with < self.n


@dataclass(frozen=True, slots=True, eq=False)
class FittedProbes:
    """Probes of one encoder."""

    concepts: tuple[str, ...]
    populations: tuple[str, ...]
    weight: NDArray[np.float32]  # (n_concepts, dim)
    bias: NDArray[np.float32]  # (n_concepts,)
    # (n_populations, n_concepts): calibration
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    # (n_populations, n_concepts): on test windows; NaN where it has no meaning
    auc: NDArray[np.float32]
    strength: tuple[float, ...] = ()
    tested: tuple[ProbeTest, ...] = ()

    def probability(
        self, mean_patch: NDArray[np.float32], population: str = "all"
    ) -> NDArray[np.float32]:
        """Return the calibrated probability of each concept.

        Returns float32 of shape (n, n_concepts).
        """
        at = self.populations.index(population)
        score = mean_patch @ self.weight.T + self.bias
        probability: NDArray[np.float32] = expit(self.scale[at] * score + self.offset[at])
        return probability

    def of(self, concept: str, population: str = "all") -> ProbeTest:
        """Return one test."""
        at = self.populations.index(population) * len(self.concepts)
        return self.tested[at + self.concepts.index(concept)]


def save_probes(probes: FittedProbes, folder: Path) -> None:
    """Write ``probes.safetensors``, for the daemon, and ``probes.json``, for people."""
    names = {"concepts": probes.concepts, "populations": probes.populations}
    tensors = {
        name: np.ascontiguousarray(getattr(probes, name))
        for name in ("weight", "bias", "scale", "offset", "auc")
    }
    header = {HEADER: json.dumps({"version": PROBES_VERSION, **names})}
    write_tensors(folder / "probes.safetensors", tensors, header)
    tree = {
        "version": PROBES_VERSION,
        **names,
        "strength": probes.strength,
        "tested": plain([asdict(test) for test in probes.tested]),
    }
    write_json(folder / "probes.json", tree)


def load_probes(folder: Path) -> FittedProbes:
    """Read what `save_probes` wrote.

    Raises
    ------
    UserError
        If a file is missing or is not such a file.
    """
    try:
        with safe_open(folder / "probes.safetensors", framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        tree = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
        return FittedProbes(
            concepts=tuple(header["concepts"]),
            populations=tuple(header["populations"]),
            strength=tuple(tree["strength"]),
            tested=tuple(_tested(test) for test in tree["tested"]),
            **tensors,
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} must hold probes.safetensors and probes.json of a finished training: "
            f"{error!r}. Train again."
        ) from error


def _tested(tree: dict[str, Any]) -> ProbeTest:
    auc, binned = tree.pop("auc"), tree.pop("reliability")
    curve = tree.pop("roc")
    for name, value in tree.items():
        tree[name] = float("nan") if value is None else value
    return ProbeTest(
        auc=Interval(
            *(float("nan") if auc[k] is None else auc[k] for k in ("value", "low", "high"))
        ),
        reliability=Reliability(**{name: tuple(value) for name, value in binned.items()}),
        roc=(tuple(curve[0]), tuple(curve[1])),
        **tree,
    )
