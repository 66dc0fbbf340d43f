"""Products with a weight matrix, in the number format and the layout that the machine likes.

Nearly all of a token's time goes into reading the weights once. So what counts is how near to the
memory's speed that is done for a few rows at once. On a CPU torch's own product (MKL) manages it
for one row alone; oneDNN with weights in its own order, as torch's compiler uses it, for up to
sixteen (docs/decisions/0015-narrator-engine.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NumberFormat = Literal["float32", "float16", "bfloat16", "int8"]

Product = Callable[["Tensor"], "Tensor"]
"""Rows (..., n_in) to rows (..., n_out), in the dtype of the rows."""

PACKED_FROM = 1 << 18
"""Weights of a matrix from which oneDNN's order pays: below, its 15 us a call are more than the
product, which the cache feeds (benchmarks/bench_narrator.py)."""

ROWS_EXPECTED = 8
"""For which oneDNN chooses its order of the weights. Others run as well, within a few percent."""

INT8_MAX = 127
INT8_ZERO = 128
"""Rows are uint8 around 128: with signed rows oneDNN falls back to a loop 50 times slower."""


def make_product(
    weight: Tensor, bias: Tensor | None, number_format: NumberFormat, device: str
) -> Product:
    """Prepare a weight for many products.

    Parameters
    ----------
    weight : tensor, shape (n_out, n_in)
        On the CPU, of any float type.
    bias : tensor, shape (n_out,), optional
    number_format : {"float32", "float16", "bfloat16", "int8"}
        ``int8`` is for a CPU alone.
    device : str
        Where the product is to be.

    Returns
    -------
    callable
    """
    import torch

    if device != "cpu":
        return Plain(weight, bias, getattr(torch, number_format), device)
    if number_format == "int8":
        return Int8(weight, bias)
    if number_format == "bfloat16" and has_packed():
        return Packed(weight, bias, torch.bfloat16)
    if number_format == "float32" and has_packed() and weight.numel() >= PACKED_FROM:
        return Packed(weight, bias, torch.float32)
    return Plain(weight, bias, getattr(torch, number_format), device)


def has_packed() -> bool:
    """Return whether this torch has oneDNN's products with packed weights."""
    import torch

    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Plain:
    """torch's own product.

    Parameters
    ----------
    weight, bias
        As for `make_product`.
    dtype : torch.dtype
    device : str
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: str
    ) -> None:
        import torch

        self._multiply = torch.nn.functional.linear
        self.weight = weight.to(device, dtype)
        self.bias = None if bias is None else bias.to(device, dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply."""
        return self._multiply(rows, self.weight, self.bias)


class Packed:
    """oneDNN's product, weights in its own order; float32 rows in and out.

    Parameters
    ----------
    weight, bias
        As for `make_product`.
    dtype : torch.dtype
        Of the weights, and of the rows inside; sums are float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        import torch

        self._dtype = dtype
        self._multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - an operator's name
        self._weight = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001 - as above
            weight.to(dtype).contiguous(), ROWS_EXPECTED
        )
        self._bias = None if bias is None else bias.to(dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply."""
        product: Tensor = self._multiply(
            rows.to(self._dtype), self._weight, self._bias, "none", [], ""
        )
        return product.to(rows.dtype)


class Int8:
    """oneDNN's product of int8: a scale for each output, and for each row as it comes.

    Parameters
    ----------
    weight, bias
        As for `make_product`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import torch

        weight = weight.float()
        self._scale = (weight.abs().amax(dim=1) / INT8_MAX).clamp_min(torch.finfo().tiny)
        quantized = (weight / self._scale[:, None]).round_().to(torch.int8)
        n_out, n_in = weight.shape
        self._weight = torch.ops.onednn.qlinear_prepack(quantized, [ROWS_EXPECTED, n_in])
        self._zero = torch.zeros(n_out, dtype=torch.int64)
        self._bias = None if bias is None else bias.float()

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply."""
        import torch

        scale = rows.abs().amax(dim=-1, keepdim=True).div_(INT8_MAX).clamp_min_(1e-30)
        quantized = (rows / scale).round_().add_(INT8_ZERO).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized,
            1.0,
            INT8_ZERO,
            self._weight,
            self._scale,
            self._zero,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        product = product.mul_(scale)
        return product if self._bias is None else product.add_(self._bias)
