"""Number formats and the gate: what is too far from the network is not written."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.errors import EngineError, ManifestError, UserError
from contracts.manifest import (
    ENCODER_FLOAT32,
    ENCODER_ONNX,
    PARITY,
    LanguageModel,
    TrainingData,
)
from contracts.window import WindowSpec
from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.tensorrt import TensorrtGraph
from daemon.encoders.tensorrt_build import build_engine, load_library
from encoder_export import bundle as bundle_module
from encoder_export import onnx_graph
from encoder_export import parity as parity_module
from encoder_export.bundle import BundleFacts, write_bundle
from encoder_export.onnx_graph import Precision, fold_batch_norm, write_graph, write_int8
from encoder_export.parity import (
    LIMITS,
    Limits,
    ParityError,
    ParityGate,
    check_parity,
    measure_file,
    measure_parity,
)
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder
from tests.support.tiny_bundle import tiny_population, tiny_scaling

N_BINS = 10
GRID = PatchGrid(rows=2, cols=3, dim=16)
SPEC = EncoderSpec(
    12,
    GRID,
    width=32,
    n_heads=2,
    feed_forward=64,
    conv_channels=16,
    kernels=(3, 5),
    time_layers=1,
    patch_layers=1,
)
"""Every kind of layer, and as few as can be: tracing takes a time for each."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def scaling():
    mean, std = tiny_scaling()
    return Scaling(mean.astype(np.float32), std.astype(np.float32))


