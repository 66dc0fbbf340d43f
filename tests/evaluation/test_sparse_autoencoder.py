"""A sparse autoencoder finds planted atoms, the same on each run, and says how good it is."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.sparse_autoencoder import matched_cosines, train

N_ATOMS, DIM, N_PATCHES = 12, 24, 4


def _planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atoms, the mean of each place, and frames in which two atoms make up a patch."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(N_ATOMS, DIM))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((2000 * N_PATCHES, N_ATOMS))
    for row in codes:
        row[rng.choice(N_ATOMS, 2, replace=False)] = rng.uniform(1, 2, 2)
    mean = 10 * rng.normal(size=(N_PATCHES, DIM))
    codes -= codes.mean(axis=0)
    patches = (codes @ atoms).reshape(-1, N_PATCHES, DIM) + mean
    return atoms, mean, patches


@pytest.fixture(scope="module")
def planted():
    """Return the planted atoms, the frames, and what was trained on them."""
    atoms, mean, patches = _planted()
    x = (patches - mean).reshape(-1, DIM)
    trained = train(x, mean, n_features=N_ATOMS, k=2, n_steps=600, seed=0)
    return atoms, mean, patches, x, trained


def test_planted_atoms_are_found(planted):
    """Most atoms have a partner in the direction that was planted."""
    atoms, _, patches, _, trained = planted
    cosines = matched_cosines(atoms, trained.atoms.numpy())
    assert np.mean(cosines > 0.75) >= 0.75
    assert trained.explained([patches[:500], patches[500:]]) > 0.8


def test_random_atoms_do_not_match(planted):
    """The null of the matching is far below what was found."""
    atoms = planted[0]
    random = np.random.default_rng(1).normal(size=atoms.shape)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert matched_cosines(atoms, random).mean() < 0.6


def test_training_is_the_same_again(planted):
    """The same seed gives the same atoms; another one does not."""
    _, mean, _, x, _ = planted
    one, same, other = (
        train(x, mean, n_features=16, k=2, n_steps=5, seed=seed).atoms for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert not (one == other).all()


def test_a_frame_is_encoded_by_the_mean_of_its_patches(planted):
    """The mean image has hardly a code; at most k codes of a patch are above 0."""
    _, mean, patches, _, trained = planted
    codes = trained.mean_codes(patches[:3])
    assert codes.shape == (3, N_ATOMS)
    assert (codes >= 0).all()
    assert np.count_nonzero(trained.mean_codes(patches[:1, :]) > 0) <= 2 * N_PATCHES
    assert trained.mean_codes(mean[np.newaxis]).sum() < codes.sum(axis=1).min()
