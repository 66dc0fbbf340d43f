"""From an ONNX graph to a TensorRT engine, strongly typed: the graph says what is computed how."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from contracts.errors import EngineError
from contracts.manifest import MAX_ENCODER_BATCH
from daemon.encoders.trt_library import Library, Listener

RECIPE = 1
"""Version of what follows: flags, profile and network. Raised with each change to them, so that
engines of the recipe before are made again."""

MAX_LISTED_ERRORS = 3
"""A parser names every node it cannot take; three say what kind of graph it is."""


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine as it goes into a file.

    Attributes
    ----------
    plan : bytes
        The engine, for `Library` of the same version.
    precision : str
        float32, float16 or bfloat16: the narrowest number format in the graph.
    timing_cache : bytes
        What was learned about kernels, for the next build; empty where the library keeps none.
    duration_s : float
        How long it took.
    """

    plan: bytes
    precision: str
    timing_cache: bytes
    duration_s: float


def build_engine(
    library: Library, onnx: bytes, *, opt_batch: int = 1, timing_cache: bytes = b""
) -> BuiltEngine:
    """Build an engine for 1 to 64 windows at once.

    TensorRT rounds float32 to TF32 (10 bits of mantissa) unless told otherwise; it is told
    otherwise, because a graph that says float32 passed its parity gate in float32.

    Parameters
    ----------
    library : Library
    onnx : bytes
        The graph.
    opt_batch : int
        Rows for which kernels are chosen: the number of populations.
    timing_cache : bytes
        Of an earlier build with this library on this GPU.

    Returns
    -------
    BuiltEngine

    Raises
    ------
    EngineError
        If the library cannot take the graph, or has no GPU to build for.
    """
    trt = library.module
    listener = Listener(library)
    started_s = time.monotonic()
    try:
        builder = trt.Builder(listener.logger)
    except (TypeError, RuntimeError) as error:  # its factory gave nothing: no driver, no GPU
        raise EngineError(
            f"{library.name} cannot build here: {listener.sentence(str(error))}"
        ) from error
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    _parse(library, network, onnx, listener)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, opt_batch))
    cache = _use_timing_cache(library, config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{library.name} built no engine: {listener.sentence('no reason')}")
    return BuiltEngine(
        plan=bytes(plan),
        precision=_precision(trt, network),
        timing_cache=bytes(cache.serialize()) if cache is not None else b"",
        duration_s=time.monotonic() - started_s,
    )


def _parse(library: Library, network: Any, onnx: bytes, listener: Listener) -> None:
    parser = library.module.OnnxParser(network, listener.logger)
    if parser.parse(onnx):
        return
    found = [parser.get_error(row).desc().strip() for row in range(parser.num_errors)]
    reasons = list(dict.fromkeys(found or listener.errors))[:MAX_LISTED_ERRORS]
    raise EngineError(
        f"{library.name} cannot take this graph: {'; '.join(reasons) or 'no reason'}. An int8 "
        "graph is for a CPU; export with --precision float16 or bfloat16 for a GPU."
    )


def _profile(builder: Any, network: Any, opt_batch: int) -> Any:
    profile = builder.create_optimization_profile()
    best = min(max(1, opt_batch), MAX_ENCODER_BATCH)
    for row in range(network.num_inputs):
        door = network.get_input(row)
        rest = tuple(door.shape)[1:]
        profile.set_shape(door.name, (1, *rest), (best, *rest), (MAX_ENCODER_BATCH, *rest))
    return profile


def _use_timing_cache(library: Library, config: Any, known: bytes) -> Any:
    if library.is_portable:  # it tries no kernels, and warns whoever asks for the cache
        return None
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        # Damaged, or of another GPU or version; an empty one is always taken.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _precision(trt: Any, network: Any) -> str:
    kinds = {
        network.get_layer(row).get_output(0).dtype
        for row in range(network.num_layers)
        if network.get_layer(row).num_outputs
    }
    if trt.DataType.HALF in kinds:
        return "float16"
    return "bfloat16" if trt.DataType.BF16 in kinds else "float32"
