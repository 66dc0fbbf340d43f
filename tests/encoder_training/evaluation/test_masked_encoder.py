"""An encoder masked to a population, and the control through shuffled units."""

from __future__ import annotations

import numpy as np
import torch

from encoder_training.data_set.training_set import Scaling
from encoder_training.evaluation.masked_encoder import MaskedEncoder
from encoder_training.model import EncoderSpec, PatchEncoder
from tests.support.prepared import GRID, prepared_set


def test_shuffled_units_keep_their_own_scale():
    """Each row gets the z-scores of the unit that stands in it, of a quiet or of a loud one."""
    population = prepared_set(n_frames=10).population
    n_units = len(population)
    rng = np.random.default_rng(0)
    mean = np.linspace(0.05, 5, n_units, dtype=np.float32)
    scaling = Scaling(mean, np.sqrt(mean))
    torch.manual_seed(0)
    encoder = PatchEncoder(EncoderSpec.tiny(n_units, GRID)).eval()
    shuffled = population.select("shuffled")
    counts = rng.poisson(mean, size=(3, 12, n_units)).astype(np.uint8)
    z = ((counts - scaling.mean) / scaling.std)[:, :, shuffled.order()]
    with torch.no_grad():
        expected = encoder(
            torch.from_numpy(z.astype(np.float32)), torch.ones(len(z), n_units)
        ).numpy()
    found = MaskedEncoder(encoder, scaling, shuffled).patches(counts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
