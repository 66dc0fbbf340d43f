"""The engine of ``neurrate export``: made beside the bundle, and tried where a GPU is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from contracts.errors import DependencyError, EngineError
from contracts.manifest import Manifest
from daemon.encoders.engine_cache import get_engine, refuse_engine
from daemon.encoders.gpu import Gpu, find_gpu
from daemon.encoders.protocol import Graph
from daemon.encoders.trt_library import Library
from encoder_export.parity import Parity, check_parity

Measure = Callable[[Graph], Parity]
"""A graph to how far it is from the network."""


def make_engine(
    manifest: Manifest, library: Library, gpu: Gpu, *, opt_batch: int, measure: Measure
) -> Parity | None:
    """Make the engine of a bundle that is written; where it can run, it passes the same gate.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle.
    library : Library
    gpu : Gpu
        What it is made for.
    opt_batch : int
        Rows for which its kernels are chosen.
    measure : callable
        Holds it against the network.

    Returns
    -------
    parity : Parity or None
        None where there is no GPU to run it.

    Raises
    ------
    EngineError
        If none can be made or loaded; the bundle stays.
    ParityError
        If it is too far from the network; the bundle stays, and the engine is refused.
    """
    try:
        plan = get_engine(manifest, library, gpu, opt_batch=opt_batch)
        if not _can_run():
            return None
        from daemon.encoders.tensorrt import TensorrtGraph

        graph = TensorrtGraph(manifest, opt_batch=opt_batch, library=library)
        parity = measure(graph)
    except EngineError as error:
        raise EngineError(
            f"{str(error).rstrip('.')}. The bundle {manifest.folder} is written, without an engine."
        ) from error
    check_engine_parity(parity, manifest, plan)
    return parity


def check_engine_parity(parity: Parity, manifest: Manifest, plan: Path) -> None:
    """Refuse an engine that is too far from the network, for good.

    Parameters
    ----------
    parity : Parity
        Of the engine.
    manifest : Manifest
        Of its bundle, which stays as it is.
    plan : Path
        Is removed if the engine is refused; its JSON keeps the reason, so that the daemon builds no
        other in its place.

    Raises
    ------
    ParityError
        If it is refused.
    """
    failures = parity.failures()
    if failures:
        refuse_engine(manifest, plan, "; ".join(failures))
    check_parity(
        parity,
        outcome=f"The bundle {manifest.folder} is written, and this engine of it is refused: the "
        "daemon will take CUDA or the CPU.",
    )


def _can_run() -> bool:
    try:
        find_gpu()
    except DependencyError:
        return False
    return True
