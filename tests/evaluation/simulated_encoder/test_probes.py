"""Concept probes for an encoder that is trained already, from a data set to the daemon."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from encoder_training.data_set.prepared_files import write_prepared
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.probes.probe_files import load_probes
from encoder_training.weights import save_weights
from neurrate.cli import main
from tests.support.prepared import GRID, WORDS, prepared_set


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Write a small data set."""
    folder = tmp_path / "data"
    write_prepared(folder, prepared_set(n_frames=60, n_repeats=4), command="tests")
    return folder


def _write_encoder(folder: Path, *, n_units: int) -> None:
    """Write an encoder of random weights for the data set's first units, as training keeps it."""
    prepared = prepared_set(n_frames=60, n_repeats=4)
    folder.mkdir()
    torch.manual_seed(0)
    save_weights(PatchEncoder(EncoderSpec.tiny(n_units, GRID)), folder / "encoder.safetensors")
    scaling = {"unit_mean": np.full(n_units, 0.2), "unit_std": np.full(n_units, 0.4)}
    save_file(scaling, folder / "references.safetensors")
    facts = {
        "window": asdict(prepared.window),
        "units": [unit.labels for unit in prepared.population.units[:n_units]],
    }
    (folder / "encoder.json").write_text(json.dumps(facts))


def test_probes_are_fitted_and_kept(dataset: Path, tmp_path: Path, capsys):
    """The named concepts get a probe each, calibrated for every area."""
    encoder, out = tmp_path / "encoder", tmp_path / "out"
    _write_encoder(encoder, n_units=24)
    words = ["simulate", "train-probes", str(dataset), str(out), "--encoder", str(encoder)]
    assert main([*words, "--concepts", ", ".join(WORDS)]) == 0
    assert WORDS[0] in capsys.readouterr().out
    probes = load_probes(out)
    assert probes.concepts == tuple(WORDS)
    assert {"all", "area:VISp", "cell_type:PV"} <= set(probes.populations)


def test_a_data_set_of_other_units_is_refused(dataset: Path, tmp_path: Path, capsys):
    """Both numbers of units are said, and how to prepare the right ones."""
    encoder, out = tmp_path / "encoder", tmp_path / "out"
    _write_encoder(encoder, n_units=23)
    words = ["simulate", "train-probes", str(dataset), str(out), "--encoder", str(encoder)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "23 units" in said
    assert "got 24 units" in said
    assert "--units allen" in said
    assert not out.exists()
