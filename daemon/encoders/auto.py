"""The device that encodes: TensorRT, then CUDA, then the CPU; and the reasons against others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from contracts.errors import DependencyError, EngineError
from contracts.manifest import Manifest
from contracts.population import Selection
from daemon.encoders.graph_check import check_engine, cpu_graph, reference_graph
from daemon.encoders.onnx import OnnxGraph, check_cuda, import_runtime
from daemon.encoders.protocol import Graph
from daemon.encoders.tensorrt import TensorrtGraph
from daemon.encoders.tensorrt_build import find_gpu, first_library
from daemon.encoders.window_encoder import WindowEncoder

LOG = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "tensorrt"]


def load_encoder(
    manifest: Manifest,
    selections: Sequence[Selection],
    *,
    threads: int = 1,
    device: Device = "auto",
) -> WindowEncoder:
    """Load a bundle's encoder on the fastest device available, or on the one requested.

    One line of the log names it, and gives the reason against each faster one. The order of
    `selections` is that of the embeddings; `threads` are those of one operator on a CPU; ``auto``
    takes the first of TensorRT, CUDA and CPU that works.

    Raises
    ------
    DependencyError
        If ONNX Runtime is missing, or what the requested device needs.
    EngineError
        If a GPU was requested and cannot take the bundle's graph, or its engine is refused.
    ManifestError
        If the graph cannot be read or is not the one that the manifest describes.
    """
    graphs: dict[str, Callable[[], Graph]] = {
        "tensorrt": lambda: _checked_engine(manifest, len(selections), threads),
        "cuda": lambda: OnnxGraph(manifest, threads=threads, device="cuda"),
        "cpu": lambda: cpu_graph(manifest, threads=threads),
    }

    def load(name: str) -> WindowEncoder:
        return WindowEncoder(manifest, selections, graphs[name]())

    reasons: list[str] = []
    encoder = take_first(load, reasons) if device == "auto" else _requested(device, load)
    LOG.info("encoder on %s%s", encoder.device, _because(reasons))
    return encoder


def take_first(
    load: Callable[[str], WindowEncoder],
    reasons: list[str],
    *,
    obstacles: Mapping[str, Callable[[], None]] | None = None,
) -> WindowEncoder:
    """Load the encoder on the first device that takes it.

    Why each device before was not taken is appended to `reasons`. `obstacles` has, for each device
    before the CPU, what raises the reason against it; TensorRT's and CUDA's if omitted.

    Raises
    ------
    NeurrateError
        From loading on the CPU.
    """
    for name, obstacle in (_OBSTACLES if obstacles is None else obstacles).items():
        try:
            obstacle()
            return load(name)
        except (DependencyError, EngineError) as error:
            reasons.append(str(error))
    return load("cpu")


def outlook() -> str:
    """Return which device ``auto`` would take for a float32 bundle, and why none before it.

    For example ``the CPU: no NVIDIA driver is here (libcuda.so.1)``.
    """
    reasons: list[str] = []
    for name, obstacle in (("TensorRT", _tensorrt_obstacle), ("CUDA", _cuda_obstacle)):
        try:
            obstacle()
        except DependencyError as error:
            reasons.append(str(error))
        else:
            return f"{name}{_because(reasons)}"
    return f"the CPU{_because(reasons)}"


def _requested(device: str, load: Callable[[str], WindowEncoder]) -> WindowEncoder:
    try:
        return load(device)
    except DependencyError as error:
        if device == "cpu":
            raise
        raise DependencyError(f"encoder.device is {device}, and {error}") from error


def _tensorrt_obstacle() -> None:
    """Raise the reason against TensorRT, as far as it shows without importing torch."""
    first_library()
    find_gpu()


def _cuda_obstacle() -> None:
    check_cuda(import_runtime())
    find_gpu()


_OBSTACLES = {"tensorrt": _tensorrt_obstacle, "cuda": _cuda_obstacle}


def _checked_engine(manifest: Manifest, n_rows: int, threads: int) -> Graph:
    engine = TensorrtGraph(manifest, opt_batch=n_rows)
    check_engine(engine, reference_graph(manifest, threads=threads), manifest, engine.plan)
    return engine


def _because(reasons: Sequence[str]) -> str:
    return f": {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
