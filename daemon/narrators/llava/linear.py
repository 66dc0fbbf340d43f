"""Linear layers of the decoder, with the weights in the layout that the machine reads fastest.

Nearly all of a token's time goes into reading the weights once, so what counts is how close that
comes to the memory's speed for a few rows at once. On a CPU torch's own product (MKL) does so for
one row only; oneDNN with its own order of the weights, which torch's compiler also uses, does so
for up to sixteen (docs/decisions/0015-narrator-engine.md has the figures).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Linear = Callable[["Tensor"], "Tensor"]
"""Rows (..., n_in) to rows (..., n_out), in the dtype of the weights."""

PACKED_FROM = 1 << 18
"""Weights of a matrix from which oneDNN's order pays: below, its 15 us a call are more than the
product, which the cache feeds (benchmarks/bench_narrator.py)."""

ROWS_EXPECTED = 8
"""Rows for which oneDNN chooses its order of the weights. Other numbers of rows run as well, within
a few percent."""

TRIED = 64
"""Rows and columns of the weights with which packed products are tried."""

LOG = logging.getLogger(__name__)


def make_linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: str) -> Linear:
    """Prepare a weight, (n_out, n_in) on the CPU, of any float type, for many products."""
    import torch

    weight = weight.to(device, dtype)
    bias = None if bias is None else bias.to(device, dtype)
    # Only float32 is packed: packed bfloat16 weights need a processor with AVX-512, and torch
    # raises an error on others.
    is_large = device == "cpu" and dtype == torch.float32 and weight.numel() >= PACKED_FROM
    if is_large and has_packed():
        return Packed(weight, bias)
    return partial(torch.nn.functional.linear, weight=weight, bias=bias)


@lru_cache(maxsize=1)
def has_packed() -> bool:
    """Whether oneDNN's products with packed weights exist, and are right on this processor.

    A small one is tried and compared with torch's own.
    """
    import torch

    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        weight, rows = torch.randn(TRIED, TRIED), torch.randn(ROWS_EXPECTED, TRIED)
        expected = torch.nn.functional.linear(rows, weight)
        try:
            is_right = torch.allclose(Packed(weight, None)(rows), expected, atol=1e-3)
            reason = "their results differ from torch's own"
        except RuntimeError as error:
            is_right, reason = False, str(error).partition("\n")[0]
    if not is_right:
        LOG.warning("oneDNN's packed products are not used on this processor: %s", reason)
    return is_right


class Packed:
    """oneDNN's product in float32 on the CPU, with the weights in its own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import torch

        self._multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - an operator's name
        self._weight = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001 - as above
            weight.contiguous(), ROWS_EXPECTED
        )
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply."""
        product: Tensor = self._multiply(rows, self._weight, self._bias, "none", [], "")
        return product
