"""A bundle's graph on ONNX Runtime: on a CPU, or on an NVIDIA GPU where its build offers one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError, EngineError, ManifestError
from contracts.manifest import ENCODER_ONNX, PRECISION_KEY, Manifest
from daemon.encoders.graph_metadata import read_metadata

FLOAT = "tensor(float)"
"""ONNX Runtime's name for float32."""

FLOAT32 = "float32"
BFLOAT16 = "bfloat16"

ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""

FATAL_ONLY = 4
"""Above which nothing is said: a provider that cannot start is our sentence, not its lines."""

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class OnnxGraph:
    """A graph in an ONNX Runtime session.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle that holds it.
    threads : int
        Threads of one operator. More than one competes with the narrator for the cores.
    device : {"cpu", "cuda"}
        Where.

    Raises
    ------
    DependencyError
        If ONNX Runtime, or the GPU that was asked for, is not there.
    EngineError
        If CUDA does not take the graph.
    ManifestError
        If the graph cannot be read or is not the one that the manifest describes.
    """

    def __init__(
        self, manifest: Manifest, *, threads: int = 1, device: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        runtime = import_runtime()
        if device == "cuda":
            check_cuda(runtime)
        path = manifest.folder / ENCODER_ONNX
        self._is_on_gpu = device == "cuda"
        self._ort_session = _open(runtime, path, threads=threads, device=device)
        problems = _disagreements(self._ort_session, manifest)
        if problems:
            raise ManifestError(str(manifest.folder), problems)
        self._device = _describe(runtime, self._ort_session, device)

    @property
    def device(self) -> str:
        """Where it runs, for people."""
        return self._device

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
    """Make one sentence of whatever ONNX Runtime says of a GPU, so that another device is tried.

    Parameters
    ----------
    what : str
        The sentence's beginning.

    Raises
    ------
    EngineError
        With the first line of the error.
    """
    try:
        yield
    except _errors() as error:
        raise EngineError(f"{what}: {_first_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: kinds of its own without a base, and pybind11's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    kinds = (each for each in vars(ort).values() if isinstance(each, type))
    own = (each for each in kinds if issubclass(each, Exception))
    return (*own, RuntimeError, ValueError)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def import_runtime() -> Any:
    """Return the module ``onnxruntime``.

    Raises
    ------
    DependencyError
        If it is not installed, or cannot be loaded.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise DependencyError(
            "The encoder runs on ONNX Runtime, which is not installed. "
            "Run: pip install 'neurrate[cpu]', or 'neurrate[gpu]' for an NVIDIA GPU."
        ) from error
    except (ImportError, OSError, AttributeError) as error:
        raise DependencyError(
            f"ONNX Runtime is installed and cannot be loaded: {error}. Install it again."
        ) from error
    return onnxruntime


def check_cuda(runtime: Any) -> None:
    """Refuse a build of ONNX Runtime without CUDA.

    Parameters
    ----------
    runtime : module
        ``onnxruntime``.

    Raises
    ------
    DependencyError
        With what it offers.
    """
    offered = runtime.get_available_providers()
    if CUDA not in offered:
        raise DependencyError(
            f"this build of ONNX Runtime ({runtime.__version__}) has no CUDA provider, it offers "
            f"{', '.join(offered)}; install 'neurrate[gpu]' in its place"
        )


def _open(runtime: Any, path: Path, *, threads: int, device: str) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY if device == "cuda" else ERRORS_ONLY
    providers = [CUDA, CPU] if device == "cuda" else [CPU]
    try:
        ort_session = runtime.InferenceSession(path, options, providers=providers)
    except _errors() as error:
        if device == "cuda":
            raise EngineError(
                f"CUDA does not take {path.name}: {_first_line(error)}{_hint(path)}"
            ) from error
        problem = f"ONNX Runtime cannot read {path.name}: {error}{_hint(path)}"
        raise ManifestError(str(path.parent), [problem]) from error
    if device == "cuda" and ort_session.get_providers()[0] != CUDA:
        raise DependencyError(
            "ONNX Runtime has a CUDA provider and could not start it; the NVIDIA driver, CUDA or "
            "cuDNN is missing or of another version"
        )
    return ort_session


def _hint(path: Path) -> str:
    if read_metadata(path).get(PRECISION_KEY) != BFLOAT16:
        return ""
    return ". A bfloat16 graph runs on TensorRT alone; export with --precision float32 or float16"


def _describe(runtime: Any, ort_session: Any, device: str) -> str:
    name = "NVIDIA GPU" if device == "cuda" else "CPU"
    metadata = ort_session.get_modelmeta().custom_metadata_map
    precision = metadata.get(PRECISION_KEY, FLOAT32)
    detail = "" if precision == FLOAT32 else f", {precision}"
    return f"{name} (ONNX Runtime {runtime.__version__}{detail})"


def _disagreements(ort_session: Any, manifest: Manifest) -> list[str]:
    """Compare the graph's doors with the manifest."""
    doors = {door.name: door for door in (*ort_session.get_inputs(), *ort_session.get_outputs())}
    problems = []
    for name, shape in expected_doors(manifest).items():
        door = doors.pop(name, None)
        if door is None:
            problems.append(f"{ENCODER_ONNX} has no input or output named {name!r}")
        elif door.type != FLOAT or door.shape[1:] != shape or not isinstance(door.shape[0], str):
            problems.append(
                f"the manifest asks for {name} of shape {['batch', *shape]} and {FLOAT}, "
                f"{ENCODER_ONNX} has {door.shape} and {door.type}; "
                "they are from different exports"
            )
    if doors:
        problems.append(f"{ENCODER_ONNX} has inputs or outputs that are not known: {list(doors)}")
    return problems


def expected_doors(manifest: Manifest) -> dict[str, list[int]]:
    """Return the graph's inputs and output by name, with their shapes after the batch."""
    n_bins, n_units = manifest.window_spec.n_bins, len(manifest.population)
    grid = manifest.patch_grid
    return {
        "counts": [n_bins, n_units],
        "mask": [n_units],
        "grid": [grid.n_patches, grid.dim],
    }
