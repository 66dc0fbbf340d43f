"""The ablation of the evidence encoder: what is left out is out."""

import json

import numpy as np
import pytest
import torch

from benchmarks.encoder_ablation import ABLATIONS, PAPER, WHOLE, main
from encoder_training.data_set.prepared_files import write_prepared
from encoder_training.data_set.training_set import measure_scaling
from encoder_training.losses import measure_targets
from encoder_training.masking import masked_z
from encoder_training.model import EncoderSpec
from encoder_training.objectives import Targets
from encoder_training.options import TrainingOptions
from tests.support.prepared import GRID, prepared_set

LAG_NS = 100_000_000
BRIEF = TrainingOptions.evidence(training_epochs=1)


@pytest.fixture(scope="module")
def learned():
    """Return what each row's network reads of a window after a few steps of training."""
    prepared = prepared_set(n_frames=40, n_repeats=5)
    data, split = prepared.windows(LAG_NS)
    scaling = measure_scaling(data, split.train)
    targets = Targets(data, measure_targets(data, split.train, normalise=True), torch.device("cpu"))
    spec = EncoderSpec.tiny(data.n_units, GRID)
    rows = split.train[:64]
    mask = torch.ones(len(rows), data.n_units)
    mean, std = (torch.from_numpy(array) for array in (scaling.mean, scaling.std))
    z = masked_z(torch.from_numpy(data.counts_of(rows)).float(), mean, std, mask)
    objectives = {}
    for name, ablation in ABLATIONS.items():
        torch.manual_seed(0)
        objective = ablation.make(spec, targets, scaling, split, BRIEF, None)
        optimizer = torch.optim.AdamW(objective.network.parameters(), 1e-3, weight_decay=0)
        for _ in range(3):
            optimizer.zero_grad()
            objective.loss(z, mask, rows).backward()
            optimizer.step()
        objective.fit_on_validation()
        objective.network.eval()
        objectives[name] = objective
    with torch.no_grad():
        return {
            name: (one.network, one.network.evidence_of(z, mask))
            for name, one in objectives.items()
        }


def test_what_is_left_out_is_out(learned):
    """Its tensors stay as they were at first, and those of the whole encoder do not."""
    network, evidence = learned[WHOLE]
    first_gain = network.unit_gain.new_full((), 0.05)
    assert (network.unit_gain != first_gain).any()
    assert network.linear.weight.any()
    assert network.regression.weight.any()
    assert not torch.equal(network.trust.weight[:, 0], torch.tensor([0.5, 0.5]))
    assert evidence.logits.std(dim=1).min() > 0.1

    assert (learned["gains not learned"][0].unit_gain == first_gain).all()
    assert not learned["without the linear term"][0].linear.weight.any()
    assert not learned["without the perceptron"][0].regression.weight.any()
    assert not learned["anchors alone"][1].regressed.any()
    flat = learned["without anchors"]
    assert not flat[1].logits.any()
    assert not flat[0].estimates_of(flat[1])[0][:, 0].any()
    without_gaussian = learned["without the Gaussian"][0]
    assert not without_gaussian.gaussian_gain.any()
    trust = learned["equal weights"][0].trust.weight
    assert trust.tolist() == [[0.5, 0, 0, 0]] * 2
    assert learned["one part of a window"][0].sizes.n_parts == 1


def test_own_fold_is_more_sure(learned):
    """Gains grow more where windows of training meet evidence that was made with them."""
    grown = [
        float((learned[name][0].unit_gain - 0.05).mean().detach())
        for name in ("not cross-fitted", WHOLE)
    ]
    assert grown[0] > grown[1]


def test_tables_of_two_data_sets(tmp_path, capsys):
    """Every score of every population, in the tables and in the JSON line."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        write_prepared(folder, prepared_set(n_frames=40, n_repeats=5, seed=seed))
    path = tmp_path / "ablation.md"
    few = ["--training-epochs", "1", "--size", "tiny", "--lag-ms", "100"]
    rows = [WHOLE, "anchors alone", PAPER, "naive Bayes"]
    words = [*map(str, folders), *few, "--rows", *rows, "--markdown", str(path)]
    assert main(words) == 0
    text = path.read_text(encoding="utf-8")
    output = capsys.readouterr().out
    assert text in output
    assert "test windows of 2 data sets" in text
    values = json.loads(output.splitlines()[-1])
    assert list(values) == rows
    names = {"all", "area:VISp", "area:LGd", "area:CA1", "cell_type:PV", "shuffled", "silent"}
    assert set(values[WHOLE]) == names
    assert values[WHOLE]["all"]["top1"] > 3 * values[WHOLE]["silent"]["top1"]
    assert set(values["naive Bayes"]) == names - {"shuffled", "silent"}
    assert values["naive Bayes"]["all"]["top1"] > 0.5
    assert all(np.isfinite([*scores.values()]).all() for scores in values[PAPER].values())
