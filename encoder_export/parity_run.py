"""How far a compiled graph is from the network in float64: both are run on the gate's windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - the reference is the torch network
from numpy.typing import NDArray
from tqdm import tqdm

from contracts.errors import DependencyError
from contracts.manifest import sha256_of
from encoder_export.parity import LIMITS, Narrate, Parity, ParityGate
from encoder_export.precision import Precision, reference_model
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork

GraphRun = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Counts (n, n_bins, n_units) and mask (n, n_units) to grids (n, n_patches, dim)."""

BATCH = 8
"""Windows at once: eight grids of LLaVA-1.5 in float64 are 38 MB."""


def measure_parity(
    encoder: EncoderNetwork,
    scaling: Scaling,
    gate: ParityGate,
    run: GraphRun,
    *,
    precision: Precision,
    runtime: str,
    onnx_sha256: str = "",
) -> Parity:
    """Compare a compiled graph with the torch network in float64.

    Parameters
    ----------
    encoder : EncoderNetwork
        What the graph was made from.
    scaling : Scaling
        Of its units.
    gate : ParityGate
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


def measure_file(
    encoder: EncoderNetwork, scaling: Scaling, gate: ParityGate, path: Path, precision: Precision
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
    sum_error: float = 0.0

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
    encoder: EncoderNetwork, scaling: Scaling
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
