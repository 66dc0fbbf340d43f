"""The gate: an exported graph is near enough to the network in float64, or it is not written.

It is compared on real windows, in patches and in words. Patches can be near and words differ,
where two words are equally likely; words can be equal and patches far, where the language model
says the same of everything. So both must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - the reference is the torch network
from numpy.typing import NDArray
from tqdm import tqdm

from contracts.errors import DependencyError, UserError
from contracts.manifest import sha256_of
from encoder_export.precision import Precision, reference_model
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import Encoder

GraphRun = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Counts (n, n_bins, n_units) and mask (n, n_units) to grids (n, n_patches, dim)."""

Narrate = Callable[[NDArray[np.float32]], Sequence[str]]
"""Grids (n, n_patches, dim) to one sentence each."""

BATCH = 8
"""Windows at once: eight grids of LLaVA-1.5 in float64 are 38 MB."""

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
class Gate:
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
    ) -> Gate:
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
    def poisson(cls, scaling: Scaling, *, n_bins: int, seed: int = 0) -> Gate:
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
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(**document | {"limits": Limits(**document["limits"])})


class ParityError(UserError):
    """A graph is too far from the network.

    Attributes
    ----------
    parity : Parity
        What was measured.
    """

    def __init__(self, parity: Parity) -> None:
        self.parity = parity
        remedy = (
            "The exporter is at fault, or the weights are out of all bounds: look at the run's "
            "report."
            if parity.precision == "float32"
            else "Export with --precision float32, or float16 for a GPU."
        )
        super().__init__(
            f"the {parity.precision} graph is too far from the network, on {parity.n_windows} "
            f"windows with {parity.runtime}: {'; '.join(parity.failures())}. Nothing was written. "
            f"{remedy}"
        )


def measure_parity(
    encoder: Encoder,
    scaling: Scaling,
    gate: Gate,
    run: GraphRun,
    *,
    precision: Precision,
    runtime: str,
    onnx_sha256: str = "",
) -> Parity:
    """Compare a compiled graph with the torch network in float64.

    Parameters
    ----------
    encoder : Encoder
        What the graph was made from.
    scaling : Scaling
        Of its units.
    gate : Gate
        What both are given.
    run : callable
        The graph.
    precision : {"float32", "float16", "bfloat16", "int8"}
        Decides the limits.
    runtime, onnx_sha256 : str
        For the report.

    Returns
    -------
    Parity
        Values that are no numbers count as a cosine of -1 and an infinite error.
    """
    reference = _reference_run(encoder, scaling)
    n = len(gate.counts)
    narrated = set(np.linspace(0, n - 1, gate.n_narrations).astype(int).tolist())
    tally = _Tally()
    kept: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for first in tqdm(range(0, n, BATCH), "comparing", unit="batch", disable=None, leave=False):
        rows = slice(first, min(first + BATCH, n))
        counts = gate.counts[rows]
        for population, mask in (
            ("everyone", np.ones_like(gate.masks[rows])),
            ("random", gate.masks[rows]),
        ):
            true, found = reference(counts, mask), run(counts, mask)
            tally.add(true, found)
            if population == "everyone":
                kept += [
                    (true[row - first].astype(np.float32), found[row - first])
                    for row in range(rows.start, rows.stop)
                    if row in narrated
                ]
    return Parity(
        precision=precision,
        runtime=runtime,
        onnx_sha256=onnx_sha256,
        n_windows=n,
        min_cosine=tally.min_cosine,
        mean_cosine=tally.sum_cosine / tally.n,
        max_relative_error=tally.max_error,
        mean_relative_error=tally.sum_error / tally.n,
        n_narrations=len(kept),
        n_equal=_count_equal(gate.narrate, kept),
        limits=LIMITS[precision],
    )


def check_parity(parity: Parity) -> None:
    """Refuse what is beyond its limits.

    Raises
    ------
    ParityError
        With every number that failed.
    """
    if parity.failures():
        raise ParityError(parity)


def measure_file(
    encoder: Encoder, scaling: Scaling, gate: Gate, path: Path, precision: Precision
) -> Parity:
    """Compare the graph in a file, as `measure_parity` does.

    ONNX Runtime on a CPU runs it; a bfloat16 graph, for which it has no kernels, is run by ONNX's
    own reference evaluator.

    Parameters
    ----------
    encoder, scaling, gate
        As for `measure_parity`.
    path : Path
        Of the ``.onnx`` file.
    precision : {"float32", "float16", "bfloat16", "int8"}

    Returns
    -------
    Parity

    Raises
    ------
    DependencyError
        If ONNX Runtime is not installed.
    """
    run, runtime = _evaluator(path) if precision == "bfloat16" else _ort_session(path)
    return measure_parity(
        encoder,
        scaling,
        gate,
        run,
        precision=precision,
        runtime=runtime,
        onnx_sha256=sha256_of(path),
    )


@dataclass(slots=True)
class _Tally:
    n: int = 0
    min_cosine: float = 1.0
    sum_cosine: float = 0.0
    max_error: float = 0.0
    sum_error: float = field(default=0.0)

    def add(self, true: NDArray[np.float64], found: NDArray[np.floating]) -> None:
        with np.errstate(all="ignore"):
            cosine, error = _distances(true, found.astype(np.float64))
        cosine = np.where(np.isfinite(cosine), cosine, -1.0)
        error = np.where(np.isfinite(error), error, np.inf)
        self.n += cosine.size
        self.min_cosine = min(self.min_cosine, float(cosine.min()))
        self.sum_cosine += float(cosine.sum())
        self.max_error = max(self.max_error, float(error.max()))
        self.sum_error += float(error.sum())


def _distances(
    true: NDArray[np.float64], found: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return cosine and relative error of each patch, shape (n, n_patches)."""
    length = np.linalg.norm(true, axis=-1)
    dot = np.einsum("npd,npd->np", true, found)
    cosine = dot / (length * np.linalg.norm(found, axis=-1))
    return cosine, np.linalg.norm(found - true, axis=-1) / length


def _count_equal(
    narrate: Narrate | None, pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> int:
    if narrate is None or not pairs:
        return 0
    true, found = (narrate(np.stack(grids)) for grids in zip(*pairs, strict=True))
    return sum(one == two for one, two in zip(true, found, strict=True))


def _reference_run(
    encoder: Encoder, scaling: Scaling
) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]:
    model = reference_model(encoder)
    mean, std = scaling.mean.astype(np.float64), scaling.std.astype(np.float64)

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float64]:
        z = (counts - mean) / std * mask[:, np.newaxis]
        with torch.inference_mode():
            grids: NDArray[np.float64] = model(torch.from_numpy(z)).double().numpy()
        return grids

    return run


def _ort_session(path: Path) -> tuple[GraphRun, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "Checking an exported encoder needs ONNX Runtime. Run: pip install 'neurrate[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    ort_session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        grids: NDArray[np.float32]
        (grids,) = ort_session.run(["grid"], {"counts": counts, "mask": mask})
        return grids

    return run, f"ONNX Runtime {onnxruntime.__version__} on a CPU"


def _evaluator(path: Path) -> tuple[GraphRun, str]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(str(path))

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        (grids,) = evaluator.run(["grid"], {"counts": counts, "mask": mask})
        return np.asarray(grids, dtype=np.float32)

    return run, f"the reference evaluator of onnx {onnx.__version__}"
