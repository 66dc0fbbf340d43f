"""The network: evidence is a sum over units, whichever they are, and also where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.embedding import PatchGrid
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.training_set import Scaling
from encoder_training.evidence.network import (
    EvidenceEncoder,
    EvidenceSizes,
    part_sums,
    solve,
)
from encoder_training.model import EncoderSpec
from encoder_training.weights import load_weights, save_weights
from tests.support.evidence_encoders import random_evidence_encoder

N_UNITS, N_BINS, N_WINDOWS = 12, 10, 6
SPEC = EncoderSpec.tiny(N_UNITS, PatchGrid(rows=2, cols=3, dim=16))
SIZES = EvidenceSizes(
    n_bins=N_BINS, n_parts=4, n_anchors=9, n_latents=7, n_gaussian=5, n_dims=6, width=20
)
SCALING = Scaling(
    np.linspace(0.2, 2, N_UNITS, dtype=np.float32), np.linspace(0.4, 1.4, N_UNITS, dtype=np.float32)
)
POPULATIONS = {"all": range(N_UNITS), "few": (2, 7, 8), "one": (4,), "none": ()}


@pytest.fixture
def encoder() -> EvidenceEncoder:
    """Return an encoder of random numbers."""
    return random_evidence_encoder(SPEC, SIZES)


@pytest.fixture
def counts() -> torch.Tensor:
    """Return windows of spike counts."""
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.poisson(SCALING.mean, (N_WINDOWS, N_BINS, N_UNITS))).float()


def mask_of(units) -> torch.Tensor:
    """Return a mask of some units, for each window."""
    mask = torch.zeros(N_WINDOWS, N_UNITS)
    mask[:, list(units)] = 1
    return mask


def z_of(counts, mask) -> torch.Tensor:
    """Return z-scores, those of masked units 0."""
    mean, std = torch.from_numpy(SCALING.mean), torch.from_numpy(SCALING.std)
    z: torch.Tensor = (counts - mean) / std * mask.unsqueeze(1)
    return z


def poisson_of(encoder, counts, mask) -> torch.Tensor:
    """Return the network's own log likelihood ratios."""
    x = encoder.features(z_of(counts, mask))
    logits: torch.Tensor = encoder.poisson(x, mask, encoder.poisson_gain, encoder.poisson_offset)
    return logits


def test_evidence_of_two_populations_adds_up(encoder, counts):
    """Log likelihood ratios of a union are those of one part plus those of the other."""
    encoder = encoder.double()
    one, other = mask_of((0, 3, 4, 9)).double(), mask_of((1, 5, 11)).double()
    one_alone, other_alone, both = (
        poisson_of(encoder, counts.double(), mask) for mask in (one, other, one + other)
    )
    torch.testing.assert_close(one_alone + other_alone, both)
    assert one_alone.std() > 0.1
    assert other_alone.std() > 0.1


def test_a_unit_of_no_gain_says_nothing_to_anchors(encoder, counts):
    """The gain of a unit weighs its own evidence, in all parts of the window."""
    expected = poisson_of(encoder, counts, mask_of((0, 1, 2, 4)))
    with torch.no_grad():
        encoder.unit_gain[3] = 0
    torch.testing.assert_close(poisson_of(encoder, counts, mask_of(range(5))), expected)