def as_if_trained(encoder, seed=0):
    """Give batch normalization a history: without one it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            n = module.num_features
            module.running_mean = torch.randn(n, generator=generator)
            module.running_var = torch.rand(n, generator=generator) + 0.1
            module.weight.data = torch.rand(n, generator=generator) + 0.5
            module.bias.data = torch.randn(n, generator=generator)
    return encoder.eval()


def patch_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return as_if_trained(PatchEncoder(SPEC))


def retrieval_encoder(n_images=7):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        table = torch.randn(n_images, GRID.n_patches, GRID.dim).half()
        return as_if_trained(RetrievalEncoder(SPEC, ImageClassifier(SPEC, n_images), table))


def gate(n=24, **changes):
    rng = np.random.default_rng(0)
    return ParityGate.of_windows(rng.poisson(scaling().mean, (n, N_BINS, 12)), seed=0, **changes)


class Graphs:
    """One encoder's graphs, each made on first use: tracing takes seconds."""

    def __init__(self, folder):
        self._folder = folder

    def __getitem__(self, precision):
        path = self._folder / f"{precision}.onnx"
        if not path.exists() and precision == "int8":
            write_int8(self["float32"], path)
        elif not path.exists():
            write_graph(patch_encoder(), scaling(), path, n_bins=N_BINS, precision=precision)
        return path


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """Return one graph of each precision; int8 is made of the float32 one."""
    return Graphs(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("make", [patch_encoder, retrieval_encoder])
def test_folding_is_exact(make):
    """Without batch normalization the numbers are the same but for rounding, edges included."""
    encoder = make().double()
    folded = fold_batch_norm(encoder)
    kinds = {type(module) for module in folded.modules()}
    assert torch.nn.BatchNorm1d not in kinds
    z = torch.randn(5, N_BINS, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before, after = (one.input_proj(one.multi_conv(z)) for one in map(body_of, (encoder, folded)))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
    everyone = torch.ones(5, 12, dtype=torch.float64)
    torch.testing.assert_close(folded(z, everyone), encoder(z, everyone), rtol=0, atol=1e-6)


def body_of(encoder):
    return getattr(encoder, "classifier", encoder)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_passes_its_limits(graphs, precision):
    """The gate lets honest rounding pass, and sees that there is some."""
    parity = measure_file(patch_encoder(), scaling(), gate(), graphs[precision], precision)
    assert parity.failures() == []
    assert 0 < parity.mean_relative_error <= parity.max_relative_error
    assert parity.min_cosine <= parity.mean_cosine <= 1 + 1e-12


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_output_are_float32(graphs, precision):
    """The daemon passes and receives float32; the graph names its precision within."""
    proto = onnx.load(graphs[precision])
    for tensor in (*proto.graph.input, *proto.graph.output):
        assert tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    expected = {"precision": precision, "variant": "patches"}
    assert {entry.key: entry.value for entry in proto.metadata_props} == expected
    domains = {opset.domain for opset in proto.opset_import}
    assert domains <= {"", "ai.onnx"} or precision == "int8"


def test_same_encoder_same_graph(graphs, tmp_path):
    """Exporting is repeatable, byte by byte, in any folder."""
    path = tmp_path / "again.onnx"
    write_graph(patch_encoder(), scaling(), path, n_bins=N_BINS, precision="float32")
    assert path.read_bytes() == graphs["float32"].read_bytes()


def test_same_graph_same_int8(graphs, tmp_path):
    """Quantizing is repeatable, byte by byte, and leaves no trace of the folder it used."""
    write_int8(graphs["float32"], tmp_path / "again.onnx")
    content = (tmp_path / "again.onnx").read_bytes()
    assert content == graphs["int8"].read_bytes()
    assert b"tmp" not in content


def test_int8_cannot_saturate(graphs):
    """Two products of an input of 8 bits and a weight of 7 fit in 16: no kernel loses any."""
    initializers = onnx.load(graphs["int8"]).graph.initializer
    weights = [numpy_helper.to_array(tensor) for tensor in initializers if len(tensor.dims) == 2]
    quantized = [weight for weight in weights if weight.dtype == np.int8]
    assert len(quantized) > 3
    largest = max(int(np.abs(weight.astype(int)).max()) for weight in quantized)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_engine_is_of_the_graphs_precision(graphs, precision):
    """TensorRT takes both as they are; precision is part of the graph."""
    pytest.importorskip("tensorrt_rtx")
    built = build_engine(load_library("tensorrt_rtx"), graphs[precision].read_bytes())
    assert built.precision == precision


def test_retrieval_graph_gives_true_patches(tmp_path):
    """Every grid is one row of the table, to the bit, and the one that torch gives."""
    encoder, path = retrieval_encoder(), tmp_path / "retrieval.onnx"
    write_graph(encoder, scaling(), path, n_bins=N_BINS, precision="float32")
    parity = measure_file(encoder, scaling(), gate(), path, "float32")
    assert parity.min_cosine == pytest.approx(1)
    assert parity.max_relative_error == 0
    initializers = onnx.load(path).graph.initializer
    stored = {tensor.data_type for tensor in initializers if len(tensor.dims) == 3}
    assert onnx.TensorProto.FLOAT16 in stored


def test_table_too_large_for_a_graph(tmp_path, monkeypatch):
    """The error tells how many images fit, before the work."""
    monkeypatch.setattr(onnx_graph, "MAX_TABLE_BYTES", 1000)
    with pytest.raises(UserError, match=r"7 training images.*5 images\. Prepare a data set of few"):
        write_graph(
            retrieval_encoder(), scaling(), tmp_path / "x", n_bins=N_BINS, precision="float32"
        )


def test_spoiled_weight_is_refused(graphs, tmp_path):
    """One weight of the largest matrix, changed: the gate names what failed, and by how much."""
    proto = onnx.load(graphs["float32"])
    weights = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    changed = numpy_helper.to_array(weights).copy()
    changed.flat[0] += 3
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    path = tmp_path / "spoiled.onnx"
    onnx.save(proto, path)
    parity = measure_file(patch_encoder(), scaling(), gate(), path, "float32")
    wanted = r"largest relative error of a patch is 0\.\d+, limit 0\.0001\. Nothing was written"
    with pytest.raises(ParityError, match=wanted):
        check_parity(parity)


def test_nan_is_refused():
    """A graph that gives NaN has the lowest cosine and the largest error."""

    def run(counts, mask):
        return np.full((len(counts), GRID.n_patches, GRID.dim), np.nan, np.float32)

    parity = measured(run)
    assert (parity.min_cosine, parity.max_relative_error) == (-1, np.inf)
    with pytest.raises(ParityError):
        check_parity(parity)


def measured(run, precision="float32", **changes):
    """Compare any function with the encoder."""
    return measure_parity(
        patch_encoder(), scaling(), gate(**changes), run, precision=precision, runtime="a test"
    )


def exact_run(counts, mask):
    run = parity_module._reference_run(patch_encoder(), scaling())
    return run(counts, mask).astype(np.float32)


def test_narrations_that_differ_are_refused():
    """Near patches and other narrations: the agreement decides; its numbers are in the error."""
    numbers = iter(range(100))
    parity = measured(
        exact_run, narrate=lambda grids: [str(next(numbers)) for _ in grids], n_narrations=6
    )
    assert (parity.n_narrations, parity.n_equal, parity.agreement) == (6, 0, 0)
    with pytest.raises(ParityError, match="0 of 6 narrations are equal, limit 95%"):
        check_parity(parity)


def test_narrated_windows_are_spread_and_of_all_units():
    """The language model is given windows from first to last, of all units."""
    given = []

    def narrate(grids):
        given.append(grids)
        return ["the same"] * len(grids)

    chosen = gate(narrate=narrate, n_narrations=3)
    parity = measure_parity(
        patch_encoder(), scaling(), chosen, exact_run, precision="float32", runtime="a test"
    )
    assert parity.agreement == 1
    rows = [0, 11, 23]
    expected = exact_run(chosen.counts[rows], np.ones((3, 12), np.float32))
    np.testing.assert_allclose(given[0], expected, atol=1e-6)


def test_no_language_model_no_agreement():
    """Without narrations the patches alone decide, and there is no agreement in the report."""
    parity = measured(exact_run, n_narrations=5)
    assert (parity.n_narrations, parity.agreement) == (0, None)
    check_parity(parity)


@pytest.fixture
def traced_before(graphs, monkeypatch):
    """Take the graphs that were traced already: tracing takes seconds."""

    def write(encoder, of_units, path, *, n_bins, precision="float32"):
        path.write_bytes(graphs[precision].read_bytes())

    monkeypatch.setattr(bundle_module, "write_graph", write)


def facts():
    return BundleFacts(
        population=tiny_population(),
        scaling=scaling(),
        window=WindowSpec(BinRate(120), n_bins=N_BINS, stride_bins=5),
        language_model=LanguageModel(model_id="m"),
        training_data=TrainingData(recording="tests"),
        trained=False,
        command="test",
        scores={},
    )


@pytest.mark.usefixtures("traced_before")
def test_int8_beyond_its_limit_leaves_nothing(tmp_path, monkeypatch):
    """A gate that is too tight for int8: no bundle, not even half of one."""
    monkeypatch.setitem(LIMITS, "int8", Limits(0.99999, 0.99999, 1e-3, 1.0))
    with pytest.raises(
        ParityError, match=r"int8 graph .*Nothing was written\. Export with"
    ) as caught:
        write_bundle(tmp_path / "bundle", patch_encoder(), facts(), precision="int8", gate=gate())
    assert len(caught.value.parity.failures()) >= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced_before")
def test_int8_bundle_runs_and_says_so(tmp_path):
    """Within its limits the daemon runs an int8 graph; device and report name it."""
    manifest = write_bundle(
        tmp_path / "bundle", patch_encoder(), facts(), precision="int8", gate=gate()
    )
    assert OnnxGraph(manifest).device.endswith(", int8)")
    assert '"int8"' in (manifest.folder / PARITY).read_text()


@pytest.mark.usefixtures("traced_before")
def test_narrow_bundle_has_a_float32_graph(graphs, tmp_path):
    """The daemon compares the int8 graph with it, wherever it is loaded."""
    manifest = write_bundle(
        tmp_path / "bundle", patch_encoder(), facts(), precision="int8", gate=gate(n=2)
    )
    assert (manifest.folder / ENCODER_FLOAT32).read_bytes() == graphs["float32"].read_bytes()
    assert manifest.file(ENCODER_FLOAT32)
    assert (manifest.folder / ENCODER_ONNX).read_bytes() == graphs["int8"].read_bytes()


@pytest.mark.usefixtures("traced_before")
def test_bfloat16_is_refused(tmp_path):
    """A bundle of an earlier version whose graph is bfloat16: the error names what to export."""
    manifest = write_bundle(tmp_path / "bundle", patch_encoder(), facts(), gate=gate(n=2))
    proto = onnx.load(manifest.folder / ENCODER_ONNX)
    proto.metadata_props[0].value = "bfloat16"
    onnx.save(proto, manifest.folder / ENCODER_ONNX)
    with pytest.raises(ManifestError, match=r"is bfloat16, .* export .* --precision float32 or"):
        OnnxGraph(manifest)
    with pytest.raises(ManifestError, match=r"is bfloat16, .* export .* --precision float32 or"):
        TensorrtGraph(manifest)


def test_int8_has_no_engine(graphs):
    """TensorRT refuses a dynamically quantized graph, and the error names what to export."""
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match="int8 graph is for a CPU"):
        build_engine(load_library("tensorrt_rtx"), graphs["int8"].read_bytes())


def test_poisson_gate_is_of_the_units():
    """Without a recording, each unit fires at its mean rate."""
    chosen = ParityGate.poisson(
        replace(scaling(), mean=np.full(12, 3.0, np.float32)), n_bins=N_BINS
    )
    assert chosen.counts.shape[1:] == (N_BINS, 12)
    assert 2.8 < chosen.counts.mean() < 3.2
    assert set(np.unique(chosen.masks)) <= {0.0, 1.0}
