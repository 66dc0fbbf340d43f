"""The encoder as an ONNX graph that takes raw spike counts, in one of three number formats.

The z-scoring is part of the graph, as constants, so that a graph and the manifest beside it cannot
disagree. A masked unit is held at its mean: z = 0, whatever it fired.

Inputs and output are float32 in all three formats, so that the daemon need not know which it runs.
In float16 everything between is float16, z-score excepted. In int8 the weights of the matrix
products are integers of 7 bits, a scale for each output, and their inputs are quantized to 8 bits
as they come (ONNX Runtime's dynamic quantization). The eighth bit is left out because processors
without VNNI add two products of 8 bits in 16, and saturate (docs/decisions/0019-tensorrt-int8.md).
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch  # noqa: TID253 - a graph is traced from the torch module
from torch import Tensor, nn  # noqa: TID253 - as above

from contracts.errors import DependencyError, MisuseError, UserError
from contracts.garbage import collector_paused
from contracts.manifest import MAX_ENCODER_BATCH, PRECISION_KEY
from daemon.encoders.onnx import import_runtime
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork, MultiKernelConv
from encoder_training.retrieval import RetrievalEncoder
from encoder_training.weights import variant_of

Precision = Literal["float32", "float16", "int8"]

OPSET = 20
"""The first with ``Gelu`` as one operator, and before 23, from which on attention becomes the
``Attention`` operator that few runtimes have yet (github.com/onnx/onnx, docs/Operators.md)."""

QUANTIZED_OPERATORS = ("Gemm", "MatMul")
"""Not the convolutions, whose inputs are the counts: quantizing those too took the lowest cosine of
a patch from 0.9994 to 0.989 (docs/decisions/0014-engines.md), for a thirtieth of the work."""

VARIANT_KEY = "variant"
"""Of the metadata of a graph: which encoder it is, as `variant_of` says."""

LAYERS = ("Gemm",)
"""Of the evidence encoder: its layers, and not the sums over units, where log likelihoods in the
hundreds decide by differences of ones, nor the last product."""

FLOAT_LAYERS = ("encoder.trust.weight", "encoder.to_dims.weight")
"""Weights of layers of the evidence encoder that stay float32: the few of how far the estimates are
believed, and the read-out, whose inputs have one scale for components of very different size. In
int8 they change one narration in twelve of an encoder of real spikes, and without them none
(docs/decisions/0027-evidence-adds-up.md)."""

MAX_TABLE_BYTES = 1_500_000_000
"""Of a retrieval encoder's table of patches. A graph is one protobuf message, which ends at 2 GiB
(protobuf.dev, "Total Size of the Message"), and the weights need room as well."""

_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class CountEncoder(nn.Module):
    """An encoder that z-scores the counts itself.

    Counts, mean and standard deviation are float32 whatever the type of the encoder's weights, and
    so are the patches that come out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: EncoderNetwork, scaling: Scaling) -> None:
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
            1 for a selected unit, 0 for one held at its mean.

        Returns
        -------
        grid : tensor, shape (n, n_patches, dim), float32
        """
        z = (counts - self.mean) / self.std * mask.unsqueeze(1)
        grid: Tensor = self.encoder(z, mask)
        return grid.float()


def write_graph(
    encoder: EncoderNetwork,
    scaling: Scaling,
    path: Path,
    *,
    n_bins: int,
    precision: Literal["float32", "float16"] = "float32",
) -> None:
    """Trace an encoder, and write its graph: ``counts``, ``mask`` -> ``grid``, for 1 to 64 windows.

    The encoder, of any variant, is not changed. `write_int8` makes the third format of a float32
    graph.

    Raises
    ------
    DependencyError
        If onnx or onnxscript is not installed.
    UserError
        If the table of a retrieval encoder is too large for a graph.
    MisuseError
        If torch returns no program.
    """
    _check_table(encoder)
    dtype = torch.float16 if precision == "float16" else torch.float32
    typed = fold_batch_norm(encoder).to_precision(dtype)
    proto = _trace(CountEncoder(typed, scaling).eval(), n_bins=n_bins)
    _save(proto, path, precision, variant_of(encoder))


def write_int8(float32: Path, path: Path) -> None:
    """Quantize the matrix products of a float32 graph that `write_graph` wrote.

    Raises
    ------
    DependencyError
        If onnx or ONNX Runtime is not installed.
    """
    try:
        import onnx

        quantization = import_runtime("onnxruntime.quantization")
    except (ImportError, DependencyError) as error:
        raise DependencyError(
            "An int8 graph is made with ONNX Runtime. Run: pip install 'neurrate[cpu]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder, _quiet():
        scratch = Path(folder) / "int8.onnx"
        traced = onnx.load(float32)
        metadata = {entry.key: entry.value for entry in traced.metadata_props}
        variant = metadata[VARIANT_KEY]
        # The quantizer first rewrites each Gemm as a MatMul of another name, so that it must
        # quantize both types; a node that stays as it is is left out by both names.
        left_out = [
            name
            for node in traced.graph.node
            if not _is_quantized(node, variant)
            for name in (node.name, f"{node.name}_MatMul")
        ]
        quantization.quantize_dynamic(
            float32,
            scratch,
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            nodes_to_exclude=left_out,
        )
        quantized = onnx.load(scratch)
    _save(quantized, path, "int8", variant)


def _is_quantized(node: Any, variant: str) -> bool:
    if variant != "evidence":
        return node.op_type in QUANTIZED_OPERATORS
    return node.op_type in LAYERS and not any(name in FLOAT_LAYERS for name in node.input)


def reference_model(encoder: EncoderNetwork) -> EncoderNetwork:
    """Return a copy of an encoder in float64, as it was trained: nothing folded."""
    return copy.deepcopy(encoder).to_precision(torch.float64).eval()


def fold_batch_norm(encoder: EncoderNetwork) -> EncoderNetwork:
    """Return a copy of an encoder without batch normalization, equal up to rounding.

    In this encoder it follows GELU, so it cannot be folded back into the convolution; it goes
    forward into the linear layer that takes the concatenated branches:
    W (g a + b) + c = (W g) a + (W b + c), with g = weight / sqrt(variance + eps) and
    b = bias - mean g. The padding is no obstacle, for it is added before the convolution.

    The z-score before the convolution stays. Its mean could be folded into the convolution's bias
    only if the padding were the mean as well, and it is zero: the bins at the window's edges would
    change.

    The encoder, in evaluation mode and of any variant, is not changed; the copy is in evaluation
    mode. The products are made in float64 and rounded once.
    """
    folded = copy.deepcopy(encoder).eval()
    for module in folded.modules():
        body = getattr(module, "multi_conv", None)
        if isinstance(body, MultiKernelConv):
            after = cast(nn.Sequential, module.input_proj)[0]
            _fold(body, cast(nn.Linear, after))
    return folded


@torch.no_grad()
def _fold(body: MultiKernelConv, after: nn.Linear) -> None:
    scales, offsets = [], []
    for branch in body.branches:
        branch = cast(nn.Sequential, branch)
        norm = cast(nn.BatchNorm1d, branch[2])
        state = {name: tensor.double() for name, tensor in norm.state_dict().items()}
        scale = state["weight"] / torch.sqrt(state["running_var"] + norm.eps)
        scales.append(scale)
        offsets.append(state["bias"] - state["running_mean"] * scale)
        branch[2] = nn.Identity()
    scale, offset = torch.cat(scales), torch.cat(offsets)
    weight = after.weight.double()
    after.bias.copy_(weight @ offset + after.bias.double())
    after.weight.copy_(weight * scale)


def _check_table(encoder: EncoderNetwork) -> None:
    if not isinstance(encoder, RetrievalEncoder):
        return
    size_bytes = encoder.table.numel() * 2
    if size_bytes > MAX_TABLE_BYTES:
        n_images, *_ = encoder.table.shape
        n_that_fit = int(n_images * MAX_TABLE_BYTES / size_bytes)
        raise UserError(
            f"the patches of {n_images:,} training images are {size_bytes / 1e9:.1f} GB, and a "
            f"graph holds {MAX_TABLE_BYTES / 1e9:.1f} GB, {n_that_fit:,} images. Prepare a data "
            "set of fewer movies, or train with --architecture neurrator --variant patches or with "
            "--architecture evidence, which keep no table."
        )


def _trace(model: CountEncoder, *, n_bins: int) -> Any:
    try:
        import onnx  # noqa: F401 - only to see whether it is installed
        import onnxscript  # noqa: F401 - as above
    except ImportError as error:
        raise DependencyError(
            "Exporting an encoder needs onnx and onnxscript. Run: pip install onnx onnxscript"
        ) from error
    n_units = model.mean.shape[0]
    batch = torch.export.Dim("batch", min=1, max=MAX_ENCODER_BATCH)
    # Without gradients there is less to trace: a tenth of the time.
    model = model.requires_grad_(False)
    with torch.no_grad(), _plain_attention(), _quiet(), collector_paused():
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
        raise MisuseError("torch.onnx.export returned no program")
    return program.model_proto


def _save(proto: Any, path: Path, precision: Precision, variant: str) -> None:
    """Write a graph that names its precision and its encoder, without traces of its source.

    Those hold paths, and make equal graphs unequal files.
    """
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    proto.metadata_props.add(key=PRECISION_KEY, value=precision)
    proto.metadata_props.add(key=VARIANT_KEY, value=variant)
    path.write_bytes(proto.SerializeToString(deterministic=True))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch off its fused attention, which the exporter cannot trace."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' deprecations, remarks on torchvision and advice to pre-process."""
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
