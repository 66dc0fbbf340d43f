"""The closed forms: read-out of true patches, and nothing that only the test shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contracts.errors import UserError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Split, TrainingSet, measure_scaling
from encoder_training.evidence import fitting
from encoder_training.evidence.fitting import EvidenceFit, blocks, set_read_out
from encoder_training.evidence.network import EvidenceEncoder
from encoder_training.losses import measure_targets
from encoder_training.model import EncoderSpec
from encoder_training.options import TrainingOptions
from tests.support.prepared import GRID, prepared_set

LAG_NS = 100_000_000
FLOAT16 = float(np.finfo(np.float16).eps)


def fit_to(data: TrainingSet, parts: Split, *, seed: int = 0) -> EvidenceFit:
    """Fit the closed forms."""
    return EvidenceFit(
        EncoderSpec.tiny(data.n_units, GRID),
        data,
        parts,
        measure_scaling(data, parts.train),
        measure_targets(data, parts.train, normalise=True),
        TrainingOptions.evidence(seed=seed),
    )


@pytest.fixture(scope="module")
def prepared() -> PreparedSet:
    """Return a movie of which training, validation and test show frames of their own."""
    return prepared_set(n_repeats=3, held_out="middle")


@pytest.fixture(scope="module")
def fit(prepared) -> EvidenceFit:
    """Return the fit to it."""
    return fit_to(*prepared.windows(LAG_NS))


def read_out_of(fit, frames) -> np.ndarray:
    """Return patches of the true coordinates of frames."""
    with torch.inference_mode():
        found: np.ndarray = fit.network.read_out(
            torch.from_numpy(fit.space.coordinates[frames])
        ).numpy()
    return found


def test_true_coordinates_give_true_patches(prepared, fit):
    """With as many components as there are, training frames come back but for rounding."""
    data, parts = prepared.windows(LAG_NS)
    frames = np.unique(data.frame[parts.train])
    true = data.targets[frames].astype(np.float32)
    largest = np.abs(true).max()
    assert np.abs(read_out_of(fit, frames) - true).max() < 2 * FLOAT16 * largest
    mean = fit.network.patch_mean.numpy()
    np.testing.assert_allclose(mean, true.mean(axis=0), atol=1e-3)


def test_directions_of_most_variance_are_kept(prepared, monkeypatch):
    """Two of six dimensions lose no more than the best two would."""
    monkeypatch.setattr(fitting, "MAX_DIMS", 2)
    data, parts = prepared.windows(LAG_NS)
    fit = fit_to(data, parts)
    assert fit.network.sizes.n_dims == 2
    frames = np.unique(data.frame[parts.train])
    true = data.targets[frames].astype(np.float64)
    centred = (true - true.mean(axis=0)).reshape(-1, GRID.dim)
    least = np.square(np.linalg.svd(centred, compute_uv=False)[2:]).sum()
    lost = np.square(read_out_of(fit, frames) - true).sum()
    assert least < lost < 1.02 * least
    assert lost > 0.05 * np.square(centred).sum()  # there was something to choose


def test_what_the_test_shows_changes_nothing(prepared, fit, monkeypatch):
    """Other patches of test frames, and other spikes there, give the same network bit for bit."""
    data, parts = prepared.windows(LAG_NS)
    targets, counts = data.targets.copy(), data.counts.copy()
    frames = np.setdiff1d(data.frame[parts.test], data.frame[np.r_[parts.train, parts.validation]])
    assert len(frames) > 5
    targets[frames] = 50 * targets[frames[::-1]] - 7
    used = np.r_[parts.train, parts.validation]
    bins = np.unique(data.first_bin[used, np.newaxis] + np.arange(data.window.n_bins))
    unused = np.setdiff1d(np.arange(len(counts)), bins)
    counts[unused] = 20
    other = fit_to(replace(data, targets=targets, counts=counts), parts)
    state, expected = other.network.state_dict(), fit.network.state_dict()
    closed_forms = {name for name, _ in fit.network.named_buffers()}
    for name in {*closed_forms, "to_dims.weight", "to_patch.weight"}:
        assert torch.equal(state[name], expected[name]), name


def test_patches_that_are_no_numbers_are_refused(prepared):
    """One of them in a training frame ends the fit with a sentence."""
    data, parts = prepared.windows(LAG_NS)
    targets = data.targets.copy()
    targets[data.frame[parts.train[3]], 1, 2] = np.nan
    with pytest.raises(UserError, match="patches of training frames must be numbers"):
        fit_to(replace(data, targets=targets), parts)


@pytest.mark.parametrize("n_shown", [1, 30])
def test_frames_that_are_all_equal_are_refused(prepared, n_shown):
    """Also where training shows one frame alone: there is nothing to tell apart."""
    data, parts = prepared.windows(LAG_NS)
    frames = np.unique(data.frame[parts.train])[:n_shown]
    targets = data.targets.copy()
    targets[frames] = targets[frames[0]]
    shown = replace(parts, train=parts.train[np.isin(data.frame[parts.train], frames)])
    with pytest.raises(UserError, match=f"must differ.*all equal, of {len(frames)}"):
        fit_to(replace(data, targets=targets), shown)


def test_read_out_is_made_in_blocks_of_patches(prepared, fit, monkeypatch):
    """One patch at a time, as where the basis is larger than memory has room for twice."""
    monkeypatch.setattr(fitting, "BLOCK_BYTES", 1)
    data, parts = prepared.windows(LAG_NS)
    blockwise = EvidenceEncoder(fit.network.spec, fit.network.sizes)
    set_read_out(blockwise, fit.space, np.unique(data.frame[parts.train]))
    latents = torch.from_numpy(fit.space.coordinates)
    with torch.inference_mode():
        torch.testing.assert_close(
            blockwise.read_out(latents), fit.network.read_out(latents), rtol=1e-4, atol=1e-4
        )


def test_closed_forms_read_the_movie(prepared, fit):
    """Before anything is learned, the Gaussian mean follows the components of new frames."""
    data, parts = prepared.windows(LAG_NS)
    scaling = measure_scaling(data, parts.train)
    z = torch.from_numpy((data.counts_of(parts.test) - scaling.mean) / scaling.std).float()
    network = fit.network
    with torch.inference_mode():
        x, mask = network.features(z), torch.ones(len(z), data.n_units)
        found = (network.gaussian_mean(x, mask) * network.gaussian_scale).numpy()
    true = fit.space.coordinates[data.frame[parts.test], : network.sizes.n_gaussian]
    assert np.square(found - true).sum() < 0.6 * np.square(true).sum()


def test_folds_are_those_of_the_training_windows(prepared, fit):
    """Each training window is of one fold, whose evidence is that of the other folds."""
    _, parts = prepared.windows(LAG_NS)
    assert (fit.fold_of[parts.train] >= 0).all()
    assert (fit.fold_of[np.r_[parts.validation, parts.test]] == -1).all()
    assert len(fit.folds) == fit.fold_of.max() + 1
    for fold in fit.folds:
        assert fold.unseen.any()  # each frame is in one fold
        assert not torch.equal(fold.gain, fit.network.poisson_gain)
        assert not fold.unseen[fold.nearest].any()


def test_prior_is_how_often_an_anchor_is_shown(prepared, fit):
    """The prior's probabilities sum to 1 and follow the training windows."""
    data, parts = prepared.windows(LAG_NS)
    prior = fit.network.log_prior.exp().numpy()
    assert prior.sum() == pytest.approx(1, abs=1e-5)
    distance = np.square(
        fit.space.coordinates[data.frame[parts.train], np.newaxis] - fit.network.anchors.numpy()
    ).sum(axis=-1)
    shown = np.bincount(distance.argmin(axis=1), minlength=len(prior))
    np.testing.assert_allclose(prior, shown / shown.sum(), rtol=1e-4)


def test_blocks_meet_without_a_gap():
    """Windows are cut into blocks, the last one shorter."""
    rows = np.arange(600)
    assert np.array_equal(np.concatenate([rows[some] for some in blocks(600)]), rows)
