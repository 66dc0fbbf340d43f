"""A bundle's graph on ONNX Runtime: on a CPU, or on an NVIDIA GPU where its build offers one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError, EngineError, ManifestError
from contracts.manifest import ENCODER_FLOAT32, ENCODER_ONNX, PRECISION_KEY, Manifest
from daemon.encoders.graph_file import read_graph

FLOAT = "tensor(float)"
"""ONNX Runtime's name for float32."""

FLOAT32 = "float32"

ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""

FATAL_ONLY = 4
"""Silent: a provider that cannot start is reported in our own sentence."""

EXACT_INT8 = "session.x64quantprecision"
"""Session option: int8 weights become unsigned, whose kernels do not saturate without VNNI, and are
slower (onnxruntime_session_options_config_keys.h). For graphs with 8 bits in a weight."""

BFLOAT16_ENTRY = b"\x0a\x09precision\x12\x08bfloat16"
"""An entry of a graph's metadata as protobuf writes it: key (field 1) and value (field 2)."""

METADATA_BYTES = 4096
"""The exporter writes the metadata last."""

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class OnnxGraph:
    """A graph in an ONNX Runtime session.

    More than one of its `threads`, those of one operator, competes with the narrator for the cores.

    Raises
    ------
    DependencyError
        If ONNX Runtime or the requested GPU is missing.
    EngineError
        If CUDA does not take the graph.
    ManifestError
        If the graph cannot be read or is not the one that the manifest describes.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        threads: int = 1,
        device: Literal["cpu", "cuda"] = "cpu",
        file_name: str = ENCODER_ONNX,
    ) -> None:
        runtime = import_runtime()
        if device == "cuda":
            check_cuda(runtime)
        refuse_bfloat16(manifest.folder)
        self._is_on_gpu = device == "cuda"
        self._ort_session = open_session(
            manifest.folder / file_name,
            sha256=manifest.model.sha256.get(file_name, ""),
            threads=threads,
            device=device,
            exact_int8=manifest.file(ENCODER_FLOAT32) is None,
        )
        problems = _disagreements(self._ort_session, manifest)
        if problems:
            raise ManifestError(str(manifest.folder), *problems)
        metadata = self._ort_session.get_modelmeta().custom_metadata_map
        self._precision: str = metadata.get(PRECISION_KEY, FLOAT32)
        detail = "" if self._precision == FLOAT32 else f", {self._precision}"
        name = "NVIDIA GPU" if device == "cuda" else "CPU"
        self._device = f"{name} (ONNX Runtime {runtime.__version__}{detail})"

    @property
    def device(self) -> str:
        """Where it runs, for display."""
        return self._device

    @property
    def precision(self) -> str:
        """float32, float16 or int8."""
        return self._precision

    def run(self, counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode one batch; see `daemon.encoders.protocol.Graph`.

        Raises
        ------
        EngineError
            If a GPU did not do it.
        """
        grids: NDArray[np.float32]
        with cuda_errors("CUDA did not encode") if self._is_on_gpu else nullcontext():
            (grids,) = self._ort_session.run(["grid"], {"counts": counts, "mask": mask})
        return grids


@contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Turn any error of ONNX Runtime on a GPU into an `EngineError`: another device is tried.

    Raises
    ------
    EngineError
        With `what` and the first line of the error.
    """
    try:
        yield
    except _errors() as error:
        raise EngineError(f"{what}: {_first_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime, which share no base, and pybind11's."""
    ort = import_runtime("onnxruntime.capi.onnxruntime_pybind11_state")
    classes = (value for value in vars(ort).values() if isinstance(value, type))
    own = (cls for cls in classes if issubclass(cls, Exception))
    return (*own, RuntimeError, ValueError)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def import_runtime(module: str = "onnxruntime") -> Any:
    """Return the module ``onnxruntime``, or one in it. Nothing else imports it.

    Raises
    ------
    DependencyError
        If it is not installed, or cannot be loaded.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyError(
            "The encoder, and on a CPU the language model, run on ONNX Runtime, which is not "
            "installed. "
            "Run: pip install 'neurrate[cpu]', or 'neurrate[gpu]' for an NVIDIA GPU."
        ) from error
    except (ImportError, OSError, AttributeError) as error:
        raise DependencyError(
            f"ONNX Runtime is installed and cannot be loaded: {error}. Install it again."
        ) from error


def check_cuda(runtime: Any) -> None:
    """Refuse a build of the module ``onnxruntime`` without CUDA.

    Raises
    ------
    DependencyError
        With the providers that it offers.
    """
    offered = runtime.get_available_providers()
    if CUDA not in offered:
        raise DependencyError(
            f"this build of ONNX Runtime ({runtime.__version__}) has no CUDA provider, it offers "
            f"{', '.join(offered)}; install 'neurrate[gpu]' in its place"
        )


def refuse_bfloat16(folder: Path) -> None:
    """Refuse a bundle's graph if it is bfloat16, which earlier versions exported for TensorRT.

    Raises
    ------
    ManifestError
        With the remedy. A missing file is left to whoever opens it.
    """
    path = folder / ENCODER_ONNX
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - METADATA_BYTES))
            is_bfloat16 = BFLOAT16_ENTRY in file.read()
    except OSError:
        return
    if is_bfloat16:
        problem = (
            f"{ENCODER_ONNX} is bfloat16, which is no longer supported; export the encoder again "
            "with --precision float32 or float16"
        )
        raise ManifestError(str(folder), problem)


def open_session(
    path: Path,
    *,
    sha256: str | None = None,
    threads: int = 1,
    device: str = "cpu",
    exact_int8: bool = False,
) -> Any:
    """Open a graph in an ONNX Runtime session; see `read_graph` for `sha256`.

    `threads` are those of one operator, 0 for all cores. `exact_int8` takes kernels that do not
    saturate with weights of 8 bits, on any processor.

    Raises
    ------
    DependencyError
        If ONNX Runtime or CUDA is missing.
    EngineError
        If CUDA does not take the graph.
    ManifestError
        If the graph cannot be read.
    """
    runtime = import_runtime()
    content = read_graph(path, sha256=sha256)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY if device == "cuda" else ERRORS_ONLY
    options.add_session_config_entry(EXACT_INT8, "1" if exact_int8 else "0")
    providers = [CUDA, CPU] if device == "cuda" else [CPU]
    try:
        ort_session = runtime.InferenceSession(content, options, providers=providers)
    except _errors() as error:
        if device == "cuda":
            raise EngineError(f"CUDA does not take {path.name}: {_first_line(error)}") from error
        problem = f"ONNX Runtime cannot read {path.name}: {error}"
        raise ManifestError(str(path.parent), problem) from error
    if device == "cuda" and ort_session.get_providers()[0] != CUDA:
        raise DependencyError(
            "ONNX Runtime has a CUDA provider and could not start it; the NVIDIA driver, CUDA or "
            "cuDNN is missing or of another version"
        )
    return ort_session


def _disagreements(ort_session: Any, manifest: Manifest) -> list[str]:
    """Compare the graph's inputs and output with the manifest."""
    tensors = {
        tensor.name: tensor for tensor in (*ort_session.get_inputs(), *ort_session.get_outputs())
    }
    problems = []
    for name, shape in expected_shapes(manifest).items():
        tensor = tensors.pop(name, None)
        if tensor is None:
            problems.append(f"{ENCODER_ONNX} has no input or output named {name!r}")
        elif (
            tensor.type != FLOAT
            or tensor.shape[1:] != shape
            or not isinstance(tensor.shape[0], str)
        ):
            problems.append(
                f"the manifest asks for {name} of shape {['batch', *shape]} and {FLOAT}, "
                f"{ENCODER_ONNX} has {tensor.shape} and {tensor.type}; "
                "they are from different exports"
            )
    if tensors:
        problems.append(f"{ENCODER_ONNX} has inputs or outputs that are not known: {list(tensors)}")
    return problems


def expected_shapes(manifest: Manifest) -> dict[str, list[int]]:
    """Return the graph's inputs and output by name, with their shapes after the batch."""
    n_bins, n_units = manifest.window_spec.n_bins, len(manifest.population)
    grid = manifest.patch_grid
    return {
        "counts": [n_bins, n_units],
        "mask": [n_units],
        "grid": [grid.n_patches, grid.dim],
    }
