"""Networks of the released layout, written from their description and not from ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from contracts.embedding import PatchGrid
from contracts.population import Population, Unit
from encoder_training.data_set.prepared import FrameTable, PreparedSet, Role
from tests.support.prepared import prepared_set

GRID = PatchGrid(3, 2, 10)
N_UNITS, N_BINS, WIDTH, CHANNELS, HEADS = 7, 20, 48, 16, 8


class Conv(nn.Module):
    """Three convolutions side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for k in (3, 7, 15):
            conv = nn.Conv1d(N_UNITS, CHANNELS, k, padding="same")
            self.branches.append(nn.Sequential(conv, nn.GELU(), nn.BatchNorm1d(CHANNELS)))

    def forward(self, x):
        """Time is last inside, first outside."""
        x = x.permute(0, 2, 1)
        return torch.cat([branch(x) for branch in self.branches], dim=1).permute(0, 2, 1)


def layer() -> nn.TransformerEncoderLayer:
    """Return one layer of either transformer."""
    return nn.TransformerEncoderLayer(
        d_model=WIDTH, nhead=HEADS, dim_feedforward=2 * WIDTH, dropout=0.2,
        activation="gelu", batch_first=True, norm_first=False,
    )  # fmt: skip


class Released(nn.Module):
    """The network that predicts patches."""

    def __init__(self) -> None:
        super().__init__()
        self.wants_weights = False
        self.drop = nn.Dropout(0.2)
        self.multi_conv = Conv()
        self.input_proj = nn.Sequential(
            nn.Linear(3 * CHANNELS, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Dropout(0.2)
        )

        self.transformer = nn.TransformerEncoder(layer(), 2)
        self.patch_queries = nn.Parameter(torch.randn(GRID.n_patches, WIDTH) * 0.02)
        self.cross_attn = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.2, batch_first=True)
        self.ca_norm = nn.LayerNorm(WIDTH)
        self.patch_transformer = nn.TransformerEncoder(layer(), 2)
        self.out_proj = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, GRID.dim))

    def forward(self, x):
        """(batch, bins, units) to (batch, patches, dim)."""
        h = self.transformer(self.input_proj(self.multi_conv(self.drop(x))))
        q = self.patch_queries.unsqueeze(0).repeat(x.shape[0], 1, 1)
        out, _ = self.cross_attn(q, h, h, need_weights=self.wants_weights)
        return self.out_proj(self.patch_transformer(self.ca_norm(q + out)))


class ReleasedRetrieval(nn.Module):
    """The network that names a training image."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.input_drop = nn.Dropout(0.2)
        self.multi_conv = Conv()
        self.input_proj = nn.Sequential(
            nn.Linear(3 * CHANNELS, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Dropout(0.2)
        )
        self.transformer = nn.TransformerEncoder(layer(), 2)
        self.pool_query = nn.Linear(WIDTH, 1)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_outputs))

    def forward(self, x):
        """(batch, bins, units) to (batch, outputs)."""
        h = self.transformer(self.input_proj(self.multi_conv(self.input_drop(x))))
        return self.head((h * self.pool_query(h).softmax(dim=1)).sum(dim=1))


def shaken(network: nn.Module) -> nn.Module:
    """Make weights random everywhere, running statistics too."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else tensor + 0.1)
    return network.eval()


def wrapped(state, kind, **more):
    """Return the state dict as scripts save it, with more entries beside it."""
    compiled = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    return {
        "plain": {**state, **more},
        "model": {"model": state, "epoch": 3, **more},
        "state_dict": {"state_dict": {**compiled, **more}, "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": state, **more},
    }[kind]


def data_set(
    *, n_units: int = N_UNITS, grid: PatchGrid = GRID, n_movies: int = 1, n_frames: int = 10
) -> PreparedSet:
    """Return a data set whose frames have random patches, the last of each movie held out.

    Rows of the targets are neither by movie nor by number.
    """
    rng = np.random.default_rng(1)
    base = prepared_set(n_frames=n_movies * n_frames, n_repeats=3)
    movie, number = np.divmod(rng.permutation(n_movies * n_frames), n_frames)
    is_test = number[base.shown.frame] == n_frames - 1
    return replace(
        base,
        population=Population([Unit(str(unit)) for unit in range(n_units)]),
        grid=grid,
        shown=replace(base.shown, role=np.where(is_test, Role.TEST, Role.TRAIN).astype(np.int8)),
        frames=FrameTable(
            tuple(f"movie_{k}" for k in range(n_movies)), movie, number, ("",) * len(number)
        ),
        targets=rng.normal(size=(len(number), grid.n_patches, grid.dim)).astype(np.float16),
    )
