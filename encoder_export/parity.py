"""The gate: an exported graph is near enough to the network in float64, or it is not written.

What is measured is in `encoder_export.parity_run`; here is what it is tried on, and what it must
keep. It is compared on real windows, in patches and in words. Patches can be near and words differ,
where two words are equally likely; words can be equal and patches far, where the language model
says the same of everything. So both must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from encoder_export.precision import Precision
from encoder_training.data_set.training_set import Scaling

Narrate = Callable[[NDArray[np.float32]], Sequence[str]]
"""Grids (n, n_patches, dim) to one sentence each."""

POISSON_WINDOWS = 8
"""Windows of an encoder without a data set: random weights, or weights in the package."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a graph must keep.

    Attributes
    ----------
    min_cosine, mean_cosine : float
        Lowest over all patches, and their mean.
    max_relative_error : float
        Largest over all patches: length of the difference over the length of the true patch.
    min_agreement : float
        Share of narrations that are equal word for word.
    """

    min_cosine: float
    mean_cosine: float
    max_relative_error: float
    min_agreement: float


LIMITS: dict[Precision, Limits] = {
    "float32": Limits(0.999999, 0.9999999, 1e-4, 0.95),
    "float16": Limits(0.9999, 0.99999, 0.02, 0.9),
    "bfloat16": Limits(0.99, 0.999, 0.15, 0.9),
    "int8": Limits(0.99, 0.999, 0.15, 0.9),
}
"""Several times what the trained encoder of the simulated animal loses on 256 of its windows
(docs/decisions/0014-engines.md has the numbers), so that a change of runtime passes and a wrong
scale or a lost layer does not. Of 32 narrations one may differ in float32: where two words are
equally likely, the last bit decides."""


@dataclass(frozen=True, slots=True, eq=False)
class ParityGate:
    """What a graph is tried on.

    Attributes
    ----------
    counts : array, shape (n, n_bins, n_units), float32, spikes per bin
        Windows.
    masks : array, shape (n, n_units), float32
        A population of units for each window, beside everyone.
    narrate : callable, optional
        The bundle's language model; without it no narrations are compared.
    n_narrations : int
        Windows that are narrated, through everyone, spread over all of them.
    """

    counts: NDArray[np.float32]
    masks: NDArray[np.float32]
    narrate: Narrate | None = None
    n_narrations: int = 0

    @classmethod
    def of_windows(
        cls,
        counts: NDArray[np.integer],
        *,
        seed: int,
        narrate: Narrate | None = None,
        n_narrations: int = 0,
    ) -> ParityGate:
        """Return a gate for real windows, each with a random population.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), any integer, spikes per bin
        seed : int
            Of the populations: each hears a share of the units that is itself random.
        narrate, n_narrations
            As above.
        """
        n, _, n_units = counts.shape
        rng = np.random.default_rng(seed)
        masks = rng.random((n, n_units)) < rng.random((n, 1))
        return cls(
            counts.astype(np.float32),
            masks.astype(np.float32),
            narrate,
            min(n_narrations, n) if narrate else 0,
        )

    @classmethod
    def poisson(cls, scaling: Scaling, *, n_bins: int, seed: int = 0) -> ParityGate:
        """Return a gate without a recording: Poisson counts of the units' mean rates."""
        rng = np.random.default_rng(seed)
        rate = np.maximum(scaling.mean, 0)
        shape = (POISSON_WINDOWS, n_bins, len(rate))
        return cls.of_windows(rng.poisson(rate, shape), seed=seed)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph is from the network.

    Attributes
    ----------
    precision : str
    runtime : str
        What ran the graph.
    onnx_sha256 : str
        Which graph; empty if no file was given.
    n_windows : int
        Each compared twice: through everyone, and through a random population.
    min_cosine, mean_cosine : float
        Of the patches.
    max_relative_error, mean_relative_error : float
        Of the patches.
    n_narrations, n_equal : int
        Windows that were narrated, and how often the sentences were equal.
    limits : Limits
    """

    precision: Precision
    runtime: str
    onnx_sha256: str
    n_windows: int
    min_cosine: float
    mean_cosine: float
    max_relative_error: float
    mean_relative_error: float
    n_narrations: int
    n_equal: int
    limits: Limits

    @property
    def agreement(self) -> float | None:
        """Share of equal narrations; None where nothing was narrated."""
        return self.n_equal / self.n_narrations if self.n_narrations else None

    def failures(self) -> list[str]:
        """Return what is beyond a limit, one clause each with both numbers."""
        limits, failed = self.limits, []
        for name, found, limit in (
            ("the lowest cosine of a patch", self.min_cosine, limits.min_cosine),
            ("the mean cosine of the patches", self.mean_cosine, limits.mean_cosine),
        ):
            if not found >= limit:
                failed.append(f"{name} is {found:.7g}, {limit - found:.2g} below {limit:.7g}")
        if not self.max_relative_error <= limits.max_relative_error:
            failed.append(
                f"the largest relative error of a patch is {self.max_relative_error:.2g}, limit "
                f"{limits.max_relative_error:g}"
            )
        if self.agreement is not None and self.agreement < limits.min_agreement:
            failed.append(
                f"{self.n_equal} of {self.n_narrations} narrations are equal, limit "
                f"{limits.min_agreement:.0%}"
            )
        return failed

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Parity:
        """Read what `write` wrote, now or before: fields of older reports are passed over."""
        document = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: document[field.name] for field in fields(cls)}
        return cls(**known | {"limits": Limits(**document["limits"])})


class ParityError(UserError):
    """A graph is too far from the network.

    Parameters
    ----------
    parity : Parity
    outcome : str
        Sentences that say what came of it and what to do.

    Attributes
    ----------
    parity : Parity
        What was measured.
    """

    def __init__(self, parity: Parity, outcome: str) -> None:
        self.parity = parity
        super().__init__(
            f"the {parity.precision} graph is too far from the network, on {parity.n_windows} "
            f"windows with {parity.runtime}: {'; '.join(parity.failures())}. {outcome}"
        )


def check_parity(parity: Parity, *, outcome: str = "") -> None:
    """Refuse what is beyond its limits.

    Parameters
    ----------
    parity : Parity
    outcome : str
        What came of it, for the error; that nothing was written, if omitted.

    Raises
    ------
    ParityError
        With every number that failed.
    """
    if parity.failures():
        raise ParityError(parity, outcome or f"Nothing was written. {_remedy(parity.precision)}")


def _remedy(precision: Precision) -> str:
    if precision == "float32":
        return (
            "The exporter is at fault, or the weights are out of all bounds: look at the run's "
            "report."
        )
    return "Export with --precision float32, or float16 for a GPU."
