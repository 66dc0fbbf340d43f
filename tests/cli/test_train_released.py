"""``neurrate train --weights`` with released checkpoints: evaluation, statistics, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import write_prepared
from encoder_training.data_set.training_set import Scaling, measure_scaling
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder
from encoder_training.run_files import RunFolder, load_run
from neurrate.cli import main
from tests.support.pictures import no_drawing
from tests.support.prepared import prepared_set

QUICK = (
    "--lag-ms", "100", "--threads", "1", "--device", "cpu", "--heads", "4", "--test-windows", "30",
)  # fmt: skip
ONLY_EVALUATED = ("--training-epochs", "0")
N_FRAMES = 40


@pytest.fixture(autouse=True)
def _no_drawing():
    with no_drawing():
        yield


@pytest.fixture(scope="module")
def prepared() -> PreparedSet:
    """Return a small data set."""
    return prepared_set(n_frames=N_FRAMES, n_repeats=4)


@pytest.fixture(scope="module")
def dataset(prepared, tmp_path_factory) -> Path:
    """Return its folder."""
    folder: Path = tmp_path_factory.mktemp("released") / "data"
    folder.mkdir()
    write_prepared(folder, prepared)
    return folder


@pytest.fixture
def checkpoint(prepared, tmp_path: Path) -> Path:
    """Return a released checkpoint that predicts patches, with no statistics beside it."""
    torch.manual_seed(0)
    path = tmp_path / "neurrator_patches_nm1_8.pt"
    spec = EncoderSpec.tiny(len(prepared.population), prepared.grid)
    torch.save(PatchEncoder(spec).state_dict(), path)
    return path


def classifier(prepared: PreparedSet, n_outputs: int = N_FRAMES) -> ImageClassifier:
    """Return a retrieval network."""
    torch.manual_seed(0)
    spec = EncoderSpec.tiny(len(prepared.population), prepared.grid)
    return ImageClassifier(spec, n_outputs).eval()


def save_released(network: ImageClassifier, path: Path) -> Path:
    """Write a retrieval network by the names of the released layout."""
    state = {
        name.replace("out_proj.", "head.") if name.startswith("out_proj.") else name: tensor
        for name, tensor in network.state_dict().items()
    }
    for name in ("weight", "bias"):
        state[f"pool_query.{name}"] = state.pop(f"pool.{name}")
    torch.save({"model": state}, path)
    return path


def write_statistics(path: Path, n_units: int, *, mean: float = 0.25, std: float = 0.5) -> Path:
    """Write statistics that no data set here has."""
    zscore_mean, zscore_std = (np.full((1, n_units), x, np.float32) for x in (mean, std))
    np.savez(path, zscore_mean=zscore_mean, zscore_std=zscore_std)
    return path


def measured(prepared: PreparedSet) -> Scaling:
    """Return the statistics of the training windows."""
    data, parts = prepared.windows(100_000_000)
    return measure_scaling(data, parts.train)


def trained(dataset: Path, folder: Path, *words: str | Path) -> RunFolder:
    """Run the command, and read what it wrote."""
    assert main(["train", str(dataset), str(folder), *QUICK, *map(str, words)]) == 0
    return load_run(folder)


def refusal(capsys, dataset: Path, folder: Path, *words: str | Path) -> str:
    """Run a command that must be refused before it writes anything; return its sentence."""
    assert main(["train", str(dataset), str(folder), *QUICK, *map(str, words)]) == 2
    assert not folder.exists()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("more", [(), ("--variant", "retrieval")])
def test_retrieval_checkpoint_is_evaluated(more, dataset, prepared, tmp_path, capsys):
    """The run holds its weights, the frames' patches by number, and measured statistics."""
    network = classifier(prepared)
    path = save_released(network, tmp_path / "ckpt.pt")
    run = trained(dataset, tmp_path / "run", "--weights", path, *ONLY_EVALUATED, *more)
    assert run.model.variant == "retrieval"
    assert run.model.finished
    assert run.model.judged_only
    assert isinstance(run.encoder, RetrievalEncoder)
    assert np.array_equal(run.encoder.table.numpy(), prepared.targets)
    for name, tensor in network.state_dict().items():
        assert torch.equal(run.encoder.classifier.state_dict()[name], tensor)
    assert "statistics: measured on the training windows" in capsys.readouterr().out
    assert np.array_equal(run.scaling.mean, measured(prepared).mean)
    assert run.model.zscore_sha256 == ""


