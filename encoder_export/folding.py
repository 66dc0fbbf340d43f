"""Batch normalization folded into the layer after it, exactly.

In this encoder it follows GELU, so it cannot go back into the convolution, which a GELU parts from
it; it goes forward into the linear layer that takes the concatenated branches:
W (g a + b) + c = (W g) a + (W b + c), with g = weight / sqrt(variance + eps) and
b = bias - mean g. Padding is not in the way, for it is added before the convolution.

The z-score before the convolution stays where it is. Its mean could be folded into the
convolution's bias only if the padding were the mean as well, and it is zero: the bins at the
window's edges would change.
"""

from __future__ import annotations

import copy
from typing import cast

import torch  # noqa: TID253 - weights are torch tensors
from torch import nn  # noqa: TID253 - as above

from encoder_training.model import EncoderNetwork, MultiKernelConv


def fold_batch_norm(encoder: EncoderNetwork) -> EncoderNetwork:
    """Return a copy of an encoder without batch normalization, equal up to rounding.

    Parameters
    ----------
    encoder : EncoderNetwork
        In evaluation mode; of either variant. Is not changed.

    Returns
    -------
    folded : EncoderNetwork
        In evaluation mode. The products are made in float64 and rounded once.
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
