"""TensorRT's two libraries, which share one Python API: loaded, checked, and made to build engines.

``tensorrt`` makes an engine for one GPU by timing kernels on it. ``tensorrt_rtx`` makes one for
every GPU from Ampere on, without any present, and finishes it where it is loaded
(docs.nvidia.com, TensorRT-RTX, "CPU-Only AOT and TensorRT-RTX Engines").

Networks are strongly typed: precision is part of the graph and not of the build's flags, which
TensorRT 11 removed. Only names that exist in TensorRT 10 and 11 are used here and in `tensorrt`
(docs/decisions/0014-engines.md).
"""

from __future__ import annotations

import ctypes
import logging
import re
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from contracts.errors import DependencyError, EngineError
from contracts.manifest import MAX_ENCODER_BATCH

LOG = logging.getLogger(__name__)

KNOWN_MAJOR = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
"""Libraries in the order in which they are tried, and the versions whose API is used here."""

INSTALL = {"tensorrt": "neurrate[gpu]", "tensorrt_rtx": "neurrate[rtx]"}

RECIPE = 1
"""Version of the build: flags, profile and network. Raised with each change to them, so that
older engines are made again."""

MAX_LISTED_ERRORS = 3
"""A parser names every node it cannot take; three tell what kind of graph it is."""

DRIVER_LIBRARY = "libcuda.so.1"
"""Installed by the NVIDIA driver; the CUDA toolkit is not needed for it."""

NAME_BYTES = 256
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76
"""Of ``CUdevice_attribute`` (CUDA driver API, section 6.1, data types)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU."""

    name: str  # as the driver reports it: NVIDIA H100 80GB HBM3
    compute_capability: str  # 9.0


def find_gpu(library: str = DRIVER_LIBRARY) -> Gpu:
    """Query the driver for the first GPU that ``CUDA_VISIBLE_DEVICES`` leaves.

    torch could tell as well, and takes a second to import.

    Raises
    ------
    DependencyError
        If there is no driver, or it has no GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise DependencyError(f"no NVIDIA driver is here ({library})") from error
    n_gpus, device = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for function, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGetCount", (ctypes.byref(n_gpus),)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetName", (name, NAME_BYTES, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device)),
    ):
        status = getattr(driver, function)(*arguments)
        if status:
            raise DependencyError(f"the NVIDIA driver offers no GPU ({function}: {status})")
    return Gpu(name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}")


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two, loaded."""

    name: str
    version: str
    module: Any = field(repr=False)
    is_portable: bool  # its engines are for any GPU, and made without one


def load_library(name: str) -> Library:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises
    ------
    DependencyError
        If it is not installed, cannot be loaded, or its version is not in `KNOWN_MAJOR`.
    """
    install = f"pip install '{INSTALL[name]}'"
    try:
        module = import_module(name)
        version = str(module.__version__)
        is_known = int(version.partition(".")[0]) in KNOWN_MAJOR[name]
    except ModuleNotFoundError as error:
        if error.name == name:
            raise DependencyError(f"{name} is not installed ({install})") from error
        raise DependencyError(
            f"{name} is installed and lacks {error.name}; install it again: {install}"
        ) from error
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DependencyError(
            f"{name} is installed and cannot be loaded ({reason}); install it again: {install}"
        ) from error
    if not is_known:
        majors = " and ".join(str(major) for major in KNOWN_MAJOR[name])
        raise DependencyError(f"{name} {version} is installed, and Neurrate knows {majors}")
    return Library(name, version, module, is_portable=name == "tensorrt_rtx")


def first_library() -> Library:
    """Return TensorRT, else TensorRT for RTX.

    Raises
    ------
    DependencyError
        With the reason for each.
    """
    reasons = []
    for name in KNOWN_MAJOR:
        try:
            return load_library(name)
        except DependencyError as error:
            reasons.append(str(error))
    raise DependencyError("; ".join(reasons))


class TensorrtLog:
    """The errors that a library reports through `logger`; the caller clears the list."""

    def __init__(self, library: Library) -> None:
        trt = library.module
        errors: list[str] = []

        class _Logger(trt.ILogger):  # type: ignore[misc, name-defined] # loaded just now
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(trt.ILogger.Severity.ERROR):
                    errors.append(re.sub(r"\s+", " ", message).strip())
                else:
                    LOG.debug("%s: %s", library.name, message)

        self.errors = errors
        self.logger = _Logger()

    def reason(self, default: str = "no reason") -> str:
        """Return the errors as one clause; `default` if there is none."""
        return "; ".join(dict.fromkeys(self.errors)) or default


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine before it is written to a file."""

    plan: bytes  # for a Library of the same version
    precision: str  # float32 or float16: the narrowest number format in the graph
    timing_cache: bytes  # of kernels, for the next build; empty where the library keeps none
    duration_s: float


def build_engine(
    library: Library, onnx: bytes, *, opt_batch: int = 1, timing_cache: bytes = b""
) -> BuiltEngine:
    """Build an engine for 1 to 64 windows at once.

    TensorRT rounds float32 to TF32 (10 bits of mantissa) by default; this is switched off, because
    a float32 graph passed its parity gate in float32.

    Kernels are chosen for `opt_batch` rows, the number of populations. `timing_cache` is that of an
    earlier build with this library on this GPU.

    Raises
    ------
    EngineError
        If the library cannot take the graph, or has no GPU to build for.
    """
    trt = library.module
    log = TensorrtLog(library)
    started_s = time.monotonic()
    try:
        builder = trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # its factory returned nothing: no driver, no GPU
        raise EngineError(f"{library.name} cannot build here: {log.reason(str(error))}") from error
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    _parse(library, network, onnx, log)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, opt_batch))
    cache = _use_timing_cache(library, config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{library.name} built no engine: {log.reason()}")
    return BuiltEngine(
        plan=bytes(plan),
        precision=_precision(trt, network),
        timing_cache=bytes(cache.serialize()) if cache is not None else b"",
        duration_s=time.monotonic() - started_s,
    )


def _parse(library: Library, network: Any, onnx: bytes, log: TensorrtLog) -> None:
    parser = library.module.OnnxParser(network, log.logger)
    if parser.parse(onnx):
        return
    errors = [parser.get_error(row).desc().strip() for row in range(parser.num_errors)]
    reasons = list(dict.fromkeys(errors or log.errors))[:MAX_LISTED_ERRORS]
    raise EngineError(
        f"{library.name} cannot take this graph: {'; '.join(reasons) or 'no reason'}. An int8 "
        "graph is for a CPU; export with --precision float16 for a GPU."
    )


def _profile(builder: Any, network: Any, opt_batch: int) -> Any:
    profile = builder.create_optimization_profile()
    best = min(max(1, opt_batch), MAX_ENCODER_BATCH)
    for row in range(network.num_inputs):
        tensor = network.get_input(row)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (best, *rest), (MAX_ENCODER_BATCH, *rest))
    return profile


def _use_timing_cache(library: Library, config: Any, known: bytes) -> Any:
    if library.is_portable:  # it times no kernels, and warns when asked for the cache
        return None
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        # Damaged, or of another GPU or version; an empty one is always accepted.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _precision(trt: Any, network: Any) -> str:
    types = {
        network.get_layer(row).get_output(0).dtype
        for row in range(network.num_layers)
        if network.get_layer(row).num_outputs
    }
    return "float16" if trt.DataType.HALF in types else "float32"