def test_statistics_beside_the_checkpoint_are_used(checkpoint, dataset, prepared, tmp_path, capsys):
    """They are in the run, so that an export has them; without the file others are measured."""
    words = ("--weights", checkpoint, *ONLY_EVALUATED)
    before = trained(dataset, tmp_path / "before", *words)
    assert "statistics: measured on the training windows" in capsys.readouterr().out
    assert np.array_equal(before.scaling.std, measured(prepared).std)
    path = write_statistics(tmp_path / "neural_nm1_8.npz", len(prepared.population))
    run = trained(dataset, tmp_path / "run", *words)
    assert f"statistics: read from {path}" in capsys.readouterr().out
    assert set(run.scaling.mean.tolist()) == {0.25}
    assert set(run.scaling.std.tolist()) == {0.5}
    assert run.model.scores != before.model.scores
    write_statistics(path, len(prepared.population), mean=1.0)
    command = ["train", str(dataset), str(tmp_path / "run"), *QUICK, *map(str, words)]
    assert main(command) == 2
    assert "zscore_sha256" in capsys.readouterr().err


def test_statistics_that_are_named_come_first(dataset, prepared, tmp_path, capsys):
    """A file of any name replaces the one beside a retrieval checkpoint."""
    path = save_released(classifier(prepared), tmp_path / "neurrator_retrieval_nm1_8.pt")
    write_statistics(tmp_path / "neural_nm1_8.npz", 3)  # of another session, and not read
    named = write_statistics(tmp_path / "mine.npz", len(prepared.population))
    words = ("--weights", path, *ONLY_EVALUATED, "--zscore", named)
    run = trained(dataset, tmp_path / "run", *words)
    assert f"statistics: read from {named}" in capsys.readouterr().out
    assert set(run.scaling.mean.tolist()) == {0.25}


def test_training_keeps_the_statistics_of_the_checkpoint(
    checkpoint, dataset, prepared, tmp_path, capsys
):
    """Weights that go on learning see counts on the scale that they know."""
    write_statistics(tmp_path / "neural_nm1_8.npz", len(prepared.population))
    words = ("--weights", checkpoint, "--training-epochs", "1")
    run = trained(dataset, tmp_path / "run", *words)
    assert "statistics: read from" in capsys.readouterr().out
    assert run.model.n_passes == 1
    assert set(run.scaling.mean.tolist()) == {0.25}


def test_run_of_an_earlier_version_is_read(checkpoint, dataset, tmp_path):
    """A run.json without the entry for statistics is of a run that measured them."""
    words = ("--weights", checkpoint, *ONLY_EVALUATED)
    folder = tmp_path / "run"
    run = trained(dataset, folder, *words)
    content = json.loads((folder / "run.json").read_text())
    del content["zscore_sha256"]
    (folder / "run.json").write_text(json.dumps(content))
    assert load_run(folder).model == run.model
    assert trained(dataset, folder, *words).model == run.model


def test_statistics_that_misfit_are_refused(checkpoint, dataset, prepared, tmp_path, capsys):
    """Of another number of units, beside the checkpoint or named; not finite; not there."""
    folder, words = tmp_path / "run", ("--weights", checkpoint, *ONLY_EVALUATED)
    beside = write_statistics(tmp_path / "neural_nm1_8.npz", 9)
    n_units = len(prepared.population)
    text = refusal(capsys, dataset, folder, *words)
    assert f"of shape (1, {n_units})" in text
    assert "zscore_mean is float32 of shape (1, 9)" in text
    assert "move this one away" in text
    named = write_statistics(tmp_path / "mine.npz", n_units, mean=np.nan)
    assert "zscore_mean is nan" in refusal(capsys, dataset, folder, *words, "--zscore", named)
    beside.unlink()
    nowhere = ("--zscore", tmp_path / "nowhere.npz")
    assert "There is no file" in refusal(capsys, dataset, folder, *words, *nowhere)


def test_numbers_of_outputs_and_frames_must_agree(dataset, prepared, tmp_path, capsys):
    """Both numbers and what to do, before anything is written."""
    path = save_released(classifier(prepared, 38), tmp_path / "ckpt.pt")
    text = refusal(capsys, dataset, tmp_path / "run", "--weights", path, *ONLY_EVALUATED)
    assert f"has 38 outputs, the data set {N_FRAMES} training frames. Prepare it with" in text


def test_retrieval_is_not_trained_from_weights(checkpoint, dataset, prepared, tmp_path, capsys):
    """Neither a retrieval checkpoint nor --variant retrieval; nor is one variant the other."""
    folder = tmp_path / "run"
    path = save_released(classifier(prepared), tmp_path / "ckpt.pt")
    text = refusal(capsys, dataset, folder, "--weights", path)
    assert "weights of the variant retrieval, which training cannot begin with" in text
    asked = ("--variant", "retrieval", "--weights", checkpoint)
    text = refusal(capsys, dataset, folder, *asked)
    assert "cannot be trained from --weights on. Evaluate them with --training-epochs 0" in text
    text = refusal(capsys, dataset, folder, *asked, *ONLY_EVALUATED)
    assert "are weights of the variant patches. Leave --variant out" in text
    text = refusal(capsys, dataset, folder, "--zscore", tmp_path / "mine.npz")
    assert "--zscore gives the statistics of --weights; got none" in text
