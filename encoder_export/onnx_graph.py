"""The encoder as an ONNX graph that takes raw spike counts.

The z-scoring is part of the graph, as constants, so that a graph and the manifest beside it cannot
disagree. A unit that is not heard has mask 0, which puts it at its mean: z = 0, whatever it fired.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch  # noqa: TID253 - a graph is traced from the torch module
from torch import Tensor, nn  # noqa: TID253 - as above

from contracts.errors import DependencyError, MisuseError
from contracts.manifest import MAX_ENCODER_BATCH
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork

OPSET = 20
"""The first with ``Gelu`` as one operator, and before 23, from which on attention becomes the
``Attention`` operator that few runtimes have yet (github.com/onnx/onnx, docs/Operators.md)."""

_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class CountEncoder(nn.Module):
    """An encoder that z-scores the counts itself.

    Parameters
    ----------
    encoder : EncoderNetwork
        Takes z-scored counts.
    scaling : Scaling
        Of the same units.
    dtype : torch.dtype
        What the encoder computes in. Counts, mean and standard deviation stay float32, and so do
        the patches that come out.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: EncoderNetwork, scaling: Scaling, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = dtype
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
        grid: Tensor = self.encoder(z.to(self.dtype))
        return grid.float()


def trace_graph(model: CountEncoder, *, n_bins: int) -> Any:
    """Make the graph: ``counts``, ``mask`` -> ``grid``, for 1 to 64 windows at once.

    Parameters
    ----------
    model : CountEncoder
        In evaluation mode.
    n_bins : int
        Bins in a window.

    Returns
    -------
    proto : onnx.ModelProto
        Without a trace of where it was made.

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
    with _plain_attention(), quiet():
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
    forget_origin(proto)
    return proto


def forget_origin(proto: Any) -> None:
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
def quiet() -> Iterator[None]:
    """Silence what exporters say of themselves: deprecations, torchvision, advice to prepare."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="# The axis name: batch will not be used")
            yield
    finally:
        root.removeFilter(_is_error)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
