"""Exporting: a bundle is whole, near the network, repeatable, and replaces nothing unasked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from contracts.errors import MisuseError, UserError
from contracts.manifest import ENCODER_ONNX, ENCODER_WEIGHTS, PARITY, load_manifest
from encoder_export import bundle as bundle_module
from encoder_export.parity import ParityGate, measure_file
from encoder_export.random_bundle import make_random_bundle
from encoder_training.data_set.training_set import Scaling
from encoder_training.weights import load_weights
from tests.support.tiny_bundle import (
    TINY_GRID,
    TINY_SPEC,
    shallow_encoders,
    tiny_population,
    tiny_scaling,
)


@shallow_encoders()
def make(out, **changes):
    mean, std = tiny_scaling()
    arguments: dict[str, Any] = {
        "population": tiny_population(),
        "unit_mean": mean,
        "unit_std": std,
        "window": TINY_SPEC,
        "grid": TINY_GRID,
        "language_model_id": "tiny-llava",
        "recording_label": "tests",
        "command": "test",
    }
    return make_random_bundle(out, **(arguments | changes))


@pytest.fixture
def without_graph(monkeypatch):
    """Leave the exporter out, for tests of everything around it."""
    monkeypatch.setattr(
        bundle_module,
        "_write_graphs",
        lambda folder, *_: (folder / ENCODER_ONNX).write_bytes(b"graph"),
    )


def test_manifest_says_what_was_exported(tiny_bundle):
    """Window, population, scaling and grid come back as they went in."""
    mean, std = tiny_scaling()
    assert tiny_bundle.window_spec == TINY_SPEC
    assert tiny_bundle.population == tiny_population()
    assert tiny_bundle.patch_grid == TINY_GRID
    assert np.array_equal(tiny_bundle.unit_mean, mean.astype(np.float32))
    assert np.array_equal(tiny_bundle.unit_std, std.astype(np.float32))
    assert tiny_bundle.model.trained is False


def test_graph_equals_the_saved_weights(tiny_bundle):
    """The two files of a bundle are one encoder, within the limits, on windows of another seed."""
    encoder = load_weights(tiny_bundle.folder / ENCODER_WEIGHTS)
    scaling = Scaling(tiny_bundle.unit_mean, tiny_bundle.unit_std)
    gate = ParityGate.poisson(scaling, n_bins=TINY_SPEC.n_bins, seed=1)
    parity = measure_file(encoder, scaling, gate, tiny_bundle.folder / ENCODER_ONNX, "float32")
    assert parity.failures() == []
    assert parity.max_relative_error < 1e-5


def test_parity_report_names_the_graph(tiny_bundle):
    """The report is in the bundle, names the graph, and is not in the manifest."""
    report = json.loads((tiny_bundle.folder / PARITY).read_text())
    assert report["onnx_sha256"] == tiny_bundle.model.sha256[ENCODER_ONNX]
    assert report["precision"] == "float32"
    assert report["n_windows"] > 0
    assert PARITY not in tiny_bundle.model.sha256


def test_graph_is_plain(tiny_bundle):
    """Opset 20, standard operators, named inputs and output, no trace of the exporting machine."""
    proto = onnx.load(tiny_bundle.folder / ENCODER_ONNX)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert [tensor.name for tensor in proto.graph.input] == ["counts", "mask"]
    assert [tensor.name for tensor in proto.graph.output] == ["grid"]
    assert b".py" not in proto.SerializeToString()
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert [(entry.key, entry.value) for entry in proto.metadata_props] == [
        ("precision", "float32"),
        ("variant", "patches"),
    ]


@pytest.mark.usefixtures("without_graph")
def test_same_seed_same_files(tiny_bundle, tmp_path):
    """Two exports with one seed are the same bundle, hash by hash (graphs: see test_parity)."""
    one, other = (make(tmp_path / name) for name in ("one", "other"))
    assert one.sha256 == other.sha256
    assert one.model.sha256[ENCODER_WEIGHTS] == tiny_bundle.model.sha256[ENCODER_WEIGHTS]


@pytest.mark.usefixtures("without_graph")
def test_other_seed_other_weights(tmp_path):
    """The seed is what decides, and torch's own generator is left as it was."""
    before = torch.random.get_rng_state()
    hashes = {
        make(tmp_path / str(seed), seed=seed).model.sha256[ENCODER_WEIGHTS] for seed in (1, 2)
    }
    assert len(hashes) == 2
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("without_graph")
def test_existing_folder_is_refused(tmp_path):
    """An export replaces a bundle only when asked to."""
    out = tmp_path / "bundle"
    first = make(out)
    with pytest.raises(UserError, match="already there"):
        make(out, seed=1)
    assert load_manifest(out).sha256 == first.sha256
    assert make(out, seed=1, overwrite=True).sha256 != first.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("without_graph")
def test_folder_that_is_no_bundle_is_never_replaced(tmp_path):
    """Asking to overwrite does not delete a folder of something else."""
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        make(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").is_file()


@pytest.mark.usefixtures("without_graph")
def test_silent_unit_is_named(tmp_path):
    """A unit without spread cannot be z-scored; the error names it."""
    std = tiny_scaling()[1]
    std[3] = 0
    with pytest.raises(UserError, match="unit_id 950903 has not"):
        make(tmp_path / "bundle", unit_std=std)


@pytest.mark.usefixtures("without_graph")
def test_lengths_that_differ_are_misuse(tmp_path):
    """A mean for other units than the population's is refused with all the numbers."""
    with pytest.raises(MisuseError, match=r"12 units.*\(11,\)"):
        make(tmp_path / "bundle", unit_mean=np.full(11, 0.1))


def test_weights_of_another_kind_are_refused(tmp_path):
    """A file that is no encoder is the user's input, not a traceback."""
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(json.dumps({}).encode())
    with pytest.raises(UserError, match="Export the encoder again"):
        load_weights(path)
