"""Losses against numbers worked out by hand, and a scale that folds away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.errors import MisuseError
from encoder_training import losses
from encoder_training.losses import (
    TEMPERATURE,
    TargetScaling,
    contrastive_loss,
    fold_target_scaling,
    measure_targets,
    patch_loss,
)
from encoder_training.model import EncoderSpec, PatchEncoder
from tests.encoder_training.support import GRID, planted


def test_patch_loss_by_hand():
    """One patch at a right angle and one that is twice as long."""
    predicted = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    target = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    # squared errors 1, 1, 1, 0; cosines 0 and 1
    assert patch_loss(predicted, target).item() == pytest.approx(0.5 * 0.75 + 0.5 * 0.5)
    assert patch_loss(target, target).item() == pytest.approx(0, abs=1e-6)


def test_contrastive_loss_is_not_of_half_precision():
    """Training in bfloat16 gives it float32 patches, and it compares them in float32."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(6, 4, 32, generator=generator) for _ in range(2))
    frame = torch.arange(6)
    expected = contrastive_loss(left, right, frame)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(left, right, frame), expected)


def test_contrastive_loss_by_hand():
    """Two windows at right angles; the same way round it is small, the other way large."""
    eye = torch.eye(2)[:, None, :]
    frame = torch.tensor([0, 1])
    good = np.log1p(np.exp(-1 / TEMPERATURE))
    assert contrastive_loss(eye, eye, frame).item() == pytest.approx(good, abs=1e-6)
    bad = contrastive_loss(eye, eye.flip(0), frame).item()
    assert bad == pytest.approx(1 / TEMPERATURE, rel=1e-3)


def test_windows_of_one_frame_are_not_held_against_each_other():
    """Two windows of one frame alone in a batch cost nothing."""
    same = torch.ones(2, 1, 4)
    assert contrastive_loss(same, same, torch.tensor([5, 5])).item() == pytest.approx(0, abs=1e-6)
    assert contrastive_loss(same, same, torch.tensor([5, 6])).item() == pytest.approx(np.log(2))


def test_targets_are_measured_frame_by_frame(monkeypatch):
    """Mean and deviation are those of the frames of the given windows, each once."""
    monkeypatch.setattr(losses, "BLOCK_FRAMES", 4)
    data = planted(n_scenes=30)
    rows = np.array([0, 1, 2, 9, 40, 41, 60, 75, 88])
    used = data.targets[np.unique(data.frame[rows])].astype(np.float64)
    found = measure_targets(data, rows, normalise=True)
    assert np.allclose(found.mean, used.mean(axis=(0, 1)), rtol=1e-5)
    assert np.allclose(found.std, used.std(axis=(0, 1)), rtol=1e-4)
    assert np.allclose(found.patch_mean, used.mean(axis=0), rtol=1e-5)
    as_is = measure_targets(data, rows, normalise=False)
    assert not as_is.mean.any()
    assert (as_is.std == 1).all()
    assert np.array_equal(as_is.patch_mean, found.patch_mean)


def test_folding_gives_raw_patches():
    """The folded encoder gives what the learned one gives, times std, plus mean."""
    torch.manual_seed(0)
    encoder = PatchEncoder(EncoderSpec.tiny(5, GRID)).eval()
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 5, GRID.dim).astype(np.float32)
    std = np.geomspace(1e-3, 1e2, GRID.dim).astype(np.float32)
    scaling = TargetScaling(mean, std, np.zeros((GRID.n_patches, GRID.dim), np.float32))
    z, mask = torch.randn(7, 8, 5), torch.ones(7, 5)
    with torch.inference_mode():
        expected = encoder(z, mask).double() * torch.from_numpy(std) + torch.from_numpy(mean)
        fold_target_scaling(encoder, scaling)
        found = encoder(z, mask)
    tolerance = 4e-6 * (torch.from_numpy(std) + torch.from_numpy(mean).abs())
    assert torch.all((found - expected).abs() <= tolerance)


def test_folding_another_width_is_refused():
    """A scale of other dimensions is our own mistake."""
    encoder = PatchEncoder(EncoderSpec.tiny(5, GRID))
    two = np.ones(2, np.float32)
    with pytest.raises(MisuseError, match="layer of 2 numbers"):
        fold_target_scaling(encoder, TargetScaling(two, two, two[:, None]))
