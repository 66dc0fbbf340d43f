"""An encoder whose evidence adds up over units: any subset of them is one that it can read.

Three readers of the counts begin with a sum over the selected units. Nothing is normalised by
their number: few units give little evidence, a flat posterior and patches near the mean.

1. *Anchors* are frames of training, or clusters of them. Each unit adds its log likelihood ratio of
   every anchor, log-linear in its counts; the softmax of the sum mixes the anchors' patches. It
   begins as naive Bayes with Poisson counts; a gain for each unit and a linear term are learned.
2. *Gaussian*: each unit's counts are a linear function of the frame's principal components, and
   noise. Precisions add up over units, and so do precision-weighted counts; the mean of the
   posterior is the optimal linear estimate for just these units. It is a closed form.
3. *Regression* begins with a learned linear map of counts, of which units are selected, and of the
   Gaussian mean, refines it by a multilayer perceptron, and adds it to the Gaussian mean. It can
   give patches that no training frame had.

How far the anchors and the regression are believed depends on how sure the posterior is and on how
many units there are; it is fitted on validation windows. Patches are made at the end, from
coordinates in the principal components of the training patches.

References
----------
Poisson log likelihoods that add up over neurons: Jazayeri and Movshon, Nature Neuroscience 2006.
Linear-Gaussian decoding: Wu, Black, Mumford et al., NIPS 2002, for one moment.
Fitting a combination on held-out data: Wolpert, Neural Networks 1992 (stacking).
Conjugate gradients: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 1952.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

# This module is the network itself; whoever imports it is about to need torch.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from encoder_training.data_set.training_set import part_edges
from encoder_training.model import EncoderNetwork, EncoderSpec

N_TRUST = 4
"""Numbers that both estimates' weights depend on: 1, sureness, units, and their product."""

GAIN_STEP = 5.0
"""The gains of units are learned so many times faster than other weights. They are few, they begin
alike, and units differ in how far they are Poisson."""

FIRST_GAIN = 0.25
"""Of each unit's log likelihoods. Counts vary more than Poisson ones, and units share noise."""

N_ITERATIONS = 32
"""Of conjugate gradients, which serve where no solver is: in an ONNX graph."""


@dataclass(frozen=True, slots=True)
class EvidenceSizes:
    """Sizes that the data decide, but for the width."""

    n_bins: int
    n_parts: int  # of a window, whose counts are summed
    n_anchors: int
    n_latents: int  # principal components of the patches
    n_gaussian: int  # of these, the first that the Gaussian estimates
    n_dims: int  # of a patch's embedding, before the last layer
    width: int  # of the multilayer perceptron


@dataclass(frozen=True, slots=True)
class WindowEvidence:
    """What anchors and regression say about n windows."""

    logits: Tensor  # (n, n_anchors)
    regressed: Tensor  # (n, n_latents)
    mask: Tensor  # (n, n_units)


