"""The retrieval variant: it names training images, and gives their patches as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.errors import MisuseError
from encoder_training.data_set.training_set import TrainingSet
from encoder_training.losses import measure_targets
from encoder_training.model import EncoderSpec
from encoder_training.objectives import RetrievalObjective, Targets
from encoder_training.options import TrainingOptions
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder
from encoder_training.training import train_encoder
from tests.encoder_training.support import GRID
from tests.support.prepared import prepared_set

SPEC = EncoderSpec.tiny(24, GRID)


@pytest.fixture(scope="module")
def windows():
    """Return windows of a movie that is shown again and again, and their parts."""
    return prepared_set(n_frames=60, n_repeats=6).windows(100_000_000)


def test_tokens_are_pooled_by_one_score_each():
    """The pooled token is the softmax-weighted mean of the tokens over time."""
    classifier = ImageClassifier(SPEC, 4).eval()
    z = torch.randn(3, 20, 24)
    with torch.no_grad():
        tokens = classifier.transformer(classifier.input_proj(classifier.multi_conv(z)))
        weight = torch.exp(tokens @ classifier.pool.weight[0] + classifier.pool.bias)
        pooled = (tokens * (weight / weight.sum(1, keepdim=True))[..., None]).sum(1)
        torch.testing.assert_close(classifier(z), classifier.out_proj(pooled))


def test_encoder_gives_true_patches():
    """The output is a row of the table, exactly, and float32 like every encoder's."""
    table = torch.randn(4, GRID.n_patches, GRID.dim).half()
    encoder = RetrievalEncoder(SPEC, ImageClassifier(SPEC, 4), table).eval()
    z = torch.randn(5, 20, 24)
    with torch.inference_mode():
        found, image = encoder(z, torch.ones(5, 24)), encoder.classifier(z).argmax(-1)
    assert found.dtype == torch.float32
    assert torch.equal(found, table[image].float())


def test_images_are_those_of_training(windows):
    """The vocabulary holds each frame of the training windows once, and no other."""
    data, parts = windows
    train = parts.train[::7]
    scaling = measure_targets(data, train, normalise=True)
    objective = RetrievalObjective(SPEC, Targets(data, scaling, torch.device("cpu")), train)
    encoder = objective.encoder(objective.network.state_dict())
    assert isinstance(encoder, RetrievalEncoder)
    expected = data.targets[np.unique(data.frame[train])]
    assert np.array_equal(encoder.table.numpy(), expected)


def test_what_was_seen_is_recognised(windows):
    """On a held-out repeat, its patches are far closer to the truth than the mean's."""
    data, parts = windows
    options = TrainingOptions(
        training_epochs=15, learning_rate=3e-3, batch_size=32, variant="retrieval"
    )
    trained = train_encoder(EncoderSpec.tiny(data.n_units, GRID), data, options, parts=parts)
    best = max(trained.history, key=lambda row: row.validation_cosine)
    assert best.validation_cosine > 0.5
    assert isinstance(trained.encoder, RetrievalEncoder)
    assert not trained.encoder.training


def test_contrast_has_no_meaning_here():
    """Its loss compares patches, which the variant does not predict."""
    with pytest.raises(MisuseError, match="no contrastive loss"):
        TrainingOptions(variant="retrieval", contrastive=0.1)


def test_targets_are_the_same_wherever_they_are_kept(windows):
    """Gathered batch by batch or kept on the device: the same bits."""
    data: TrainingSet = windows[0]
    scaling = measure_targets(data, np.arange(20), normalise=True)
    rows = np.array([3, 1, 3, 17])
    gathered, kept = (
        Targets(data, scaling, torch.device("cpu"), are_kept_there=kept).of_windows(rows)
        for kept in (False, True)
    )
    assert torch.equal(gathered, kept)
