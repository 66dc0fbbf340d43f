"""Training the evidence encoder: it reads any units, is repeatable, and goes on after a kill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contracts.errors import MisuseError
from contracts.population import Population
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import TrainingSet, measure_scaling
from encoder_training.evidence import fitting
from encoder_training.evidence import objective as objective_module
from encoder_training.evidence.fitting import EvidenceFit
from encoder_training.evidence.network import EvidenceEncoder, WindowEvidence
from encoder_training.evidence.objective import EvidenceObjective
from encoder_training.evidence.trust import fit_trust
from encoder_training.history import TrainingEpoch
from encoder_training.losses import measure_targets
from encoder_training.model import EncoderSpec
from encoder_training.objectives import Targets
from encoder_training.options import TrainingOptions
from encoder_training.training import TrainingResult, train_encoder
from tests.support.prepared import GRID, prepared_set

LAG_NS = 100_000_000
OPTIONS = TrainingOptions.evidence(training_epochs=4, batch_size=32, seed=1)
BRIEF = replace(OPTIONS, training_epochs=3, fewest_steps=3, windows_per_epoch=96)


def trained_on(prepared: PreparedSet, options: TrainingOptions, **more) -> TrainingResult:
    """Train the encoder."""
    data, parts = prepared.windows(LAG_NS)
    spec = EncoderSpec.tiny(data.n_units, GRID)
    return train_encoder(spec, data, options, parts=parts, **more)


def skill(trained: TrainingResult, prepared: PreparedSet, selection: str) -> float:
    """Return the share of the mean patches' error that is explained on test windows."""
    data, parts = prepared.windows(LAG_NS)
    mask = torch.from_numpy(data.population.select(selection).mask).float()
    counts = torch.from_numpy(data.counts_of(parts.test)).float()
    model = CountEncoder(trained.encoder, trained.scaling).eval()
    with torch.inference_mode():
        found = model(counts, mask.expand(len(counts), -1)).numpy()
    mean = measure_targets(data, parts.train, normalise=True).patch_mean
    true = data.targets_of(parts.test)
    return float(1 - np.square(found - true).sum() / np.square(mean - true).sum())


def same_weights(one: TrainingResult, other: TrainingResult) -> bool:
    """Return whether two encoders are equal, bit for bit."""
    state, expected = one.encoder.state_dict(), other.encoder.state_dict()
    assert state.keys() == expected.keys()
    return all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def repeats() -> PreparedSet:
    """Return a movie that is shown again and again."""
    return prepared_set(n_frames=60, n_repeats=5)


@pytest.fixture(scope="module")
def trained(repeats) -> TrainingResult:
    """Return an encoder that was trained on its first repeats."""
    return trained_on(repeats, OPTIONS)


@pytest.fixture(scope="module")
def brief(repeats) -> TrainingResult:
    """Return an encoder after a few steps, where it does not matter how much is learned."""
    return trained_on(repeats, BRIEF)


@pytest.mark.parametrize(("selection", "least"), [("all", 0.85), ("area:VISp", 0.6)])
def test_a_held_out_repeat_is_read(selection, least, trained, repeats):
    """Through all units and through one area, far more is explained than by the mean patches."""
    assert isinstance(trained.encoder, EvidenceEncoder)
    assert not trained.encoder.training
    assert skill(trained, repeats, selection) > least


@pytest.mark.parametrize("selection", ["area:CA1", "silent"])
def test_without_information_little_is_made_up(selection, trained, repeats):
    """Units that do not see the movie, and no units, give patches near the mean."""
    assert -0.2 < skill(trained, repeats, selection) < 0.1


def test_frames_that_are_new_are_read():
    """Where the test shows other frames, the regression still beats the mean."""
    prepared = prepared_set(n_frames=150, n_repeats=3, held_out="middle")
    trained = trained_on(prepared, OPTIONS)
    assert skill(trained, prepared, "all") > 0.5


def test_history_agrees_with_what_is_served(trained, repeats):
    """The last row's cosine is that of the encoder which came back."""
    data, parts = repeats.windows(LAG_NS)
    counts = torch.from_numpy(data.counts_of(parts.validation)).float()
    with torch.inference_mode():
        model = CountEncoder(trained.encoder, trained.scaling).eval()
        found = model(counts, torch.ones(len(counts), data.n_units))
    true = torch.from_numpy(data.targets_of(parts.validation))
    cosine = float(torch.cosine_similarity(found, true, dim=-1).mean())
    assert cosine == pytest.approx(trained.history[-1].raw_cosine, abs=1e-4)


def test_same_seed_same_weights(brief, repeats):
    """Training is a function of its arguments."""
    assert same_weights(brief, trained_on(repeats, BRIEF))
    assert not same_weights(brief, trained_on(repeats, replace(BRIEF, seed=2)))


class StoppedError(Exception):
    """Stands for the end of the process."""


def test_training_goes_on_after_a_kill(brief, repeats, tmp_path):
    """Stopped after the second pass and started again, it gives the weights of an unbroken one."""
    path = tmp_path / "checkpoint.safetensors"

    def stop_at_the_second(row):
        if row.training_epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        trained_on(repeats, BRIEF, on_epoch=stop_at_the_second, checkpoint=path)
    rows = list[TrainingEpoch]()
    resumed = trained_on(repeats, BRIEF, on_epoch=rows.append, checkpoint=path)
    assert [row.training_epoch for row in rows] == [3]
    assert same_weights(brief, resumed)
    assert [row.train_loss for row in resumed.history] == [row.train_loss for row in brief.history]


