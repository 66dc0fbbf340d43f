"""A bundle's graph as a TensorRT engine on an NVIDIA GPU, with torch tensors as buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError, EngineError
from contracts.manifest import MAX_ENCODER_BATCH, Manifest
from daemon.encoders.engine_cache import get_engine, key_of, read_facts, read_plan, target_gpu
from daemon.encoders.onnx import FLOAT32, expected_shapes, refuse_bfloat16
from daemon.encoders.tensorrt_build import Library, TensorrtLog, find_gpu, first_library


class TensorrtGraph:
    """An engine, loaded, with memory on the GPU for 64 windows.

    Its kernels are chosen for `opt_batch` rows, the number of populations. The library is the first
    that is installed if omitted.

    Raises
    ------
    DependencyError
        If there is no GPU, no library, or a torch that cannot use the GPU.
    EngineError
        If no engine can be made of the graph, or the GPU refuses it.
    ManifestError
        If the graph is bfloat16.
    """

    def __init__(
        self, manifest: Manifest, *, opt_batch: int = 1, library: Library | None = None
    ) -> None:
        refuse_bfloat16(manifest.folder)
        gpu = find_gpu()
        library = library or first_library()
        self._torch = _torch_with_cuda()
        target = target_gpu(library)
        self._path = get_engine(manifest, library, target, opt_batch=opt_batch)
        plan = read_plan(self._path, key_of(manifest, library, target, opt_batch=opt_batch))
        self._log = TensorrtLog(library)
        self._runtime = library.module.Runtime(self._log.logger)  # outlives the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{library.name} {library.version} does not load the engine: {self._log.reason()}"
            )
        _check_shapes(library, self._engine, manifest)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"the GPU has no room for the engine: {self._log.reason()}")
        self._stream, self._buffers = _memory(self._torch, expected_shapes(manifest))
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        precision = read_facts(self._path).precision
        detail = "" if precision == FLOAT32 else f", {precision}"
        self._device = f"{gpu.name} ({library.name} {library.version}{detail})"

    @property
    def device(self) -> str:
        """Where it runs, for display."""
        return self._device

    @property
    def plan(self) -> Path:
        """The engine's file."""
        return self._path

    def run(self, counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode one batch; see `daemon.encoders.protocol.Graph`.

        Raises
        ------
        EngineError
            If the GPU did not do it.
        """
        try:
            return self._run(counts, mask)
        except RuntimeError as error:  # torch raises it for every CUDA error
            reason = str(error).partition("\n")[0]
            raise EngineError(f"the GPU did not encode: {reason}") from error

    def _run(self, counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        torch, n = self._torch, len(counts)
        with torch.cuda.stream(self._stream):
            for name, array in (("counts", counts), ("mask", mask)):
                self._buffers[name][:n].copy_(torch.from_numpy(array), non_blocking=True)
                self._context.set_input_shape(name, array.shape)
            self._log.errors.clear()
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineError(f"the engine did not run: {self._log.reason()}")
            grids: NDArray[np.float32] = self._buffers["grid"][:n].cpu().numpy()
        return grids


def _torch_with_cuda() -> Any:
    import torch

    if not torch.cuda.is_available():
        raise DependencyError(
            f"this build of torch ({torch.__version__}) cannot use the GPU, whose memory the "
            "engine needs; install a CUDA build of torch"
        )
    return torch


def _memory(torch: Any, shapes: dict[str, list[int]]) -> tuple[Any, dict[str, Any]]:
    """Return a stream and a buffer for each of the graph's inputs and its output.

    Raises
    ------
    EngineError
        If there is no room, or the driver is older than torch's CUDA.
    """
    try:
        return torch.cuda.Stream(), {
            name: torch.empty((MAX_ENCODER_BATCH, *shape), dtype=torch.float32, device="cuda")
            for name, shape in shapes.items()
        }
    except RuntimeError as error:  # out of memory, or a driver older than torch's CUDA
        reason = str(error).partition("\n")[0]
        raise EngineError(f"the GPU has no room for the encoder's windows: {reason}") from error


def _check_shapes(library: Library, engine: Any, manifest: Manifest) -> None:
    trt = library.module
    actual = {
        name: (list(engine.get_tensor_shape(name))[1:], engine.get_tensor_dtype(name))
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
    }
    wanted = {
        name: (shape, trt.DataType.FLOAT) for name, shape in expected_shapes(manifest).items()
    }
    if actual != wanted:
        raise EngineError(f"the engine's inputs and output are {actual}, the bundle's {wanted}")