@pytest.mark.parametrize("population", POPULATIONS)
def test_gaussian_mean_is_that_of_the_posterior(population, encoder, counts):
    """It solves I + the sum of the units' precisions, for any units."""
    mask = mask_of(POPULATIONS[population])
    x = encoder.features(z_of(counts, mask))
    found = encoder.gaussian_mean(x, mask).numpy()
    state = {name: value.double().numpy() for name, value in encoder.state_dict().items()}
    summed = mask.double().numpy() @ state["gaussian_precision"]
    precision = np.eye(5) + summed.reshape(-1, 5, 5)
    h = x.double().numpy() @ state["gaussian_gain"]
    expected = np.linalg.solve(precision, h[..., np.newaxis])[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.3 or population == "none"


def test_nothing_solves_nothing():
    """Without any evidence the mean is that of the prior, exactly."""
    precision = torch.eye(4).repeat(3, 1, 1)
    precision[1] = 0
    assert torch.equal(solve(precision, torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("n_units", [1, 3, 40, 600])
def test_solve_of_sizes_that_differ(n_units):
    """Components that a fit meets, from sure to hardly seen, are solved in single precision."""
    rng = np.random.default_rng(n_units)
    weight = 0.4 * rng.normal(size=(n_units, 64)) * np.geomspace(1, 0.01, 64)
    precision = weight.T @ weight
    h = rng.normal(size=n_units) @ weight + precision @ rng.normal(size=64)
    assert relative_error(precision, h) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_solve_of_an_ill_conditioned_precision(seed):
    """Components whose precisions differ by a factor of ten million, and are correlated."""
    rng = np.random.default_rng(seed)
    correlated = np.eye(16) + 0.2 * np.ones((16, 16))
    scale = rng.permutation(np.geomspace(0.1, 300, 16))
    precision = scale[:, np.newaxis] * correlated * scale
    assert np.linalg.cond(np.eye(16) + precision) > 5e4
    assert relative_error(precision, rng.normal(size=16) * scale) < 1e-3


def relative_error(precision, h) -> float:
    """Return how far the solution is from that in double precision."""
    expected = np.linalg.solve(np.eye(len(h)) + precision, h)
    given = (torch.from_numpy(array[np.newaxis]).float() for array in (precision, h))
    found = solve(*given).numpy()[0]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("population", POPULATIONS)
def test_a_masked_unit_says_nothing(population, encoder, counts):
    """Whatever it fires, the patches are the same, bit for bit."""
    mask = mask_of(POPULATIONS[population])
    others = torch.where(mask.unsqueeze(1) == 1, counts, 100 - counts)
    model = CountEncoder(encoder, SCALING).eval()
    with torch.inference_mode():
        assert torch.equal(model(counts, mask), model(others, mask))


def test_a_unit_at_its_mean_is_not_a_masked_one(encoder):
    """Both have z = 0; the former is evidence, for anchors and for the Gaussian's precision."""
    z = torch.zeros(N_WINDOWS, N_BINS, N_UNITS)
    all_but_one = mask_of(range(1, N_UNITS))
    with torch.inference_mode():
        found, other = encoder(z, mask_of(range(N_UNITS))), encoder(z, all_but_one)
    assert (found - other).abs().max() > 1e-3


def test_no_unit_gives_the_same_patches_always(encoder, counts):
    """They are finite, and nothing of the window is in them."""
    with torch.inference_mode():
        patches = CountEncoder(encoder, SCALING).eval()(counts, mask_of(()))
    assert patches.isfinite().all()
    # Not bit for bit: a product may sum the last rows of a batch in another order.
    torch.testing.assert_close(patches, patches[:1].expand_as(patches), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("n_bins", "lengths"),
    [(10, (2, 3, 2, 3)), (20, (5, 5, 5, 5)), (7, (3, 4)), (1, (1,)), (3, (1, 1, 1))],
)
def test_parts_take_each_bin_once(n_bins, lengths):
    """A part is a run of bins, and a sum of independent z-scores stays one."""
    sums = part_sums(n_bins, len(lengths)).numpy()
    expected = np.zeros((len(lengths), n_bins))
    stops = np.cumsum(lengths)
    for part, (stop, length) in enumerate(zip(stops, lengths, strict=True)):
        expected[part, stop - length : stop] = 1 / np.sqrt(length)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_features_are_part_by_part(encoder, counts):
    """Feature p * n_units + u is part p of unit u."""
    z = z_of(counts, mask_of(range(N_UNITS)))
    x = encoder.features(z)
    torch.testing.assert_close(x[:, 2 * N_UNITS + 5], z[:, 5:7, 5].sum(dim=1) / 2**0.5)


def test_half_precision_is_for_the_last_layers(encoder, counts):
    """Only what makes patches of coordinates is converted; patches stay near."""
    mask = mask_of(range(N_UNITS))
    with torch.inference_mode():
        expected = encoder(z_of(counts, mask), mask)
        half = encoder.to_precision(torch.float16)
        found = half(z_of(counts, mask), mask)
    converted = {name for name, one in half.state_dict().items() if one.dtype == torch.float16}
    assert converted == {"to_dims.weight", "to_patch.weight", "patch_mean"}
    rest = {one.dtype for name, one in half.state_dict().items() if name not in converted}
    assert rest == {torch.float32}
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.02)


def test_double_precision_is_for_all_layers(encoder):
    """The parity of a graph is measured against a network that rounds nowhere."""
    encoder.to_precision(torch.float64)
    assert {one.dtype for one in encoder.state_dict().values()} == {torch.float64}


def test_forward_goes_through_evidence(encoder, counts):
    """Patches are read out of combined coordinates, which training and fitting see as well."""
    mask = mask_of((0, 1, 6))
    z = z_of(counts, mask)
    with torch.inference_mode():
        evidence = encoder.evidence(encoder.features(z), mask, poisson_of(encoder, counts, mask))
        expected = encoder.read_out(encoder.combine(evidence))
        assert torch.equal(encoder(z, mask), expected)


def test_what_is_combined_is_weighed_by_trust(encoder, counts):
    """Coordinates are the anchors' and the regression's, each times its four weights' sum."""
    mask = mask_of((0, 1, 6))
    x = encoder.features(z_of(counts, mask))
    with torch.inference_mode():
        evidence = encoder.evidence(x, mask, poisson_of(encoder, counts, mask))
        found = encoder.combine(evidence).numpy()
    state = {name: value.numpy() for name, value in encoder.state_dict().items()}
    sharp = np.exp(2 * (evidence.logits - evidence.logits.max(dim=-1, keepdim=True)[0]).numpy())
    posterior = sharp / sharp.sum(axis=1, keepdims=True)
    sureness, units = np.square(posterior).sum(axis=1), np.full(N_WINDOWS, np.log(4) / 8)
    terms = np.stack([np.ones(N_WINDOWS), sureness, units, sureness * units], axis=1)
    weights = terms @ state["trust.weight"].T
    expected = weights[:, :1] * (posterior @ state["anchors"])
    expected += weights[:, 1:] * evidence.regressed.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_read_back_bit_for_bit(encoder, counts, tmp_path):
    """Sizes, closed forms and learned weights survive the file, and so do the patches."""
    path, mask = tmp_path / "encoder.safetensors", mask_of((3, 4))
    save_weights(encoder, path)
    loaded = load_weights(path)
    assert isinstance(loaded, EvidenceEncoder)
    assert (loaded.spec, loaded.sizes) == (SPEC, SIZES)
    state, expected = loaded.state_dict(), encoder.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    with torch.inference_mode():
        assert torch.equal(loaded(z_of(counts, mask), mask), encoder(z_of(counts, mask), mask))
