"""The training loop: it learns planted codes, predicts the mean of noise, and is repeatable."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from contracts.errors import DependencyError, MisuseError, UserError
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.training_set import split
from encoder_training.history import plot_history, write_history
from encoder_training.losses import measure_targets
from encoder_training.masking import MaskingOptions
from encoder_training.model import EncoderSpec
from encoder_training.options import TrainingOptions
from encoder_training.training import TrainingResult, train_encoder
from tests.encoder_training.support import GRID, TickingClock, planted, population

SPEC = EncoderSpec(
    len(population()),
    GRID,
    width=32,
    n_heads=2,
    feed_forward=64,
    conv_channels=16,
    dropout=0.0,
    input_dropout=0.0,
)
QUICK = TrainingOptions(training_epochs=2, batch_size=32, learning_rate=3e-3, seed=1)


@pytest.fixture(scope="module")
def data():
    """Return the planted recording."""
    return planted()


@pytest.fixture(scope="module")
def few_scenes():
    """Return a shorter recording, where it does not matter how much is learned."""
    return planted(n_scenes=40)


@pytest.fixture(scope="module")
def trained(data) -> TrainingResult:
    """Return an encoder that has had time to learn the planted code."""
    return train_encoder(SPEC, data, replace(QUICK, training_epochs=25))


def serve(trained: TrainingResult, data, rows, selection: str) -> np.ndarray:
    """Encode windows as the exported graph does."""
    model = CountEncoder(trained.encoder, trained.scaling).eval()
    counts = torch.from_numpy(data.counts_of(rows)).float()
    mask = torch.from_numpy(data.population.select(selection).mask).float()
    with torch.inference_mode():
        found: np.ndarray = model(counts, mask.expand(len(rows), -1)).numpy()
    return found


def skill(found, data, rows, mean) -> float:
    """Return the explained share of the error of the mean, each dimension on its own scale."""
    scale = data.targets.astype(np.float64).std(axis=(0, 1))
    target = data.targets_of(rows)
    error, baseline = (np.square((x - target) / scale).mean() for x in (found, mean))
    return float(1 - error / baseline)


@pytest.fixture(scope="module")
def held_out(data, trained):
    """Return the validation windows and the mean training target."""
    parts = split(data, trained.validation_groups)
    return parts.validation, measure_targets(data, parts.train, normalise=True).patch_mean


def test_planted_code_is_learned(data, trained, held_out):
    """On scenes never seen, the encoder beats the mean of the training targets by far."""
    rows, mean = held_out
    assert skill(serve(trained, data, rows, "all"), data, rows, mean) > 0.7


def test_fewer_units_explain_less_but_something(data, trained, held_out):
    """One area is worse than all and far better than nothing."""
    rows, mean = held_out
    everyone, area = (
        skill(serve(trained, data, rows, name), data, rows, mean) for name in ("all", "VISp")
    )
    assert 0.3 < area < everyone


@pytest.mark.parametrize("blind", ["CA1", "silent"])
def test_without_information_the_mean_is_predicted(blind, data, trained, held_out):
    """Units of pure noise, and no units at all, give the mean: no better, hardly worse."""
    rows, mean = held_out
    found = serve(trained, data, rows, blind)
    assert -0.15 < skill(found, data, rows, mean) < 0.15
    scale = data.targets.astype(np.float64).std(axis=(0, 1))
    spread = np.std((serve(trained, data, rows, "all") / scale), axis=0).mean()
    assert np.std(found / scale, axis=0).mean() < 0.35 * spread


def test_history_agrees_with_what_is_served(data, trained, held_out):
    """The best row's cosine is that of the encoder which came back, scale folded in."""
    rows, _ = held_out
    found, target = serve(trained, data, rows, "all"), data.targets_of(rows)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(target, axis=-1)
    best = max(trained.history, key=lambda row: row.validation_cosine)
    assert np.mean((found * target).sum(-1) / norms) == pytest.approx(best.raw_cosine, abs=1e-4)


