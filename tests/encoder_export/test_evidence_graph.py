"""The graph of the evidence encoder: sums of evidence keep their digits in every number format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import pytest

from contracts.embedding import PatchGrid
from encoder_export.onnx_graph import Precision, write_graph, write_int8
from encoder_export.parity import Parity, ParityGate, measure_file
from encoder_training.data_set.training_set import Scaling
from encoder_training.evidence.network import EvidenceSizes
from encoder_training.model import EncoderSpec
from tests.support.evidence_encoders import random_evidence_encoder
from tests.support.tiny_bundle import tiny_scaling

N_BINS, N_UNITS, N_SILENT = 10, 12, 5
SPEC = EncoderSpec.tiny(N_UNITS, PatchGrid(rows=2, cols=3, dim=16))
SIZES = EvidenceSizes(
    n_bins=N_BINS, n_parts=4, n_anchors=9, n_latents=7, n_gaussian=5, n_dims=6, width=20
)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TRACED: tuple[Literal["float32", "float16"], ...] = ("float32", "float16")


def scaling() -> Scaling:
    """Return the scale of the counts."""
    mean, std = tiny_scaling(N_UNITS)
    return Scaling(mean.astype(np.float32), std.astype(np.float32))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[Precision, Path]:
    """Return one graph of each precision; int8 is made of the float32 one."""
    folder = tmp_path_factory.mktemp("graphs")
    paths: dict[Precision, Path] = {one: folder / f"{one}.onnx" for one in PRECISIONS}
    encoder = random_evidence_encoder(SPEC, SIZES)
    for precision in TRACED:
        write_graph(encoder, scaling(), paths[precision], n_bins=N_BINS, precision=precision)
    write_int8(paths["float32"], paths["int8"])
    return paths


def parity_of(graphs, precision, n_units=None) -> Parity:
    """Compare a graph with the network, through so many units, or random populations."""
    rng = np.random.default_rng(0)
    gate = ParityGate.of_windows(rng.poisson(scaling().mean, (24, N_BINS, N_UNITS)), seed=0)
    if n_units is not None:
        gate.masks[:] = np.arange(N_UNITS) < n_units
    gate.masks[:N_SILENT] = 0
    encoder = random_evidence_encoder(SPEC, SIZES)
    return measure_file(encoder, scaling(), gate, graphs[precision], precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_passes_its_limits(precision, graphs):
    """Through all units, random populations and none, patches are those of the network."""
    parity = parity_of(graphs, precision)
    assert parity.failures() == []
    assert 0 < parity.mean_relative_error


@pytest.mark.parametrize("n_units", [0, 1])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_hardly_any_unit_passes_the_limits(precision, n_units, graphs):
    """A system of no precision at all, and of one unit's, is solved in the graph as well."""
    assert parity_of(graphs, precision, n_units).failures() == []


def weights_of(path, *types) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a graph's matrices of some types."""
    return {
        tensor.name: tuple(tensor.dims)
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type in types and len(tensor.dims) == 2
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graph_names_its_encoder(precision, graphs):
    """Also the one that was quantized, which is quantized by that name."""
    metadata = {entry.key: entry.value for entry in onnx.load(graphs[precision]).metadata_props}
    assert metadata == {"precision": precision, "variant": "evidence"}


def test_int8_is_for_layers_alone(graphs):
    """Sums of evidence, the solver, trust and read-out are as in the float32 graph."""
    types = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    names = {name.partition(".weight")[0] for name in weights_of(graphs["int8"], *types)}
    before_anchors = {"linear", "sum_over_units", "from_gaussian", "refine.0.2", "refine.1.2"}
    assert names == {f"encoder.{layer}" for layer in before_anchors | {"regression"}}
    evidence = ("poisson_gain", "poisson_offset", "gaussian_gain", "gaussian_precision", "anchors")
    kept = weights_of(graphs["int8"], onnx.TensorProto.FLOAT)
    assert {f"encoder.{name}" for name in evidence} <= kept.keys()
    assert (SIZES.n_dims, SPEC.grid.dim) in kept.values()


def test_float16_is_for_the_last_layers_alone(graphs):
    """Log likelihoods stay float32 in a half-precision graph."""
    halves = weights_of(graphs["float16"], onnx.TensorProto.FLOAT16)
    n_patches, dim, n_dims = SPEC.grid.n_patches, SPEC.grid.dim, SIZES.n_dims
    expected = {(n_patches * n_dims, SIZES.n_latents), (n_dims, dim), (n_patches, dim)}
    assert {tuple(sorted(shape)) for shape in halves.values()} == {
        tuple(sorted(shape)) for shape in expected
    }
