"""z-score statistics of a released checkpoint: found by name, read, and refused if they misfit."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.errors import UserError
from encoder_training.released_zscore import load_zscore, zscore_beside

MEAN = np.array([[0.5, 1.5, 0.0]], np.float32)
STD = np.array([[0.7, 1.1, 0.01]], np.float32)
RATE = BinRate(120)


@pytest.mark.parametrize(
    ("checkpoint", "statistics"),
    [
        ("neurrator_patches_nm1_715093703.pt", "neural_nm1_715093703.npz"),
        ("neurrator_retrieval_nm1_715093703.pt", "neural_nm1_715093703.npz"),
        ("neurrator_patches_natural_movie_three_7.safetensors", "neural_natural_movie_three_7.npz"),
    ],
)
def test_file_beside_a_checkpoint_is_found(checkpoint, statistics, tmp_path):
    """Stimulus and session are those of the checkpoint's name."""
    assert zscore_beside(tmp_path / checkpoint) is None
    (tmp_path / "neural_nm1_8.npz").touch()
    (tmp_path / statistics).touch()
    assert zscore_beside(tmp_path / checkpoint) == tmp_path / statistics


def test_other_names_have_none(tmp_path):
    """A checkpoint of another name is of an unknown session."""
    (tmp_path / "neural_nm1_8.npz").touch()
    for name in ("encoder.safetensors", "my_neurrator_patches_nm1_8.pt", "nm1_8.pt"):
        assert zscore_beside(tmp_path / name) is None


@pytest.mark.parametrize("shape", [(1, 3), (3,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_read(shape, dtype, tmp_path):
    """As they are, small standard deviations too; counts beside them are not read."""
    path = tmp_path / "neural_nm1_8.npz"
    mean, std = (array.reshape(shape).astype(dtype) for array in (MEAN, STD))
    counts = np.array([object()])  # cannot be read without pickle
    np.savez(path, zscore_mean=mean, zscore_std=std, X_train=counts)
    scaling = load_zscore(path, n_units=3, rate=RATE)
    assert scaling.mean.dtype == scaling.std.dtype == np.float32
    assert np.array_equal(scaling.mean, MEAN[0])
    assert np.array_equal(scaling.std, STD[0])
    assert load_zscore(path, n_units=3, rate=BinRate(240, 2)).mean.shape == (3,)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"zscore_mean": None}, ["zscore_mean is not there"]),
        ({"zscore_std": STD[:, :2]}, [r"zscore_std is float32 of shape \(1, 2\)"]),
        ({"zscore_mean": MEAN.T}, [r"zscore_mean is float32 of shape \(3, 1\)"]),
        ({"zscore_mean": MEAN.astype(np.int64)}, ["zscore_mean is int64"]),
        (
            {
                "zscore_mean": np.where([1, 0, 1], MEAN, np.float32(np.nan)),
                "zscore_std": STD * np.inf,
            },
            [r"zscore_mean is nan for the units 1 \(from 0\)", "zscore_std is inf, inf, inf"],
        ),
        (
            {"zscore_std": STD * np.array([1, 0, -1], np.float32)},
            ["zscore_std is 0.0, -0.0.* units 1, 2"],
        ),
        ({"zscore_std": STD.astype(np.float64) * 1e-60}, ["zscore_std is 0.0, 0.0, 0.0"]),
        ({"zscore_mean": MEAN.astype(np.float64) * 1e60}, ["zscore_mean is inf, inf for"]),
    ],
)
def test_statistics_that_do_not_fit_are_refused(changed, found, tmp_path):
    """File, rule, all that was found, and what to do."""
    path = tmp_path / "neural_nm1_8.npz"
    arrays = {"zscore_mean": MEAN, "zscore_std": STD, **changed}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(
        UserError, match=r"must hold zscore_mean and zscore_std, .*\(1, 3\)"
    ) as error:
        load_zscore(path, n_units=3, rate=RATE)
    assert str(path) in str(error.value)
    for part in (*found, "Name the file of the checkpoint's session with --zscore"):
        assert error.match(part)


def test_bins_of_another_length_are_refused(tmp_path):
    """Counts in bins of 10 ms have other means than those in bins of 1/120 s."""
    path = tmp_path / "neural_nm1_8.npz"
    np.savez(path, zscore_mean=MEAN, zscore_std=STD)
    with pytest.raises(UserError, match="the data set has 100 bins a second"):
        load_zscore(path, n_units=3, rate=BinRate(100))


@pytest.mark.parametrize("content", [b"noise", b"", b"PK\x03\x04 cut short"])
def test_file_that_cannot_be_read_is_one_sentence(content, tmp_path):
    """Nothing, noise and a cut file are refused alike."""
    path = tmp_path / "neural_nm1_8.npz"
    with pytest.raises(UserError, match="There is no file"):
        load_zscore(path, n_units=3, rate=RATE)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as an \.npz file"):
        load_zscore(path, n_units=3, rate=RATE)


def test_damaged_or_single_arrays_are_refused(tmp_path):
    """Bytes that changed under a checksum, and an .npy file, are no statistics."""
    path = tmp_path / "neural_nm1_8.npz"
    np.savez_compressed(path, zscore_mean=MEAN, zscore_std=STD)
    content = bytearray(path.read_bytes())
    at = content.index(b"zscore_mean.npy") + 40
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_zscore(path, n_units=3, rate=RATE)
    with path.open("wb") as file:
        np.save(file, MEAN)
    with pytest.raises(UserError, match="zscore_mean is not there; zscore_std is not there"):
        load_zscore(path, n_units=3, rate=RATE)
