"""Checkpoints of the released layout: the same output, bit for bit, as a network written anew."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from contracts.embedding import PatchGrid
from contracts.errors import UserError
from encoder_training.released import load_released
from tests.encoder_training.released_networks import (
    N_BINS,
    N_UNITS,
    WIDTH,
    Released,
    data_set,
    shaken,
    wrapped,
)


@pytest.fixture(scope="module")
def released() -> Released:
    """Return a network that predicts patches."""
    torch.manual_seed(0)
    network = shaken(Released())
    assert isinstance(network, Released)
    return network


@pytest.mark.parametrize("kind", ["plain", "model", "state_dict", "model_state_dict"])
def test_output_is_that_of_the_released_network(kind, released, tmp_path):
    """In evaluation mode every bit agrees, however the checkpoint was wrapped."""
    path = tmp_path / "ckpt.pt"
    torch.save(wrapped(released.state_dict(), kind), path)
    encoder = load_released(path, data_set())
    z = torch.randn(5, N_BINS, N_UNITS)
    with torch.no_grad():
        mask = torch.ones(5, N_UNITS)
        assert torch.equal(encoder(z, mask), released(z))
    assert encoder.spec.width == WIDTH
    assert encoder.spec.kernels == (3, 7, 15)
    assert encoder.spec.feed_forward == 2 * WIDTH


def test_attention_that_also_gives_its_weights_agrees(released, tmp_path):
    """Torch then multiplies in another order: the same to the sixth digit."""
    path = tmp_path / "ckpt.pt"
    torch.save(released.state_dict(), path)
    z = torch.randn(5, N_BINS, N_UNITS)
    released.wants_weights = True
    with torch.no_grad():
        expected = released(z)
        released.wants_weights = False
        found = load_released(path, data_set())(z, torch.ones(len(z), N_UNITS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_safetensors_is_read(released, tmp_path):
    """The same weights without pickle; other heads give another network."""
    path = tmp_path / "ckpt.safetensors"
    save_file(released.state_dict(), path)
    z = torch.randn(2, N_BINS, N_UNITS)
    with torch.no_grad():
        mask = torch.ones(len(z), N_UNITS)
        encoder = load_released(path, data_set())
        assert torch.equal(encoder(z, mask), released(z))
        other = load_released(path, data_set(), n_heads=4)
        assert not torch.equal(other(z, mask), released(z))


def test_another_population_is_named(released, tmp_path):
    """Both numbers of units, and what to do."""
    path = tmp_path / "ckpt.pt"
    torch.save(released.state_dict(), path)
    with pytest.raises(UserError, match=r"it takes 7 units, the data set has 9\. Prepare"):
        load_released(path, data_set(n_units=9))


def test_every_misfit_is_in_one_error(released, tmp_path):
    """Missing, unexpected and other shapes are listed together."""
    state = dict(released.state_dict())
    del state["ca_norm.weight"], state["patch_queries"]
    state["extra"] = torch.zeros(1)
    state["out_proj.1.bias"] = torch.zeros(3)
    path = tmp_path / "ckpt.pt"
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        load_released(path, data_set())
    for part in ("2 missing: ca_norm.weight, patch_queries", "1 unexpected: extra"):
        assert part in str(error.value)
    assert "out_proj.1.bias is (3,) and should be (10,)" in str(error.value)


def test_another_grid_is_a_misfit(released, tmp_path):
    """A checkpoint for another vision tower gives patches of another shape."""
    path = tmp_path / "ckpt.pt"
    torch.save(released.state_dict(), path)
    with pytest.raises(UserError, match=r"patch_queries is \(6, 48\) and should be \(4, 48\)"):
        load_released(path, data_set(grid=PatchGrid(2, 2, 10)))


@pytest.mark.parametrize("name", ["ckpt.pt", "ckpt.safetensors"])
def test_what_is_no_checkpoint_is_one_sentence(name, tmp_path):
    """Nothing, noise, and a pickle of code are refused alike."""
    path = tmp_path / name
    with pytest.raises(UserError, match="There is no checkpoint"):
        load_released(path, data_set())
    path.write_bytes(b"noise")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_released(path, data_set())


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_queries", float("nan")), ("multi_conv.branches.1.2.running_var", -1.0)],
)
def test_weights_that_give_no_numbers_are_refused(name, value, released, tmp_path):
    """A network that can only answer NaN is named as such before it is evaluated."""
    state = {key: tensor.clone() for key, tensor in released.state_dict().items()}
    state[name].view(-1)[0] = value
    path = tmp_path / "ckpt.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match=name):
        load_released(path, data_set())


def test_junk_that_looks_like_a_pickle_is_one_sentence(tmp_path):
    """Bytes that torch takes for opcodes end in no traceback."""
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_released(path, data_set())


def test_code_is_not_unpickled(tmp_path):
    """A whole module instead of its state dict would run code; it is refused."""
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="save the state dict alone"):
        load_released(path, data_set())
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="must hold a state dict"):
        load_released(path, data_set())
