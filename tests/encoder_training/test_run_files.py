"""A run folder reads back what was written, and says what is wrong with one that does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from contracts.errors import UserError
from contracts.manifest import ENCODER_WEIGHTS, LanguageModel, TrainingData, WindowModel
from encoder_training.data_set.training_set import Scaling
from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes
from encoder_training.history import TrainingEpoch
from encoder_training.lag import LagChoice, LagScore
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder
from encoder_training.run_files import RunModel, load_run, load_run_model, write_run
from tests.encoder_training.support import GRID

SPEC = EncoderSpec.tiny(5, GRID)
SCALING = Scaling(np.linspace(0, 1, 5, dtype=np.float32), np.ones(5, dtype=np.float32))


def a_model(**changes) -> RunModel:
    """Return a run that has every field."""
    values = {
        "dataset": "data",
        "dataset_sha256": "0" * 64,
        "training_data": TrainingData(recording="a", sha256="0" * 64),
        "language_model": LanguageModel(model_id="a-model"),
        "variant": "patches",
        "spec": SPEC,
        "options": TrainingOptions(seed=3, learning_rate=0.1),
        "lags_ns": (0, 33_000_000),
        "window": WindowModel(bin_rate_num=120, n_bins=20, stride_bins=20, lag_ns=33_000_000),
        "lag_choice": LagChoice(33_000_000, (LagScore(0, 0.1, 0.2, 0.3, 0.4),), 10, 9, 8),
        "n_passes": 1,
        "best_pass": 1,
        "history_tail": (TrainingEpoch(1, 0.5, 64, 1e-3, 1.0, 0.9, 0.1, 0.8, 0.01),),
        "scores": {"skill": 0.25},
        "command": "neurrate train data run",
    }
    return RunModel(**{**values, **changes})


def encoders():
    """Return one encoder of each variant."""
    torch.manual_seed(0)
    table = torch.randn(3, GRID.n_patches, GRID.dim).half()
    sizes = EvidenceSizes(
        n_bins=20, n_parts=2, n_anchors=3, n_latents=4, n_gaussian=2, n_dims=4, width=8
    )
    return {
        "evidence": EvidenceEncoder(SPEC, sizes).eval(),
        "patches": PatchEncoder(SPEC).eval(),
        "retrieval": RetrievalEncoder(SPEC, ImageClassifier(SPEC, 3), table).eval(),
    }


@pytest.mark.parametrize("variant", ["evidence", "patches", "retrieval"])
def test_run_reads_back(variant, tmp_path):
    """The facts, the weights of each variant and the scaling come back as they were."""
    encoder, model = encoders()[variant], a_model(variant=variant)
    write_run(tmp_path, model, encoder=encoder, scaling=SCALING)
    run = load_run(tmp_path)
    assert run.model == model
    assert (run.model.lag_ns, run.model.seed) == (33_000_000, 3)
    assert run.encoder.spec == SPEC
    z, mask = torch.randn(4, 20, 5), torch.ones(4, 5)
    with torch.inference_mode():
        assert torch.equal(run.encoder(z, mask), encoder(z, mask))
    assert np.array_equal(run.scaling.mean, SCALING.mean)
    assert not list(tmp_path.glob(".*"))


def test_training_that_is_not_over_says_how_to_go_on(tmp_path):
    """Without weights there is nothing to load; the sentence has the command."""
    write_run(tmp_path, a_model())
    with pytest.raises(UserError, match="Go on with: neurrate train data run"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format_version": 9}, "format_version 9, this build reads 1"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"finished": "yes"}, "finished: Input should be a valid boolean"),
        ({"spec": {"n_units": 0, "grid": {"rows": 1, "cols": 1, "dim": 1}}}, "cannot be"),
    ],
)
def test_what_is_wrong_is_said(change, sentence, tmp_path):
    """A file of another version, with unknown or wrong values, is one sentence."""
    write_run(tmp_path, a_model())
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=sentence):
        load_run_model(tmp_path)


def test_files_of_different_runs_are_refused(tmp_path):
    """Weights of other sizes than ``run.json`` says are not taken; nor is broken scaling."""
    write_run(tmp_path, a_model(), encoder=encoders()["patches"], scaling=SCALING)
    write_run(tmp_path, a_model(spec=EncoderSpec.tiny(6, GRID)))
    with pytest.raises(UserError, match="of different runs"):
        load_run(tmp_path)
    write_run(tmp_path, a_model())
    (tmp_path / "scaling.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="unit_mean"):
        load_run(tmp_path)
    (tmp_path / ENCODER_WEIGHTS).write_bytes(b"no")
    with pytest.raises(UserError, match="encoder's weights"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="must be the folder of a run"):
        load_run(tmp_path / "nowhere")
