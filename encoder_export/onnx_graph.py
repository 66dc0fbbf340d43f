"""The encoder as an ONNX graph that takes raw spike counts, and the proof that it is the same.

The z-scoring is part of the graph, as constants, so that a graph and the manifest beside it cannot
disagree. A unit that is not heard has mask 0, which puts it at its mean: z = 0, whatever it fired.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - a graph is traced from the torch module
from torch import Tensor, nn  # noqa: TID253 - as above

from contracts.errors import DependencyError, MisuseError
from contracts.manifest import MAX_ENCODER_BATCH
from encoder_training.dataset import Scaling
from encoder_training.model import Encoder

OPSET = 20
"""The first with ``Gelu`` as one operator, and before 23, from which on attention becomes the
``Attention`` operator that few runtimes have yet (github.com/onnx/onnx, docs/Operators.md)."""

PARITY_BATCHES = (1, 2, 5)
"""Batch sizes that are compared: one, the size the graph was traced with, and another."""

PARITY_LIMIT = 1e-4
"""Largest absolute difference from torch: a tenth of the step of float16 at 1 (2 ** -10), in which
the language model takes the patches on a GPU."""

_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class CountEncoder(nn.Module):
    """An encoder that z-scores the counts itself.

    Parameters
    ----------
    encoder : Encoder
        Takes z-scored counts.
    scaling : Scaling
        Of the same units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, scaling: Scaling) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.from_numpy(scaling.mean.copy()))
        self.register_buffer("std", torch.from_numpy(scaling.std.copy()))

    def forward(self, counts: Tensor, mask: Tensor) -> Tensor:
        """Encode.

        Parameters
        ----------
        counts : tensor, shape (n, n_bins, n_units), float32, spikes per bin
        mask : tensor, shape (n, n_units), float32
            1 for a unit that is heard, 0 for one held at its mean.

        Returns
        -------
        grid : tensor, shape (n, n_patches, dim), float32
        """
        z = (counts - self.mean) / self.std * mask.unsqueeze(1)
        grid: Tensor = self.encoder(z)
        return grid


def export_onnx(model: CountEncoder, path: Path, *, n_bins: int) -> None:
    """Write the graph: ``counts``, ``mask`` -> ``grid``, for 1 to 64 windows at once.

    Parameters
    ----------
    model : CountEncoder
        In evaluation mode.
    path : Path
        Of the ``.onnx`` file.
    n_bins : int
        Bins in a window.

    Raises
    ------
    DependencyError
        If the exporter is not installed.
    MisuseError
        If torch gives no program back.
    """
    try:
        import onnx  # noqa: F401 - only to see whether it is there
        import onnxscript  # noqa: F401 - as above
    except ImportError as error:
        raise DependencyError(
            "Exporting an encoder needs onnx and onnxscript. Run: pip install 'neurrate[train]'"
        ) from error
    n_units = model.mean.shape[0]
    batch = torch.export.Dim("batch", min=1, max=MAX_ENCODER_BATCH)
    with _plain_attention(), _quiet():
        program = torch.onnx.export(
            model,
            (torch.zeros(2, n_bins, n_units), torch.ones(2, n_units)),
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}),
            input_names=["counts", "mask"],
            output_names=["grid"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise MisuseError("torch.onnx.export gave no program")
    proto = program.model_proto
    _forget_origin(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def parity_error(model: CountEncoder, path: Path, *, n_bins: int, seed: int = 0) -> float:
    """Compare the graph with torch on Poisson counts and random masks.

    Parameters
    ----------
    model : CountEncoder
        What the graph was made from, in evaluation mode.
    path : Path
        Of the ``.onnx`` file.
    n_bins : int
        Bins in a window.
    seed : int
        Of the counts.

    Returns
    -------
    error : float
        Largest absolute difference over all batch sizes in `PARITY_BATCHES`; infinite if either
        side gives anything but numbers.

    Raises
    ------
    DependencyError
        If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "Checking an exported encoder needs ONNX Runtime. Run: pip install 'neurrate[cpu]'"
        ) from error
    ort_session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    mean = model.mean.numpy()
    worst = 0.0
    for n in PARITY_BATCHES:
        counts = rng.poisson(np.maximum(mean, 0), (n, n_bins, len(mean))).astype(np.float32)
        mask = (rng.random((n, len(mean))) < 0.8).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(counts), torch.from_numpy(mask)).numpy()
        (found,) = ort_session.run(["grid"], {"counts": counts, "mask": mask})
        difference = float(np.abs(found - expected).max())
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def _forget_origin(proto: Any) -> None:
    """Remove traces of the source, which hold paths and make equal graphs unequal files."""
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch off its fused attention, which the exporter cannot see into."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself: deprecations, torchvision, folded constants."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="# The axis name: batch will not be used")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
