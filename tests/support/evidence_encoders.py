"""Evidence encoders of random numbers, of the form that a fit gives."""

from __future__ import annotations

import torch

from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes
from encoder_training.model import EncoderSpec


def random_evidence_encoder(
    spec: EncoderSpec, sizes: EvidenceSizes, *, seed: int = 0
) -> EvidenceEncoder:
    """Return an encoder of which every closed form and every learned weight counts for something.

    The precisions of the Gaussian are those of some linear map, as in a fit, and the mean patches
    are longer than what windows add to them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = EvidenceEncoder(spec, sizes).eval()
        shape = (sizes.n_parts, spec.n_units, sizes.n_gaussian)
        weight, noise = 0.5 * torch.randn(shape), 0.5 + torch.rand(shape[:2])
        over_noise = weight / noise.unsqueeze(-1)
        precision = torch.einsum("pul,puk->ulk", over_noise, weight)
        values = {
            "poisson_gain": torch.randn_like(encoder.poisson_gain),
            "poisson_offset": 0.3 * torch.randn_like(encoder.poisson_offset),
            "log_prior": torch.log_softmax(torch.randn(sizes.n_anchors), dim=0),
            "anchors": torch.randn_like(encoder.anchors),
            "sharpness": torch.tensor(2.0),
            "gaussian_gain": over_noise.flatten(0, 1),
            "gaussian_precision": precision.flatten(1),
            "gaussian_scale": 0.5 + torch.rand(sizes.n_gaussian),
            "patch_mean": 3 + torch.randn_like(encoder.patch_mean),
            "unit_gain": encoder.unit_gain * (0.5 + torch.rand(spec.n_units)),
            "linear.weight": 0.1 * torch.randn_like(encoder.linear.weight),
            "regression.weight": 0.2 * torch.randn_like(encoder.regression.weight),
            "to_dims.weight": 0.5 * torch.randn_like(encoder.to_dims.weight),
            "to_patch.weight": 0.5 * torch.randn_like(encoder.to_patch.weight),
            "regression.bias": 0.2 * torch.randn_like(encoder.regression.bias),
        }
        encoder.load_state_dict({**encoder.state_dict(), **values})
    return encoder
