"""Released retrieval checkpoints: the patches of the frame that the released network names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contracts.errors import UserError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.released import load_released
from encoder_training.retrieval import RetrievalEncoder
from tests.encoder_training.released_networks import (
    N_BINS,
    N_UNITS,
    WIDTH,
    ReleasedRetrieval,
    data_set,
    shaken,
    wrapped,
)

N_TRAINING = 9
"""Training frames of each movie of `data_set`."""


def network(n_outputs: int = N_TRAINING) -> ReleasedRetrieval:
    """Return one whose outputs are all named by some of the windows below."""
    torch.manual_seed(2)
    made = shaken(ReleasedRetrieval(n_outputs))
    assert isinstance(made, ReleasedRetrieval)
    return made


def patches_of(prepared: PreparedSet, movie: int, number: int) -> torch.Tensor:
    """Return the true patches of one frame."""
    frames = prepared.frames
    (row,) = np.flatnonzero((frames.movie == movie) & (frames.number == number))
    return torch.from_numpy(prepared.targets[row]).float()


def check_output(encoder, released, prepared, frame_of) -> None:
    """Each window gives the patches of the frame that its highest output stands for."""
    z = 3 * torch.randn(40, N_BINS, N_UNITS)
    with torch.no_grad():
        found, image = encoder(z, torch.ones(len(z), N_UNITS)), released(z).argmax(-1).tolist()
    assert len(set(image)) > 1
    for grid, output in zip(found, image, strict=True):
        assert torch.equal(grid, patches_of(prepared, *frame_of(output)))


@pytest.mark.parametrize("kind", ["plain", "model", "state_dict", "model_state_dict"])
def test_output_is_the_frame_that_the_released_network_names(kind, tmp_path):
    """Outputs are training frames by number, however the checkpoint was wrapped."""
    released, prepared, path = network(), data_set(), tmp_path / "ckpt.pt"
    torch.save(wrapped(released.state_dict(), kind), path)
    encoder = load_released(path, prepared)
    assert isinstance(encoder, RetrievalEncoder)
    assert not encoder.training
    assert encoder.table.dtype == torch.float16
    assert encoder.spec.width == WIDTH
    z = torch.randn(5, N_BINS, N_UNITS)
    with torch.no_grad():
        torch.testing.assert_close(encoder.classifier(z), released(z))
    check_output(encoder, released, prepared, lambda output: (0, output))


def test_frames_of_several_movies_are_by_movie_then_number(tmp_path):
    """The held-out frame of each movie has no output; safetensors is read as well."""
    released, prepared = network(2 * N_TRAINING), data_set(n_movies=2)
    path = tmp_path / "ckpt.safetensors"
    save_file(released.state_dict(), path)
    encoder = load_released(path, prepared)
    check_output(encoder, released, prepared, lambda output: divmod(output, N_TRAINING))


@pytest.mark.parametrize("kind", ["plain", "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("number", [int, np.int64])
def test_own_numbering_counts(kind, number, tmp_path):
    """A frame_to_class beside the state dict or in it, with numbers of Python or of NumPy."""
    released, prepared, path = network(4), data_set(), tmp_path / "ckpt.pt"
    frames = [7, 0, 9, 3]  # 9 is held out here, and was not where it was trained
    mapping = {number(frame): number(output) for output, frame in enumerate(frames)}
    torch.save(wrapped(released.state_dict(), kind, frame_to_class=mapping), path)
    encoder = load_released(path, prepared)
    check_output(encoder, released, prepared, lambda output: (0, frames[output]))


@pytest.mark.parametrize(
    ("mapping", "n_movies", "sentence"),
    [
        (None, 1, r"has 4 outputs, the data set 9 training frames\. Prepare it"),
        ([0, 1, 2, 3], 1, "must be a dictionary"),
        ({"a": 0, "b": 1, "c": 2, "d": 3}, 1, "whole numbers"),
        ({0: 0, 1: 1, 2: 2}, 1, "each output, 0 to 3, once; .* names 3 outputs for 3 frames"),
        ({0: 0, 1: 1, 2: 2, 3: 2}, 1, "names 3 outputs for 4 frames"),
        ({0: 1, 1: 2, 2: 3, 3: 4}, 1, "names 4 outputs for 4 frames"),
        ({0: 0, 1: 1, 2: 2, 900: 3}, 1, "of 4 it lacks 1: 900"),
        ({0: 0, 1: 1, 2: 2, 3: 3}, 2, "has 2: movie_0, movie_1"),
    ],
)
def test_outputs_that_fit_no_frames_are_refused(mapping, n_movies, sentence, tmp_path):
    """Both numbers, or what is wrong with the numbering, in one sentence."""
    path = tmp_path / "ckpt.pt"
    more = {} if mapping is None else {"frame_to_class": mapping}
    torch.save(wrapped(network(4).state_dict(), "model", **more), path)
    with pytest.raises(UserError, match=sentence):
        load_released(path, data_set(n_movies=n_movies))


def test_every_misfit_has_its_released_name(tmp_path):
    """Missing, unexpected and other shapes, by the names that stand in the checkpoint."""
    state = dict(network().state_dict())
    del state["pool_query.bias"]
    state["head.0.weight"] = torch.zeros(3)
    state["patch_queries"] = torch.zeros(6, WIDTH)
    path = tmp_path / "ckpt.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match="released retrieval encoder: 1 missing") as error:
        load_released(path, data_set())
    for part in ("pool_query.bias", "1 unexpected: patch_queries", "head.0.weight is (3,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("shape", [(), (0, WIDTH), (N_TRAINING,)])
def test_head_that_can_be_no_layer_is_refused(shape, tmp_path):
    """No outputs at all, or no matrix, end in no traceback."""
    path = tmp_path / "ckpt.pt"
    torch.save({**network().state_dict(), "head.1.weight": torch.zeros(shape)}, path)
    with pytest.raises(UserError, match=r"head\.1\.weight|sizes that no encoder can have"):
        load_released(path, data_set())


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    """Its highest output would mean nothing."""
    state = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    state["head.1.bias"][0] = float("nan")
    path = tmp_path / "ckpt.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"head\.1\.bias are not"):
        load_released(path, data_set())
