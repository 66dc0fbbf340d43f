"""The paper's encoder: z-scored spike counts in, the image tokens of a language model out.

A body of three parallel convolutions over time and a transformer over time makes tokens of the
window; learned queries, one for each patch, attend to them; a second transformer lets the patches
agree with each other. The names of the modules give the state dict of the released weights, so
that a laboratory's own checkpoint loads with `load_state_dict`.

References
----------
NEURRATOR, arXiv 2606.18667, "Neurrator-Patches"; sizes as in the authors' released code
(MIT, repository ``arnaumarin/neurrator``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

# This module is the network itself; whoever imports it is about to need torch.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError

PAPER_GRID = PatchGrid(rows=24, cols=24, dim=1024)
"""Penultimate layer of CLIP ViT-L/14 at 336 pixels, as LLaVA-1.5 takes it."""

QUERY_STD = 0.02
"""Standard deviation of the patch queries before training (released code)."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Sizes of the encoder; the defaults are the paper's."""

    n_units: int
    grid: PatchGrid = PAPER_GRID
    width: int = 384
    n_heads: int = 8
    feed_forward: int = 768
    conv_channels: int = 128
    kernels: tuple[int, ...] = (3, 7, 15)
    time_layers: int = 2
    patch_layers: int = 2
    dropout: float = 0.2
    input_dropout: float = 0.2  # Of single counts, before the convolutions

    def __post_init__(self) -> None:
        if self.n_units < 1 or self.width % self.n_heads:
            raise MisuseError(
                "an encoder needs n_units of 1 or more and a width that n_heads divides, got "
                f"{self.n_units} units, width {self.width}, {self.n_heads} heads"
            )
        if not self.kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise MisuseError(f"kernels must be odd and 1 or more, got {self.kernels}")

    @classmethod
    def tiny(cls, n_units: int, grid: PatchGrid) -> EncoderSpec:
        """Return sizes for tests and for the simulated world: about 0.2 million parameters."""
        return cls(
            n_units, grid, width=64, n_heads=4, feed_forward=128, conv_channels=32, dropout=0.1
        )

    @classmethod
    def small(cls, n_units: int, grid: PatchGrid) -> EncoderSpec:
        """Return sizes that a laptop can train: about 2.4 million parameters at 600 units."""
        return cls(
            n_units, grid, width=192, n_heads=6, feed_forward=384, conv_channels=64, dropout=0.1
        )


class MultiKernelConv(nn.Module):
    """Parallel convolutions over time, each followed by GELU and batch normalization."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(spec.n_units, spec.conv_channels, kernel, padding=kernel // 2),
                nn.GELU(),
                nn.BatchNorm1d(spec.conv_channels),
            )
            for kernel in spec.kernels
        )

    def forward(self, z: Tensor) -> Tensor:
        """Convolve.

        `z` is float32 of shape (n, n_bins, n_units). Returns float32 of shape (n, n_bins, n_kernels
        * conv_channels).
        """
        channels_first = z.transpose(1, 2)
        branches = [branch(channels_first) for branch in self.branches]
        return torch.cat(branches, dim=1).transpose(1, 2)


class EncoderNetwork(nn.Module):
    """Any network that turns windows of z-scored counts into grids of patch embeddings."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Predict the image tokens of the frame that each window saw.

        `z`, float32 of shape (n, n_bins, n_units), is counts less the unit's mean, over its
        standard deviation; 0 for a unit that is masked. `mask`, float32 of shape (n, n_units),
        is 1 for the others. Returns shape (n, n_patches, dim), row-major over the grid, in the
        type of the weights.

        Raises
        ------
        NotImplementedError
            Always; a variant implements it.
        """
        raise NotImplementedError

    def to_precision(self, dtype: torch.dtype) -> Self:
        """Convert the weights, in place, as far as the patches allow it."""
        return self.to(dtype)


class PatchEncoder(EncoderNetwork):
    """The paper's encoder: each patch is predicted."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.input_dropout = nn.Dropout(spec.input_dropout)
        self.multi_conv = MultiKernelConv(spec)
        self.input_proj = make_input_projection(spec)
        self.transformer = make_transformer(spec, spec.time_layers)
        self.patch_queries = nn.Parameter(
            torch.randn(spec.grid.n_patches, spec.width) * QUERY_STD,
        )
        self.cross_attn = nn.MultiheadAttention(
            spec.width, spec.n_heads, dropout=spec.dropout, batch_first=True
        )
        self.ca_norm = nn.LayerNorm(spec.width)
        self.patch_transformer = make_transformer(spec, spec.patch_layers)
        self.out_proj = nn.Sequential(
            nn.LayerNorm(spec.width), nn.Linear(spec.width, spec.grid.dim)
        )

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Predict each patch; shapes as for `EncoderNetwork.forward`."""
        del mask  # a masked unit is at its mean, and the paper's encoder is told no more
        z = z.to(self.patch_queries.dtype)
        time_tokens = self.transformer(self.input_proj(self.multi_conv(self.input_dropout(z))))
        queries = self.patch_queries.expand(z.shape[0], -1, -1)
        attended, _ = self.cross_attn(queries, time_tokens, time_tokens, need_weights=False)
        patches: Tensor = self.out_proj(self.patch_transformer(self.ca_norm(queries + attended)))
        return patches


def make_input_projection(spec: EncoderSpec) -> nn.Sequential:
    """Return the layers from the convolutions' channels to the encoder's width."""
    return nn.Sequential(
        nn.Linear(len(spec.kernels) * spec.conv_channels, spec.width),
        nn.GELU(),
        nn.LayerNorm(spec.width),
        nn.Dropout(spec.dropout),
    )


def make_transformer(spec: EncoderSpec, n_layers: int) -> nn.TransformerEncoder:
    """Return transformer layers of the encoder's width."""
    layer = nn.TransformerEncoderLayer(
        spec.width,
        spec.n_heads,
        spec.feed_forward,
        spec.dropout,
        activation="gelu",
        batch_first=True,
    )
    # Nested tensors serve padded sequences; a window has none, and the exporter has no form for it.
    return nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
