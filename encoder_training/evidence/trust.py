"""How far anchors and regression are believed, fitted on validation windows.

In training both have seen the very windows; how far each holds for others is measured on others.
Eight weights are fitted by least squares of the coordinates, through random populations, for each
of a few powers of the posterior. Of these the sharpest is chosen whose patches tell frames apart as
well as any: patches of one frame are what the language model knows.
"""

from __future__ import annotations

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above
from torch.nn import functional as F  # noqa: TID253 - as above

from encoder_training.evidence.fitting import blocks
from encoder_training.evidence.network import N_TRUST, EvidenceEncoder, WindowEvidence

SHARPNESS = (1.0, 2.0, 4.0, 8.0)
"""Powers of the posterior, to choose from. Mixed patches of several frames are the best guess by
squared error, and may be nearest to a frame that is none of them."""

ALONE = [N_TRUST, N_TRUST + 2]
"""Weights of the regression where anchors have none: a constant, and by the number of units. How
sure the posterior is does not matter then, so that the anchors can be left out altogether."""

RIDGE = 1e-4
"""Of the least squares, as a share of the mean sum of squares."""


@torch.no_grad()
def fit_trust(
    network: EvidenceEncoder,
    evidence: list[WindowEvidence],
    frame: NDArray[np.int64],
    places: Tensor,
) -> None:
    """Set `sharpness` and `trust` of a network.

    Parameters
    ----------
    evidence : list of WindowEvidence
        Of validation windows, cut by `blocks`.
    frame : array, shape (n,), int64
        Row of `places` that each window shows.
    places : tensor, shape (n_frames, n_latents), float32
    """
    shown, own = np.unique(frame, return_inverse=True)
    of_frame = torch.from_numpy(own)
    candidates = F.normalize(places[shown], dim=-1)
    true = places[frame]

    def reciprocal_ranks(weights: Tensor, inputs: list[Tensor]) -> Tensor:
        scores = []
        for some, block in zip(blocks(len(frame)), inputs, strict=True):
            y = torch.einsum("i,nil->nl", weights, block)
            similarity = F.normalize(y, dim=-1) @ candidates.T
            of_own = similarity[torch.arange(len(y)), of_frame[some]]
            scores.append(1 / (similarity >= of_own[:, None]).sum(dim=-1))
        # Windows of one frame, through four populations each, tell much the same: a frame is one.
        n_each = torch.bincount(of_frame)
        return torch.bincount(of_frame, torch.cat(scores).double().cpu()) / n_each

    tried: list[tuple[float, Tensor, Tensor]] = []
    for sharpness in SHARPNESS:
        network.sharpness.fill_(sharpness)
        inputs = [_inputs(network, block) for block in evidence]
        weights = _least_squares(inputs, true)
        tried.append((sharpness, weights, reciprocal_ranks(weights, inputs)))
    sharpness, weights, scores = _sharpest(tried)
    network.sharpness.fill_(sharpness)
    # Anchors are of no use where frames are new: the regression alone, unless they gain something
    # that is not chance.
    inputs = [_inputs(network, block) for block in evidence]
    alone = torch.zeros_like(weights)
    alone[ALONE] = _least_squares([block[:, ALONE] for block in inputs], true)
    gain = scores - reciprocal_ranks(alone, inputs)
    if not gain.mean() > 2 * _standard_error(gain):
        weights = alone
    network.trust.weight.copy_(weights.view(2, N_TRUST))


def _sharpest(tried: list[tuple[float, Tensor, Tensor]]) -> tuple[float, Tensor, Tensor]:
    """Return the sharpest whose reciprocal ranks are within a standard error of the best."""
    best = max(scores.mean() for _, _, scores in tried)
    for one in reversed(tried):
        if one[2].mean() + _standard_error(one[2]) >= best:
            return one
    return tried[0]


def _standard_error(of_frames: Tensor) -> float:
    """Return that of their mean; infinite for a single frame."""
    n = len(of_frames)
    return float(of_frames.std() / n**0.5) if n > 1 else float("inf")


def _inputs(network: EvidenceEncoder, evidence: WindowEvidence) -> Tensor:
    """Return what the weights multiply, shape (n, 2 * N_TRUST, n_latents)."""
    both, terms = network.estimates_of(evidence)
    return torch.einsum("nk,nil->nikl", terms, both).flatten(1, 2)


def _least_squares(inputs: list[Tensor], true: Tensor) -> Tensor:
    """Return the weights of the inputs, float32 of shape (n_inputs,)."""
    n = inputs[0].shape[1]
    square = torch.zeros(n, n, dtype=torch.float64, device=true.device)
    along = torch.zeros(n, dtype=torch.float64, device=true.device)
    for some, block in zip(blocks(len(true)), inputs, strict=True):
        wide = block.transpose(0, 1).flatten(1).double()
        square += wide @ wide.T
        along += wide @ true[some].flatten().double()
    ridge = RIDGE * square.diagonal().mean() + 1e-12
    eye = torch.eye(n, dtype=torch.float64, device=true.device)
    weights: Tensor = torch.linalg.solve(square + ridge * eye, along).float()
    return weights
