"""One encoder, four number formats; the graph carries its own.

The doors are float32 in all four, so that the daemon need not know which it runs. In float16 and
bfloat16 everything between is of that type (z-score and result excepted); in int8 the weights of
the matrix products are int8, a scale for each output, and their inputs are quantized as they come
(ONNX Runtime's dynamic quantization).
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Literal, cast

import torch  # noqa: TID253 - the number formats are those of the torch module
from torch import Tensor, nn  # noqa: TID253 - as above

from contracts.errors import DependencyError, UserError
from contracts.manifest import PRECISION_KEY
from encoder_export.folding import fold_batch_norm
from encoder_export.onnx_graph import CountEncoder, forget_origin, quiet, trace_graph
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork, MultiKernelConv
from encoder_training.retrieval import RetrievalEncoder

Precision = Literal["float32", "float16", "bfloat16", "int8"]

QUANTIZED_OPERATORS = ("Gemm", "MatMul")
"""Not the convolutions, whose inputs are the counts: quantizing those too took the lowest cosine of
a patch from 0.9994 to 0.989 (docs/decisions/0014-engines.md), for a thirtieth of the work."""

MAX_TABLE_BYTES = 1_500_000_000
"""Of a retrieval encoder's table of patches. A graph is one protobuf message, which ends at 2 GiB
(protobuf.dev, "Total Size of the Message"), and the weights need room as well."""

_TORCH_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
}


def write_graph(
    encoder: EncoderNetwork, scaling: Scaling, path: Path, *, n_bins: int, precision: Precision
) -> None:
    """Write an encoder's graph in one of the number formats.

    Parameters
    ----------
    encoder : EncoderNetwork
        Of either variant. Is not changed.
    scaling : Scaling
        Of its units.
    path : Path
        Of the ``.onnx`` file.
    n_bins : int
        Bins in a window.
    precision : {"float32", "float16", "bfloat16", "int8"}

    Raises
    ------
    DependencyError
        If onnx, onnxscript or, for int8, ONNX Runtime is not installed.
    UserError
        If the table of a retrieval encoder is too large for a graph.
    """
    _check_table(encoder)
    dtype = _TORCH_TYPES[precision]
    typed = _typed(fold_batch_norm(encoder), dtype)
    if precision == "bfloat16":
        _convolve_in_float32(typed)
    proto = trace_graph(CountEncoder(typed, scaling, dtype).eval(), n_bins=n_bins)
    path.write_bytes(_finished(proto, precision))


def _finished(proto: Any, precision: Precision) -> bytes:
    """Quantize where that is asked for; say in the graph what it is."""
    if precision == "int8":
        proto = _quantized(proto)
    proto.metadata_props.add(key=PRECISION_KEY, value=precision)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def reference_model(encoder: EncoderNetwork) -> EncoderNetwork:
    """Return a copy of an encoder in float64, as it was trained: nothing folded."""
    return _typed(copy.deepcopy(encoder), torch.float64).eval()


def _typed(encoder: EncoderNetwork, dtype: torch.dtype) -> EncoderNetwork:
    """Convert in place, but for a table of patches: those are float16 as the tower gave them."""
    table = encoder.table if isinstance(encoder, RetrievalEncoder) else None
    typed = encoder.to(dtype)
    if table is not None:
        typed.table = table
    return typed


class _InFloat32(nn.Module):
    """A part that stays in float32: ``Conv`` takes no bfloat16 before opset 22."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.float()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x.float())).to(x.dtype)


def _convolve_in_float32(encoder: EncoderNetwork) -> None:
    for module in list(encoder.modules()):
        body = getattr(module, "multi_conv", None)
        if isinstance(body, MultiKernelConv):
            module.multi_conv = _InFloat32(body)


def _quantized(proto: Any) -> Any:
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise DependencyError(
            "An int8 graph is made with ONNX Runtime. Run: pip install 'neurrate[cpu,train]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
        )
        quantized = onnx.load(path)
    forget_origin(quantized)
    return quantized


def _check_table(encoder: EncoderNetwork) -> None:
    if not isinstance(encoder, RetrievalEncoder):
        return
    size_bytes = encoder.table.numel() * 2
    if size_bytes > MAX_TABLE_BYTES:
        n_images, *_ = encoder.table.shape
        fits = int(n_images * MAX_TABLE_BYTES / size_bytes)
        raise UserError(
            f"the patches of {n_images:,} training images are {size_bytes / 1e9:.1f} GB, and a "
            f"graph holds {MAX_TABLE_BYTES / 1e9:.1f} GB, {fits:,} images. Prepare a data set of "
            "fewer movies, or train the patches variant, which keeps no table."
        )
