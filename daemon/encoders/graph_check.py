"""A compiled graph is compared with float32 before it is used: its kernels passed no gate here.

``neurrate export`` compares the graph with the network, and an engine that is made with it. What
the daemon builds for itself, and what was built on a machine that could not run it, is compared
here at every start: a newer driver is also a change. So is a float16 or int8 graph on a CPU, whose
kernels are other ones on another processor: those of int8 saturate where there is no VNNI
(docs/decisions/0019-tensorrt-int8.md).
"""

from __future__ import annotations

import hashlib
import logging
import platform
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import patch_cosines
from contracts.errors import EngineError
from contracts.manifest import ENCODER_FLOAT32, ENCODER_ONNX, Manifest
from daemon.encoders.engine_cache import (
    EngineKey,
    check_not_refused,
    refuse_engine,
    refuse_graph,
)
from daemon.encoders.onnx import OnnxGraph, import_runtime
from daemon.encoders.protocol import Graph

LOG = logging.getLogger(__name__)

MIN_COSINE = 0.9996
"""Of a patch of the engine with the reference's. The export gate lets a float16 graph be an angle
of acos(0.9999) from the network; two runtimes that far off on either side are at most twice that
angle apart, whose cosine is 0.9996. In float32 a patch moves a thousandth as far; a wrong scale or
a lost layer moves it far beyond (docs/decisions/0014-engines.md has the numbers)."""

MIN_COSINE_INT8 = 0.99
"""The export gate's own limit for int8."""

N_WINDOWS = 8
"""Half of them through all units, half through a random population. With the paper's encoder on
one core they take 0.8 s (benchmarks/README.md, "A window encoded")."""

CPU_INFO = Path("/proc/cpuinfo")


def check_engine(engine: Graph, reference: Graph, manifest: Manifest, plan: Path) -> None:
    """Refuse an engine whose patches differ from the reference's, now and at the next start.

    The plan of an engine that is refused is removed, and the reason kept.

    Raises
    ------
    EngineError
        If it is refused; also if it does not run, which refuses nothing for the next start.
    """
    fault = find_fault(engine, reference, manifest)
    if fault:
        refuse_engine(manifest, plan, fault)
        raise EngineError(f"the engine {plan.name} is refused: {fault}")


def cpu_graph(manifest: Manifest, *, threads: int = 1) -> OnnxGraph:
    """Open a bundle's graph on the CPU; the float32 one where the other is too far from it.

    Bundles without a second graph are float32, or were exported when none was written.
    """
    reference = reference_graph(manifest, threads=threads)
    if manifest.file(ENCODER_FLOAT32) is None:
        return reference
    key = _processor_key(manifest)
    try:
        check_not_refused(manifest, key)
        graph = OnnxGraph(manifest, threads=threads)
        _check_on_cpu(graph, reference, manifest, key)
    except EngineError as error:
        LOG.warning("the encoder runs in float32 on the CPU, for %s", error)
        return reference
    return graph


def _check_on_cpu(
    graph: OnnxGraph, reference: OnnxGraph, manifest: Manifest, key: EngineKey
) -> None:
    limit = MIN_COSINE_INT8 if graph.precision == "int8" else MIN_COSINE
    fault = find_fault(graph, reference, manifest, min_cosine=limit)
    if fault:
        refuse_graph(manifest, key, precision=graph.precision, reason=fault)
        raise EngineError(f"the graph {ENCODER_ONNX} is refused: {fault}")


def reference_graph(manifest: Manifest, *, threads: int = 1) -> OnnxGraph:
    """Open on the CPU what other graphs are compared with: float32 if the bundle has it."""
    file_name = ENCODER_ONNX if manifest.file(ENCODER_FLOAT32) is None else ENCODER_FLOAT32
    return OnnxGraph(manifest, threads=threads, file_name=file_name)


def find_fault(
    graph: Graph, reference: Graph, manifest: Manifest, *, min_cosine: float = MIN_COSINE
) -> str:
    """Compare two compilations of a graph on windows of `poisson_windows`.

    Returns a clause with the lowest cosine of a patch, if that is below the limit; else "".
    """
    counts, mask = poisson_windows(manifest)
    cosine = patch_cosines(graph.run(counts, mask), reference.run(counts, mask)).min()
    if cosine >= min_cosine:
        return ""
    return (
        f"on {len(counts)} windows of random spikes a patch of {graph.device} has a cosine of "
        f"{cosine:.6f} with that of {reference.device}, limit {min_cosine:g}"
    )


def poisson_windows(
    manifest: Manifest, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make windows in which every unit fires at its mean rate.

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


def _processor_key(manifest: Manifest) -> EngineKey:
    """Return what the kernels of ONNX Runtime depend on: its version and the processor."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return EngineKey(
        library="onnxruntime",
        version=import_runtime().__version__,
        gpu=name[1] if name else platform.processor() or platform.machine(),
        compute_capability=hashlib.sha256(flags[1].encode()).hexdigest()[:12] if flags else "",
        onnx_sha256=manifest.model.sha256[ENCODER_ONNX],
        opt_batch=1,
    )
