"""The network: the paper's layout, sizes and shapes."""

from __future__ import annotations

import pytest
import torch

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError
from encoder_training.model import EncoderSpec, PatchEncoder

LAYER = [
    *(f"self_attn.{name}" for name in ("in_proj_weight", "in_proj_bias")),
    *(f"self_attn.out_proj.{name}" for name in ("weight", "bias")),
    *(f"{part}.{name}" for part in ("linear1", "linear2") for name in ("weight", "bias")),
    *(f"{part}.{name}" for part in ("norm1", "norm2") for name in ("weight", "bias")),
]
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
RELEASED_LAYOUT = {
    "patch_queries",
    *(f"multi_conv.branches.{k}.0.{name}" for k in range(3) for name in ("weight", "bias")),
    *(f"multi_conv.branches.{k}.2.{name}" for k in range(3) for name in BATCH_NORM),
    *(f"input_proj.{k}.{name}" for k in (0, 2) for name in ("weight", "bias")),
    *(f"transformer.layers.{k}.{name}" for k in range(2) for name in LAYER),
    *(f"patch_transformer.layers.{k}.{name}" for k in range(2) for name in LAYER),
    *(f"cross_attn.{name}" for name in ("in_proj_weight", "in_proj_bias")),
    *(f"cross_attn.out_proj.{name}" for name in ("weight", "bias")),
    *(f"ca_norm.{name}" for name in ("weight", "bias")),
    *(f"out_proj.{k}.{name}" for k in (0, 1) for name in ("weight", "bias")),
}


@pytest.fixture(scope="module")
def paper() -> PatchEncoder:
    """Return the paper's encoder at 2,000 units."""
    return PatchEncoder(EncoderSpec(2000))


def test_state_dict_has_the_released_layout(paper):
    """A laboratory's own checkpoint of the released code loads by name and shape."""
    state = paper.state_dict()
    assert set(state) == RELEASED_LAYOUT
    shapes = [tuple(state[f"multi_conv.branches.{k}.0.weight"].shape) for k in range(3)]
    assert shapes == [(128, 2000, 3), (128, 2000, 7), (128, 2000, 15)]
    assert state["patch_queries"].shape == (576, 384)
    assert state["out_proj.1.weight"].shape == (1024, 384)


def test_paper_size_has_about_twelve_million_parameters(paper):
    """The defaults are the paper's sizes."""
    n_parameters = sum(parameter.numel() for parameter in paper.parameters())
    assert 11_500_000 <= n_parameters <= 12_500_000


def test_paper_size_gives_a_24_by_24_by_1024_grid(paper):
    """A window of 20 bins becomes the image tokens of LLaVA-1.5."""
    with torch.inference_mode():
        assert paper.eval()(torch.zeros(1, 20, 2000), torch.ones(1, 2000)).shape == (1, 576, 1024)


@pytest.mark.parametrize("n_bins", [1, 20, 50])
def test_any_number_of_bins(n_bins):
    """The window's length is not built into the weights."""
    model = PatchEncoder(EncoderSpec.tiny(5, PatchGrid(2, 3, 16))).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, n_bins, 5), torch.ones(2, 5)).shape == (2, 6, 16)


def test_gradients_reach_every_weight():
    """No part of the network is left out of training."""
    model = PatchEncoder(EncoderSpec.tiny(5, PatchGrid(2, 2, 16)))
    model(torch.randn(3, 20, 5), torch.ones(3, 5)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_one_batch_can_be_learned():
    """The network has the means to tell four windows apart."""
    torch.manual_seed(0)
    model = PatchEncoder(EncoderSpec.tiny(5, PatchGrid(2, 2, 16))).eval()  # no dropout
    z, target = torch.randn(4, 20, 5), torch.randn(4, 4, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = (model(z, torch.ones(4, 5)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_sizes_that_cannot_be_are_refused():
    """A width that the heads do not divide, and an even kernel, are our own mistakes."""
    with pytest.raises(MisuseError, match="n_heads divides"):
        EncoderSpec(4, width=10, n_heads=4)
    with pytest.raises(MisuseError, match="odd"):
        EncoderSpec(4, kernels=(4,))
