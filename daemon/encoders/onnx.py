"""The encoder on ONNX Runtime: on a CPU, or on an NVIDIA GPU where its build offers one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.errors import DependencyError, ManifestError, MisuseError
from contracts.manifest import ENCODER_ONNX, MAX_ENCODER_BATCH, Manifest
from contracts.population import Selection
from contracts.window import Window

FLOAT = "tensor(float)"
"""ONNX Runtime's name for float32."""

ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxEncoder:
    """Counts to patch grids, through every selection, as one batch.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle that holds the graph.
    selections : sequence of Selection
        Of the bundle's population; the order of the embeddings.
    threads : int
        Threads of one operator. More than one competes with the narrator for the cores.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU if this build of ONNX Runtime can use one.

    Raises
    ------
    DependencyError
        If ONNX Runtime, or the GPU that was asked for, is not there.
    ManifestError
        If the graph cannot be read or is not the one that the manifest describes.
    MisuseError
        If a selection is of another population.
    """

    def __init__(
        self,
        manifest: Manifest,
        selections: Sequence[Selection],
        *,
        threads: int = 1,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        self._manifest = manifest
        self._selections = tuple(selections)
        self._grid = manifest.patch_grid
        n_bins, n_units = manifest.window_spec.n_bins, len(manifest.population)
        wrong = [each.name for each in self._selections if each.mask.shape != (n_units,)]
        if wrong:
            raise MisuseError(f"selections must have a mask of {n_units} units; not so: {wrong}")
        self._ort_session, self._device = _open_graph(
            manifest.folder / ENCODER_ONNX, threads=threads, device=device
        )
        problems = _disagreements(self._ort_session, manifest)
        if problems:
            raise ManifestError(str(manifest.folder), problems)
        self._masks = [each.mask.astype(np.float32) for each in self._selections]
        self._shuffles = [
            _Shuffle.of(manifest, each.order()) if each.kind == "shuffled" else None
            for each in self._selections
        ]
        # Pages that no batch is large enough to touch are never made real.
        self._counts: NDArray[np.float32] = np.empty(
            (MAX_ENCODER_BATCH, n_bins, n_units), np.float32
        )
        self._mask: NDArray[np.float32] = np.empty((MAX_ENCODER_BATCH, n_units), np.float32)
        self._warm_up()

    @property
    def manifest(self) -> Manifest:
        """The bundle that it was made from."""
        return self._manifest

    @property
    def selections(self) -> Sequence[Selection]:
        """The populations to narrate, in the order of the embeddings."""
        return self._selections

    @property
    def device(self) -> str:
        """Where it runs, for people."""
        return self._device

    def encode(self, windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        """Encode each window through each selection.

        Called on the fast loop. Windows times selections run as one batch, or as several of 64.

        Parameters
        ----------
        windows : sequence of Window
            Cut by the bundle's `WindowSpec`, but for the stride.

        Returns
        -------
        embeddings : sequence of PatchEmbedding
            Window by window, selection by selection.

        Raises
        ------
        MisuseError
            If a window has another shape.
        """
        expected = self._counts.shape[1:]
        for window in windows:
            if window.counts.shape != expected:
                raise MisuseError(
                    f"the encoder takes windows of shape {expected}, got {window.counts.shape}"
                )
        pairs = list(product(windows, range(len(self._selections))))
        embeddings: list[PatchEmbedding] = []
        for first in range(0, len(pairs), MAX_ENCODER_BATCH):
            embeddings += self._encode_batch(pairs[first : first + MAX_ENCODER_BATCH])
        return embeddings

    def _warm_up(self) -> None:
        """Encode nothing once: the first run finds its memory and its kernels, which takes long."""
        n = min(len(self._selections), MAX_ENCODER_BATCH)
        self._counts[:n], self._mask[:n] = 0, 0
        if n:
            self._run(n)

    def _run(self, n: int) -> NDArray[np.float32]:
        feed = {"counts": self._counts[:n], "mask": self._mask[:n]}
        grids: NDArray[np.float32]
        (grids,) = self._ort_session.run(["grid"], feed)
        return grids

    def _encode_batch(self, pairs: Sequence[tuple[Window, int]]) -> list[PatchEmbedding]:
        n = len(pairs)
        for row, (window, which) in enumerate(pairs):
            shuffle = self._shuffles[which]
            self._counts[row] = shuffle.apply(window.counts) if shuffle else window.counts
            self._mask[row] = self._masks[which]
        grids = self._run(n)
        encoded_host_ns = time.monotonic_ns()
        return [
            PatchEmbedding(
                window=window,
                population=self._selections[which].name,
                n_units=self._selections[which].n_units,
                grid=self._grid,
                patches=patches,
                encoded_host_ns=encoded_host_ns,
            )
            for (window, which), patches in zip(pairs, grids, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """The counts with which each unit fires as another one does, measured by its own habits.

    The graph takes counts and z-scores them with the mean and standard deviation of the row that
    they stand in. A control that is fair to the network gives it the z-scores of every unit, in
    the wrong rows, and not counts that are far from what the row's unit ever does.
    """

    order: NDArray[np.intp]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def of(cls, manifest: Manifest, order: NDArray[np.intp]) -> _Shuffle:
        mean, std = manifest.unit_mean, manifest.unit_std
        scale = std / std[order]
        return cls(order, scale, mean - mean[order] * scale)

    def apply(self, counts: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return mean + std * z[order], row by row; shape (n_bins, n_units)."""
        return counts[:, self.order] * self.scale + self.offset


def _open_graph(path: Path, *, threads: int, device: str) -> tuple[Any, str]:
    # Returns an ONNX Runtime session, and where it runs, in words.
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
    except ImportError as error:
        raise DependencyError(
            "The encoder runs on ONNX Runtime, which is not installed. "
            "Run: pip install 'neurrate[cpu]', or 'neurrate[gpu]' for an NVIDIA GPU."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    offered = onnxruntime.get_available_providers()
    wants_cuda = device == "cuda" or (device == "auto" and _CUDA in offered)
    providers = [_CUDA, _CPU] if wants_cuda and _CUDA in offered else [_CPU]
    try:
        ort_session = onnxruntime.InferenceSession(path, options, providers=providers)
    except (
        ort_errors.Fail,
        ort_errors.InvalidArgument,
        ort_errors.InvalidGraph,
        ort_errors.InvalidProtobuf,
        ort_errors.NoSuchFile,
        ort_errors.NotImplemented,
        ort_errors.RuntimeException,
    ) as error:
        raise ManifestError(
            str(path.parent), [f"ONNX Runtime cannot read {path.name}: {error}"]
        ) from error
    uses_cuda = ort_session.get_providers()[0] == _CUDA
    if device == "cuda" and not uses_cuda:
        raise DependencyError(
            f"encoder.device is cuda, and ONNX Runtime {onnxruntime.__version__} offers "
            f"{', '.join(offered)}. Install 'neurrate[gpu]' and an NVIDIA driver, or use cpu."
        )
    name = "NVIDIA GPU" if uses_cuda else "CPU"
    return ort_session, f"{name} (ONNX Runtime {onnxruntime.__version__})"


def _disagreements(ort_session: Any, manifest: Manifest) -> list[str]:
    """Compare the graph's doors with the manifest."""
    n_bins, n_units = manifest.window_spec.n_bins, len(manifest.population)
    grid = manifest.patch_grid
    expected = {
        "counts": [n_bins, n_units],
        "mask": [n_units],
        "grid": [grid.n_patches, grid.dim],
    }
    doors = {door.name: door for door in (*ort_session.get_inputs(), *ort_session.get_outputs())}
    problems = []
    for name, shape in expected.items():
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