def test_the_last_pass_is_kept(repeats, monkeypatch):
    """Also where validation says that an earlier one was better, and for longer than patience."""
    n_fitted = list[int]()

    def worse_and_worse(network, *windows):
        fit_trust(network, *windows)
        network.trust.weight.mul_(0.5 ** len(n_fitted))
        n_fitted.append(1)

    monkeypatch.setattr(objective_module, "fit_trust", worse_and_worse)
    trained = trained_on(repeats, replace(BRIEF, training_epochs=5, patience=2))
    cosines = [row.validation_cosine for row in trained.history]
    assert len(cosines) == trained.kept_pass == 5
    assert np.argmax(cosines) < 2
    assert isinstance(trained.encoder, EvidenceEncoder)
    assert trained.encoder.trust.weight.abs().max() < 0.25


def test_validation_windows_are_read_in_blocks(repeats, monkeypatch):
    """However many there are, few are in memory at once, and the fit is of all of them."""
    data, parts = repeats.windows(LAG_NS)
    objective = objective_of(data, parts)
    counts_of, n_read = TrainingSet.counts_of, list[int]()

    def counted(data, rows, shift=None):
        n_read.append(len(rows))
        return counts_of(data, rows, shift)

    monkeypatch.setattr(TrainingSet, "counts_of", counted)
    objective.fit_on_validation()
    whole = objective.network.trust.weight.clone()
    n_windows = 4 * len(parts.validation)
    assert sum(n_read) == n_windows
    monkeypatch.setattr(fitting, "BLOCK_WINDOWS", 50)
    n_read.clear()
    objective.fit_on_validation()
    assert max(n_read) == 50
    assert sum(n_read) == n_windows
    torch.testing.assert_close(objective.network.trust.weight, whole, rtol=0, atol=1e-4)


def test_one_showing_is_enough():
    """A movie that was shown once, cut into chunks of frames, trains as well."""
    prepared = prepared_set(n_frames=300, n_repeats=1, held_out="middle", rate_hz=20.0)
    trained = trained_on(prepared, OPTIONS)
    assert skill(trained, prepared, "all") > 0.3


def test_one_group_is_enough(repeats):
    """Where all of training is one repeat, nothing can be left out, and it trains."""
    data, parts = repeats.windows(LAG_NS)
    first = parts.train[data.group[parts.train] == 0]
    trained = train_encoder(
        EncoderSpec.tiny(data.n_units, GRID), data, BRIEF, parts=replace(parts, train=first)
    )
    assert np.isfinite([row.train_loss for row in trained.history]).all()
    assert skill(trained, repeats, "all") > 0.3


def test_one_unit_is_enough(repeats):
    """A recording of one unit trains, and is hardly worse than the mean without it."""
    one = replace(
        repeats,
        population=Population(repeats.population.units[:1]),
        counts=np.ascontiguousarray(repeats.counts[:, :1]),
    )
    trained = trained_on(one, BRIEF)
    assert skill(trained, one, "all") > 0.02
    assert -0.2 < skill(trained, one, "silent") < 0.1


def test_half_precision_is_refused():
    """Sums of log likelihoods have more digits than bfloat16."""
    with pytest.raises(MisuseError, match="trained in float32"):
        TrainingOptions.evidence(precision="bfloat16")


def objective_of(data: TrainingSet, parts) -> EvidenceObjective:
    """Return the objective before a step was made."""
    scaling = measure_targets(data, parts.train, normalise=True)
    targets = Targets(data, scaling, torch.device("cpu"))
    spec = EncoderSpec.tiny(data.n_units, GRID)
    counts = measure_scaling(data, parts.train)
    return EvidenceObjective(EvidenceFit(spec, data, parts, counts, scaling, BRIEF), targets, BRIEF)


def test_the_label_is_the_nearest_anchor_of_other_folds(monkeypatch):
    """Where one fold shows all of a scene, its windows are to name the nearest other one."""
    prepared = prepared_set(n_frames=150, n_repeats=2, held_out="middle")
    data, parts = prepared.windows(LAG_NS)
    objective = objective_of(data, parts)
    network, places, fold_of = objective.network, objective._places, objective._fold_of
    rows = parts.train[::5]
    distance = torch.cdist(places[data.frame], network.anchors).numpy()
    shown = distance[parts.train].argmin(axis=1)
    labels = []
    for row in rows:
        candidates = np.unique(shown[fold_of[parts.train] != fold_of[row]])
        labels.append(candidates[distance[row, candidates].argmin()])
    assert (np.array(labels) != distance[rows].argmin(axis=1)).all()
    logits = 50 * torch.nn.functional.one_hot(torch.from_numpy(np.array(labels))).float()
    true = WindowEvidence(logits, places[data.frame[rows]], torch.ones(len(rows), data.n_units))
    monkeypatch.setattr(network, "evidence", lambda x, mask, poisson: true)
    z = torch.zeros(len(rows), data.window.n_bins, data.n_units)
    assert float(objective.loss(z, true.mask, rows)) == pytest.approx(0, abs=1e-5)


def test_a_window_learns_from_evidence_without_its_fold(repeats):
    """Its loss does not change with what the evidence says that its own fold made."""
    data, parts = repeats.windows(LAG_NS)
    objective = objective_of(data, parts)
    rows = parts.train[data.group[parts.train] == 1]
    z = torch.from_numpy(data.counts_of(rows)).float() - 0.5
    mask = torch.ones(len(rows), data.n_units)

    def loss() -> float:
        torch.manual_seed(0)
        return float(objective.loss(z, mask, rows).detach())

    objective.network.eval()
    before = loss()
    objective.network.poisson_gain.zero_()
    assert loss() == before
    (number,) = np.unique(objective._fold_of[rows])
    for fold, evidence in enumerate(objective._folds):
        if fold != number:
            evidence.gain.zero_()
    assert loss() == before
    objective._folds[number].gain.zero_()
    assert loss() != before