def test_one_batch_can_be_overfitted():
    """Without masks, jitter and dropout four windows are learned by heart."""
    data = planted(n_scenes=5)
    few = replace(
        data,
        first_bin=data.first_bin[::3],
        frame=data.frame[::3],
        group=np.array([0, 0, 0, 0, 1]),
    )
    only = MaskingOptions(1, 0, 0, 0, 0, 0, 0, unit_dropout=0)
    options = TrainingOptions(
        training_epochs=150, patience=150, learning_rate=3e-3, jitter_bins=0, masking=only
    )
    trained = train_encoder(SPEC, few, options, validation_groups=np.array([1]))
    assert trained.history[-1].train_loss < 0.03 * trained.history[0].train_loss


def test_same_seed_same_weights(few_scenes):
    """Training is a function of its arguments, and leaves torch's own generator alone."""
    before = torch.random.get_rng_state()
    first, again, other = (
        train_encoder(SPEC, few_scenes, replace(QUICK, seed=seed)).encoder.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_queries"], other["patch_queries"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_raw_targets_are_learned_as_they_are(few_scenes):
    """The paper's way, half precision and InfoNCE run, and the loss falls."""
    options = replace(
        QUICK, training_epochs=4, normalise=False, precision="bfloat16", contrastive=0.1
    )
    rows = list[float]()
    train_encoder(SPEC, few_scenes, options, lambda row: rows.append(row.train_loss))
    assert len(rows) == 4
    assert rows[-1] < rows[0]


def test_training_ends_when_validation_does_not_improve(few_scenes):
    """Patience is counted from the best pass."""
    trained = train_encoder(
        SPEC, few_scenes, replace(QUICK, training_epochs=30, patience=2, learning_rate=1e-9)
    )
    cosines = [row.validation_cosine for row in trained.history]
    assert len(cosines) < 30
    assert len(cosines) - 1 - int(np.argmax(cosines)) == 2


def test_time_limit_ends_the_schedule(data):
    """With a limit, training stops in the middle of a pass, its learning rate almost at 0."""
    options = replace(QUICK, training_epochs=1000, max_minutes=0.5)
    trained = train_encoder(SPEC, data, options, clock=TickingClock())
    assert 1 <= len(trained.history) < 5
    assert trained.history[-1].elapsed_s <= 35
    assert trained.history[-1].learning_rate < 0.02 * options.learning_rate


def test_windows_per_epoch_shortens_a_pass(few_scenes):
    """A pass may take a part of the windows."""
    trained = train_encoder(SPEC, few_scenes, replace(QUICK, windows_per_epoch=64))
    assert [row.n_windows for row in trained.history] == [64, 128]


def test_history_is_written(trained, tmp_path):
    """The table has a line for each pass, and reads back."""
    write_history(trained.history, tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["training_epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert float(rows[-1]["skill"]) == pytest.approx(trained.history[-1].skill, rel=1e-4)


def test_history_is_drawn_or_the_missing_library_named(trained, tmp_path):
    """With matplotlib there is a picture, without it an error that says what to install."""
    path = tmp_path / "history.png"
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(DependencyError, match="pip install"):
            plot_history(trained.history, path)
    else:
        plot_history(trained.history, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_is_refused(data):
    """Other units, too wide a jitter and targets that are not numbers are named."""
    with pytest.raises(MisuseError, match="takes 5 units"):
        train_encoder(replace(SPEC, n_units=5), data, QUICK)
    with pytest.raises(MisuseError, match="jitter_bins is 3"):
        train_encoder(SPEC, data, replace(QUICK, jitter_bins=3))
    broken = replace(data, targets=np.full_like(data.targets, np.nan))
    with pytest.raises(UserError, match="training loss must stay finite"):
        train_encoder(SPEC, broken, QUICK)
    held_out = np.array([3])
    targets = data.targets.copy()
    targets[data.frame[data.group == 3]] = np.nan
    broken = replace(data, targets=targets)
    with pytest.raises(UserError, match="validation loss must stay finite"):
        train_encoder(SPEC, broken, QUICK, validation_groups=held_out)
