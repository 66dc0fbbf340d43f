"""A TopK sparse autoencoder of patches: few of many features make up each.

Each place of the grid is centred by its own mean, so that a feature is what a patch shows and not
where it is. Of a patch the k largest positive codes are kept, and the weighted sum of their atoms,
of length 1, is the reconstruction. Not a package: docs/decisions/0044-sparse-features.md.

References
----------
Gao et al., Scaling and evaluating sparse autoencoders, arXiv 2406.04093: TopK, untied weights that
begin as each other's transpose, gradients orthogonal to the atoms, and the auxiliary loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch  # noqa: TID253 - this module is torch code
import torch.nn.functional as F  # noqa: TID253
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

BATCH = 512
"""Patches of a step."""

LEARNING_RATE = 6e-3
WARM_UP = 100
"""Steps."""

DEAD_AFTER = 100
"""Steps without a patch, after which the auxiliary loss teaches a feature."""

AUXILIARY = 1 / 32
"""Weight of that loss, as Gao et al. have it."""

MOST_CODES = 2**26
"""Codes in memory at once: 256 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseAutoencoder:
    """Trained weights, float32, on one device."""

    k: int
    mean: torch.Tensor  # (n_patches, dim), of each place of the grid
    scale: float  # Of centred patches: their root mean square
    bias: torch.Tensor  # (n_features,)
    encoder: torch.Tensor  # (n_features, dim)
    atoms: torch.Tensor  # (n_features, dim), each of length 1

    @property
    def n_features(self) -> int:
        """Features, dead ones too."""
        return len(self.atoms)

    def centred(self, mean: NDArray[np.floating]) -> SparseAutoencoder:
        """Return the same features for pictures of another mean, shape (n_patches, dim)."""
        centre = torch.from_numpy(np.ascontiguousarray(mean, dtype=np.float32))
        return replace(self, mean=centre.to(self.mean.device))

    def mean_codes(self, patches: NDArray[np.floating]) -> NDArray[np.float64]:
        """Encode patches, shape (n, n_patches, dim); their mean codes, shape (n, n_features)."""
        n_at_once = max(1, MOST_CODES // (patches.shape[1] * self.n_features))
        found = [
            self._codes(patches[first : first + n_at_once])[1].mean(dim=1).cpu().numpy()
            for first in range(0, len(patches), n_at_once)
        ]
        return np.concatenate(found).astype(np.float64)

    def explained(self, batches: Iterable[NDArray[np.floating]]) -> float:
        """Return R2 of the reconstruction of patches, in batches of shape (n, n_patches, dim)."""
        error = total = 0.0
        for patches in batches:
            x, codes = self._codes(patches)
            error += float((x - codes @ self.atoms).square().sum())
            total += float(x.square().sum())
        return 1 - error / total

    @torch.no_grad()
    def _codes(self, patches: NDArray[np.floating]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patches as they are encoded, and their codes."""
        raw = torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32))
        x = (raw.to(self.mean.device) - self.mean) / self.scale
        return x, top_codes(x @ self.encoder.T + self.bias, self.k)


def top_codes(codes: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k largest of the last axis, if positive, and zeros elsewhere."""
    top = torch.topk(codes, k, dim=-1)
    return torch.zeros_like(codes).scatter(-1, top.indices, top.values.relu())


def train(
    patches: NDArray[np.floating],
    mean: NDArray[np.floating],
    *,
    n_features: int,
    k: int,
    n_steps: int,
    seed: int,
    device: str = "cpu",
) -> SparseAutoencoder:
    """Train on patches less the mean of their place, shape (n, dim).

    `mean`, shape (n_patches, dim), is of each place. The same on each run with the same seed and
    device.
    """
    generator = torch.Generator().manual_seed(seed)
    raw = torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32))
    scale = float(raw.square().mean().sqrt())
    x = (raw / scale).to(device)
    # Atoms begin as patches, so that few features never answer.
    first = x[torch.randint(len(x), (n_features,), generator=generator).to(device)]
    first = first + 0.1 * torch.randn(first.shape, generator=generator).to(device)
    atoms = F.normalize(first, dim=1).requires_grad_()
    encoder = atoms.detach().clone().requires_grad_()
    bias = torch.zeros(n_features, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([encoder, bias, atoms], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, n_steps))
    idle = torch.zeros(n_features, device=device)  # steps since each feature was last used
    for _ in range(n_steps):
        some = x[torch.randint(len(x), (BATCH,), generator=generator).to(device)]
        raw_codes = some @ encoder.T + bias
        codes = top_codes(raw_codes, k)
        rest = some - codes @ atoms
        idle = torch.where((codes > 0).any(dim=0), 0, idle + 1)
        loss = rest.square().mean() + _auxiliary(raw_codes, rest.detach(), atoms, idle, k)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _project(atoms)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            atoms.copy_(F.normalize(atoms, dim=1))
    weights = (one.detach() for one in (bias, encoder, atoms))
    centre = torch.from_numpy(np.ascontiguousarray(mean, dtype=np.float32)).to(device)
    return SparseAutoencoder(k, centre, scale, *weights)


def _pace(step: int, n_steps: int) -> float:
    """Rise over `WARM_UP` steps, then fall as a cosine."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def _auxiliary(
    codes: torch.Tensor, rest: torch.Tensor, atoms: torch.Tensor, idle: torch.Tensor, k: int
) -> torch.Tensor:
    """Let features that are never used explain what the others leave."""
    is_dead = idle > DEAD_AFTER
    n_dead = int(is_dead.sum())
    if not n_dead:
        return rest.new_zeros(())
    of_dead = top_codes(codes[:, is_dead], min(2 * k, n_dead))
    return AUXILIARY * (rest - of_dead @ atoms[is_dead]).square().mean()


@torch.no_grad()
def _project(atoms: torch.Tensor) -> None:
    """Take from the gradient what would only change an atom's length."""
    if atoms.grad is not None:
        atoms.grad -= (atoms.grad * atoms).sum(dim=1, keepdim=True) * atoms


def matched_cosines(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pair the atoms of two dictionaries, each once, so that the sum of cosines is the largest.

    Returns the cosine of each atom of `one`, shape (n_features,), with its partner in `other`.
    """
    cosines = one.astype(np.float64) @ other.T.astype(np.float64)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    matched: NDArray[np.float64] = cosines[rows, columns]
    return matched