class EvidenceEncoder(EncoderNetwork):
    """Sums of evidence to coordinates of a frame, and these to its patches."""

    parts: Tensor
    log_prior: Tensor
    poisson_gain: Tensor
    poisson_offset: Tensor
    anchors: Tensor
    sharpness: Tensor
    gaussian_gain: Tensor
    gaussian_precision: Tensor
    gaussian_scale: Tensor
    patch_mean: Tensor

    def __init__(self, spec: EncoderSpec, sizes: EvidenceSizes) -> None:
        super().__init__(spec)
        self.sizes = sizes
        n_units, n_features = spec.n_units, sizes.n_parts * spec.n_units
        n_anchors, n_latents, n_gaussian = sizes.n_anchors, sizes.n_latents, sizes.n_gaussian
        closed_forms = {
            "parts": part_sums(sizes.n_bins, sizes.n_parts),
            "log_prior": torch.zeros(n_anchors),
            "poisson_gain": torch.zeros(n_features, n_anchors),
            "poisson_offset": torch.zeros(n_units, n_anchors),
            "anchors": torch.zeros(n_anchors, n_latents),
            "sharpness": torch.ones(()),
            "gaussian_gain": torch.zeros(n_features, n_gaussian),
            "gaussian_precision": torch.zeros(n_units, n_gaussian**2),
            "gaussian_scale": torch.ones(n_gaussian),
            "patch_mean": torch.zeros(spec.grid.n_patches, spec.grid.dim),
        }
        for name, tensor in closed_forms.items():
            self.register_buffer(name, tensor)
        self.unit_gain = nn.Parameter(torch.full((n_units,), FIRST_GAIN / GAIN_STEP))
        self.linear = nn.Linear(n_features, n_anchors, bias=False)
        self.sum_over_units = nn.Linear(n_features + n_units, sizes.width)
        self.from_gaussian = nn.Linear(n_gaussian, sizes.width, bias=False)
        self.refine = nn.ModuleList(
            nn.Sequential(nn.GELU(), nn.Dropout(spec.dropout), nn.Linear(sizes.width, sizes.width))
            for _ in range(2)
        )
        self.regression = nn.Linear(sizes.width, n_latents)
        self.trust = nn.Linear(N_TRUST, 2, bias=False)
        self.to_dims = nn.Linear(n_latents, spec.grid.n_patches * sizes.n_dims, bias=False)
        self.to_patch = nn.Linear(sizes.n_dims, spec.grid.dim, bias=False)
        for layer in (self.trust, self.to_dims, self.to_patch):
            layer.requires_grad_(False)
        with torch.no_grad():
            for weight in (self.linear.weight, self.regression.weight, self.regression.bias):
                weight.zero_()

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Predict each patch; shapes as for `EncoderNetwork.forward`."""
        return self.read_out(self.combine(self.evidence_of(z, mask)))

    def evidence_of(self, z: Tensor, mask: Tensor) -> WindowEvidence:
        """Read windows by the network's own Poisson evidence."""
        dtype = self.unit_gain.dtype
        x, mask = self.features(z.to(dtype)), mask.to(dtype)
        poisson = self.poisson(x, mask, self.poisson_gain, self.poisson_offset)
        return self.evidence(x, mask, poisson)

    def to_precision(self, dtype: torch.dtype) -> Self:
        """Convert; in half precision the last layers alone, which are most of the work.

        Log likelihoods go into the thousands, where half precision knows whole numbers.
        """
        if dtype != torch.float16:
            return self.to(dtype)
        self.to_dims.to(dtype)
        self.to_patch.to(dtype)
        self.patch_mean = self.patch_mean.to(dtype)
        return self

    def features(self, z: Tensor) -> Tensor:
        """Sum over the parts of each window; returns shape (n, n_parts * n_units)."""
        return (self.parts @ z).flatten(1)

    def poisson(self, x: Tensor, mask: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        """Return the log likelihood ratios of the selected units, shape (n, n_anchors).

        `gain` and `offset` are those of the network or, for windows of training, those that
        were measured without them.
        """
        unit_gain = self.unit_gain * GAIN_STEP
        weighted = x * unit_gain.repeat(self.sizes.n_parts)
        return weighted @ gain + (mask * unit_gain) @ offset

    def evidence(self, x: Tensor, mask: Tensor, poisson: Tensor) -> WindowEvidence:
        """Read `features` of the selected units, shape (n, n_parts * n_units)."""
        gaussian = self.gaussian_mean(x, mask)
        hidden = self.sum_over_units(torch.cat([x, mask], dim=-1)) + self.from_gaussian(gaussian)
        for layer in self.refine:
            hidden = hidden + layer(hidden)
        n_rest = self.sizes.n_latents - self.sizes.n_gaussian
        linear = nn.functional.pad(gaussian * self.gaussian_scale, (0, n_rest))
        logits = poisson + self.linear(x) + self.log_prior
        return WindowEvidence(logits, linear + self.regression(hidden), mask)

    def gaussian_mean(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the Gaussian posterior, shape (n, n_gaussian), prior deviations."""
        n = self.sizes.n_gaussian
        precision = (mask @ self.gaussian_precision).view(-1, n, n)
        return solve(precision, x @ self.gaussian_gain)

    def estimates_of(self, evidence: WindowEvidence) -> tuple[Tensor, Tensor]:
        """Return the estimates that are combined, and what their weights depend on.

        The first, of shape (n, 2, n_latents), are coordinates by anchors and by regression, the
        second is of shape (n, N_TRUST).
        """
        posterior = torch.softmax(self.sharpness * evidence.logits, dim=-1)
        both = torch.stack([posterior @ self.anchors, evidence.regressed], dim=1)
        sureness = posterior.square().sum(dim=-1)
        units = torch.log1p(evidence.mask.sum(dim=-1)) / 8
        terms = [torch.ones_like(units), sureness, units, sureness * units]
        return both, torch.stack(terms, dim=-1)

    def combine(self, evidence: WindowEvidence) -> Tensor:
        """Weigh anchors and regression; returns coordinates of shape (n, n_latents)."""
        both, terms = self.estimates_of(evidence)
        latents: Tensor = (self.trust(terms).unsqueeze(-1) * both).sum(dim=1)
        return latents

    def read_out(self, latents: Tensor) -> Tensor:
        """Return patches of shape (n, n_patches, dim)."""
        latents = latents.to(self.to_dims.weight.dtype)
        dims = self.to_dims(latents).view(-1, self.spec.grid.n_patches, self.sizes.n_dims)
        patches: Tensor = self.to_patch(dims) + self.patch_mean
        return patches


def without_idle_anchors(encoder: EvidenceEncoder) -> EvidenceEncoder:
    """Return an encoder with the same output and one anchor, if the anchors have no weight.

    They are half of the weights, and of the work before the last layers.
    """
    by_anchors, by_regression = encoder.trust.weight.tolist()
    sureness = by_regression[1], by_regression[3]
    if any(by_anchors) or any(sureness):
        return encoder
    fewer = EvidenceEncoder(encoder.spec, replace(encoder.sizes, n_anchors=1))
    state = encoder.state_dict()
    for name in ("poisson_gain", "poisson_offset"):
        state[name] = state[name][:, :1]
    for name in ("log_prior", "anchors", "linear.weight"):
        state[name] = state[name][:1]
    fewer.load_state_dict(state)
    return fewer


def part_sums(n_bins: int, n_parts: int) -> Tensor:
    """Return the map from the bins of a window to its parts, shape (n_parts, n_bins).

    A sum of n independent z-scores is divided by the square root of n, so that it is one as well.
    """
    edges = part_edges(n_bins, n_parts).tolist()
    sums = torch.zeros(n_parts, n_bins)
    for part, (first, stop) in enumerate(pairwise(edges)):
        sums[part, first:stop] = float(stop - first) ** -0.5
    return sums


def solve(precision: Tensor, h: Tensor) -> Tensor:
    """Solve (I + precision) y = h by conjugate gradients, scaled by the diagonal.

    `precision` is symmetric and positive, of shape (n, k, k), `h` of shape (n, k).
    """
    scale = (1 + precision.diagonal(dim1=1, dim2=2)).rsqrt()
    y = torch.zeros_like(h)
    residual = scale * h
    direction = residual
    squares = residual.square().sum(dim=-1, keepdim=True)
    # Once it has converged, nothing moves any more: no 0 is divided by 0. (A constant as small as
    # this is taken for 0 by the ONNX exporter where it is added.)
    tiny = (1e-12 * squares).clamp_min(1e-20)
    for _ in range(N_ITERATIONS):
        unscaled = scale * direction
        ahead = scale * (unscaled + (precision @ unscaled.unsqueeze(-1)).squeeze(-1))
        step = squares / ((direction * ahead).sum(dim=-1, keepdim=True) + tiny)
        y = y + step * direction
        residual = residual - step * ahead
        before, squares = squares, residual.square().sum(dim=-1, keepdim=True)
        direction = residual + squares / (before + tiny) * direction
    return scale * y
