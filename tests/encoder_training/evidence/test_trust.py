"""How far anchors and regression are believed: as far as each is right on validation windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from contracts.embedding import PatchGrid
from encoder_training.evidence.fitting import blocks
from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes, WindowEvidence
from encoder_training.evidence.trust import _sharpest, fit_trust
from encoder_training.model import EncoderSpec

N_FRAMES, N_LATENTS, N_WINDOWS = 20, 6, 300
SIZES = EvidenceSizes(
    n_bins=1,
    n_parts=1,
    n_anchors=N_FRAMES,
    n_latents=N_LATENTS,
    n_gaussian=2,
    n_dims=2,
    width=4,
)


class GivenEvidence(EvidenceEncoder):
    """Its windows are logits and regressed coordinates, side by side, and nothing is computed."""

    def evidence(self, x, mask, poisson) -> WindowEvidence:
        """Cut the window in two."""
        return WindowEvidence(x[:, :N_FRAMES], x[:, N_FRAMES:], mask)


@dataclass(frozen=True, eq=False)
class GivenWindows:
    """What a network is given, and what is true."""

    frame: np.ndarray
    places: torch.Tensor
    right: torch.Tensor  # logits that name the true frame
    wrong: torch.Tensor  # logits that name any


@pytest.fixture
def windows() -> GivenWindows:
    """Return windows of twenty frames."""
    generator = torch.Generator().manual_seed(0)
    frame = np.arange(N_WINDOWS) % N_FRAMES
    places = torch.randn(N_FRAMES, N_LATENTS, generator=generator)
    any_frame = torch.randint(N_FRAMES, (N_WINDOWS,), generator=generator)
    right, wrong = (12 * one_hot(named, N_FRAMES) for named in (torch.from_numpy(frame), any_frame))
    return GivenWindows(frame, places, right.float(), wrong.float())


def fitted(windows, logits, regressed, *, mask=None) -> tuple[GivenEvidence, torch.Tensor]:
    """Return a network whose trust was fitted to given evidence, and how it weighs the two."""
    network = GivenEvidence(EncoderSpec.tiny(N_FRAMES + N_LATENTS, PatchGrid(1, 1, 2)), SIZES)
    network.anchors.copy_(windows.places)
    z = torch.cat([logits, regressed], dim=1).unsqueeze(1)
    mask = torch.ones(len(z), z.shape[2]) if mask is None else mask
    z = z * mask.unsqueeze(1)
    with torch.no_grad():
        evidence = [network.evidence_of(z[some], mask[some]) for some in blocks(len(z))]
    fit_trust(network, evidence, windows.frame, windows.places)
    with torch.no_grad():
        _, terms = network.estimates_of(network.evidence(network.features(z), mask, logits))
        return network, network.trust(terms)


def noise(seed) -> torch.Tensor:
    """Return coordinates that tell nothing."""
    return torch.randn(N_WINDOWS, N_LATENTS, generator=torch.Generator().manual_seed(seed))


def test_anchors_that_are_right_are_believed(windows):
    """Beside a regression of noise they get all the weight."""
    _, weights = fitted(windows, windows.right, noise(1))
    torch.testing.assert_close(weights[:, 0], torch.ones(N_WINDOWS), rtol=0, atol=0.02)
    assert weights[:, 1].abs().max() < 0.02


def test_regression_that_is_right_is_believed(windows):
    """Beside anchors that name any frame it gets all the weight, and they exactly none."""
    _, weights = fitted(windows, windows.wrong, windows.places[windows.frame])
    torch.testing.assert_close(weights[:, 1], torch.ones(N_WINDOWS), rtol=0, atol=0.02)
    assert not weights[:, 0].any()


def test_a_regression_on_another_scale_is_brought_to_it(windows):
    """Weights are those of least squares: half of what is twice as long."""
    _, weights = fitted(windows, windows.wrong, 2 * windows.places[windows.frame])
    torch.testing.assert_close(weights[:, 1], torch.full((N_WINDOWS,), 0.5), rtol=0, atol=0.02)


def test_anchors_are_believed_where_they_are_sure(windows):
    """Where the posterior is flat, the regression counts; where it is sharp, the anchors do."""
    is_sure = torch.arange(N_WINDOWS) % 7 < 3
    logits = torch.where(is_sure[:, None], windows.right, 0)
    regressed = windows.places[windows.frame] + 0.8 * noise(2)
    _, weights = fitted(windows, logits, regressed)
    assert weights[is_sure, 0].min() > 0.8
    assert weights[is_sure, 1].max() < 0.2
    assert weights[~is_sure, 1].min() > 0.4


def test_the_sharpest_of_equals_is_taken(windows):
    """A posterior that mixes frames is sharpened where it is right, for patches of one frame."""
    network, _ = fitted(windows, windows.right / 6, noise(1))
    assert network.sharpness == 8


def test_sharpening_that_is_clearly_worse_is_left():
    """Of the powers within a standard error of the best, the sharpest is taken."""
    ranks = (torch.arange(100) % 2).double()  # standard error 0.05
    tried = [
        (sharpness, torch.zeros(8), ranks - worse)
        for sharpness, worse in ((1.0, 0.04), (2.0, 0.0), (4.0, 0.03), (8.0, 0.08))
    ]
    assert _sharpest(tried)[0] == 4.0
    assert _sharpest(tried[:1])[0] == 1.0


@pytest.mark.parametrize("n_silent", [1, N_WINDOWS // 2, N_WINDOWS])
def test_silent_windows_stay_finite(n_silent, windows):
    """Windows of no unit are fitted with others or alone, and their coordinates are numbers."""
    mask = torch.ones(N_WINDOWS, N_FRAMES + N_LATENTS)
    mask[:n_silent] = 0
    network, weights = fitted(windows, windows.right, noise(1), mask=mask)
    assert weights.isfinite().all()
    silent = torch.zeros(2, 1, N_FRAMES + N_LATENTS)
    with torch.inference_mode():
        evidence = network.evidence(network.features(silent), silent[:, 0], silent[:, 0])
        latents = network.combine(evidence)
    assert latents.isfinite().all()
    assert latents.norm(dim=1).max() < windows.places.norm(dim=1).mean()
