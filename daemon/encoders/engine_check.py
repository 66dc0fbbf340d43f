"""An engine is tried before it is used: kernels that were chosen here have passed no gate yet.

``neurrate export`` holds the graph against the network, and an engine that is made with it. What
the daemon builds for itself, and what was built on a machine that could not run it, is held here
against the same graph on ONNX Runtime's CPU kernels, at every start: a newer driver is also a
change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import EngineError
from contracts.manifest import Manifest
from daemon.encoders.engine_cache import refuse_engine
from daemon.encoders.protocol import Graph

MIN_COSINE = 0.9996
"""Of a patch of the engine with the graph's. The export gate lets a float16 graph be an angle of
acos(0.9999) from the network; two runtimes that far off on either side are at most twice that angle
apart, whose cosine is 0.9996. In float32 a patch moves a thousandth as far; a wrong scale or a lost
layer moves it far beyond (docs/decisions/0014-engines.md has the numbers)."""

N_WINDOWS = 8
"""Half of them heard by everyone, half by a random population. With the paper's encoder on one core
they take 0.8 s (benchmarks/README.md, "A window encoded")."""


def try_engine(engine: Graph, reference: Graph, manifest: Manifest, plan: Path) -> None:
    """Refuse an engine that does not say what the graph says, now and at the next start.

    Parameters
    ----------
    engine : Graph
        To be tried.
    reference : Graph
        The same graph where it is trusted: ONNX Runtime on a CPU.
    manifest : Manifest
        Of their bundle.
    plan : Path
        The engine's file; is removed if the engine is refused, and the reason kept.

    Raises
    ------
    EngineError
        If it is refused; also if it does not run, which refuses nothing for the next start.
    """
    fault = find_fault(engine, reference, manifest)
    if fault:
        refuse_engine(manifest, plan, fault)
        raise EngineError(f"the engine {plan.name} is refused: {fault}")


def find_fault(engine: Graph, reference: Graph, manifest: Manifest) -> str:
    """Hold two compilations of a graph against each other.

    Parameters
    ----------
    engine, reference : Graph
    manifest : Manifest
        Its units' mean rates make the windows.

    Returns
    -------
    fault : str
        A clause with the lowest cosine of a patch, if that is below `MIN_COSINE` or is no number;
        else empty.
    """
    counts, mask = poisson_windows(manifest)
    cosine = lowest_cosine(engine.run(counts, mask), reference.run(counts, mask))
    if cosine >= MIN_COSINE:
        return ""
    return (
        f"on {len(counts)} windows of random spikes a patch of {engine.device} has a cosine of "
        f"{cosine:.6f} with that of {reference.device}, limit {MIN_COSINE:g}"
    )


def poisson_windows(
    manifest: Manifest, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make windows in which every unit fires at its mean rate.

    Parameters
    ----------
    manifest : Manifest
    seed : int

    Returns
    -------
    counts : array, shape (8, n_bins, n_units), float32, spikes per bin
    mask : array, shape (8, n_units), float32
        All 1 in the first half.
    """
    rng = np.random.default_rng(seed)
    rate = np.maximum(manifest.unit_mean, 0)
    shape = (N_WINDOWS, manifest.window_spec.n_bins, len(rate))
    mask = rng.random((N_WINDOWS, len(rate))) < 0.5
    mask[: N_WINDOWS // 2] = True
    return rng.poisson(rate, shape).astype(np.float32), mask.astype(np.float32)


def lowest_cosine(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Return the lowest cosine of a patch with its counterpart.

    Parameters
    ----------
    found, true : array, shape (n, n_patches, dim), float32

    Returns
    -------
    cosine : float
        -1 if one of them is no number or has no length.
    """
    one, other = found.astype(np.float64), true.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = np.einsum("npd,npd->np", one, other) / lengths
    return float(np.where(np.isfinite(cosines), cosines, -1.0).min())
