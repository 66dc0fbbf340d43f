"""Graphs are compared with float32 before they are used; ONNX graphs stand in for engines."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.embedding import patch_cosines
from contracts.errors import EngineError
from contracts.manifest import ENCODER_FLOAT32, ENCODER_ONNX, load_manifest, sha256_of
from daemon.encoders import onnx as encoders_onnx
from daemon.encoders.auto import take_first
from daemon.encoders.engine_cache import (
    ANY_GPU,
    FOLDER,
    EngineModel,
    get_engine,
    keep_plan,
    key_of,
    read_facts,
)
from daemon.encoders.graph_check import (
    MIN_COSINE,
    check_engine,
    cpu_graph,
    find_fault,
    poisson_windows,
)
from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.tensorrt_build import Library
from daemon.encoders.window_encoder import WindowEncoder
from encoder_export.onnx_graph import write_int8

LIBRARY = Library("tensorrt_rtx", "1.0", None, is_portable=True)
PLAN = b"a plan of kernels that are wrong"


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """Return a bundle of this test's own."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")
    return load_manifest(tmp_path / "bundle")


@pytest.fixture
def plan(bundle):
    """Return a plan for one population, in the bundle."""
    key = key_of(bundle, LIBRARY, ANY_GPU, opt_batch=1)
    facts = EngineModel(
        library=key.library,
        version=key.version,
        gpu=key.gpu,
        compute_capability=key.compute_capability,
        onnx_sha256=key.onnx_sha256,
        opt_batch=key.opt_batch,
        recipe=key.recipe,
        precision="float32",
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    )
    path = bundle.folder / "engines" / key.file_name
    keep_plan(path, facts, PLAN)
    return path


def spoil(source, target, *, n_weights=1):
    """Change the first weights of a graph's largest matrix."""
    proto = onnx.load(source)
    weights = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    changed = numpy_helper.to_array(weights).copy()
    changed.flat[:n_weights] += 30
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(proto, target)


def edited(manifest, folder, *, edit, **files):
    """Copy a bundle, edit its files, and list what is there in the manifest."""
    shutil.copytree(manifest.folder, folder)
    edit(folder)
    names = {ENCODER_ONNX, *files.values()}
    hashes = manifest.model.sha256 | {name: sha256_of(folder / name) for name in names}
    model = manifest.model.model_copy(update={"sha256": hashes})
    (folder / "manifest.json").write_text(model.model_dump_json())
    return load_manifest(folder)


@pytest.fixture
def spoiled(tiny_bundle, tmp_path):
    """Return the bundle's graph with one weight of its largest matrix changed."""
    return OnnxGraph(
        edited(
            tiny_bundle,
            tmp_path / "spoiled",
            edit=lambda folder: spoil(folder / ENCODER_ONNX, folder / ENCODER_ONNX),
        )
    )


@pytest.fixture
def int8_bundle(tiny_bundle, tmp_path):
    """Return a bundle with an int8 graph and, beside it, the float32 one."""

    def quantize(folder):
        (folder / ENCODER_ONNX).rename(folder / ENCODER_FLOAT32)
        write_int8(folder / ENCODER_FLOAT32, folder / ENCODER_ONNX)

    return edited(tiny_bundle, tmp_path / "int8", edit=quantize, float32=ENCODER_FLOAT32)


@pytest.fixture
def spoiled_int8_bundle(tiny_bundle, tmp_path):
    """Return a bundle with an int8 graph of other weights than the float32 one beside it."""

    def quantize(folder):
        (folder / ENCODER_ONNX).rename(folder / ENCODER_FLOAT32)
        spoil(folder / ENCODER_FLOAT32, folder / ENCODER_ONNX, n_weights=20)
        write_int8(folder / ENCODER_ONNX, folder / ENCODER_ONNX)

    return edited(tiny_bundle, tmp_path / "int8", edit=quantize, float32=ENCODER_FLOAT32)


class HalfPrecise:
    """The bundle's graph, each number of its result rounded to float16."""

    def __init__(self, manifest):
        self._graph = OnnxGraph(manifest)
        self.device = "a test"

    def run(self, counts, mask):
        return self._graph.run(counts, mask).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("make", [OnnxGraph, HalfPrecise])
def test_accurate_engine_is_kept(bundle, plan, make):
    """The same numbers, and the same numbers rounded, are no reason to refuse."""
    check_engine(make(bundle), OnnxGraph(bundle), bundle, plan)
    assert plan.read_bytes() == PLAN
    assert get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1) == plan


def test_spoiled_engine_is_refused_for_good(bundle, plan, spoiled):
    """One wrong weight: the plan goes, the reason stays, and no other is made for the same."""
    with pytest.raises(EngineError, match=r"is refused: on 8 windows .* cosine of .*0\.9996"):
        check_engine(spoiled, OnnxGraph(bundle), bundle, plan)
    assert not plan.exists()
    assert "cosine" in read_facts(plan).refused
    with pytest.raises(EngineError, match="was refused: on 8 windows"):
        get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1)


def test_next_device_is_taken(bundle, plan, spoiled):
    """A refused engine costs only speed: the encoder runs on the next device, with the reason."""
    reference = OnnxGraph(bundle)
    tried = []

    def load(device):
        tried.append(device)
        graph = spoiled if device == "tensorrt" else reference
        if device == "tensorrt":
            check_engine(graph, reference, bundle, plan)
        return WindowEncoder(bundle, [bundle.population.select("all")], graph)

    reasons: list[str] = []
    encoder = take_first(load, reasons, obstacles={"tensorrt": lambda: None})
    assert tried == ["tensorrt", "cpu"]
    assert encoder.device == reference.device
    assert "is refused: on 8 windows" in reasons[0]


def test_engine_that_does_not_run_is_not_refused(bundle, plan):
    """A GPU without free memory is no reason against the engine."""

    class FullEngine:
        device = "a test"

        def run(self, counts, mask):
            raise EngineError("the GPU did not encode: out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        check_engine(FullEngine(), OnnxGraph(bundle), bundle, plan)
    assert get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1) == plan


def test_windows_are_of_the_units(bundle):
    """Each unit fires at its mean rate, and half of the windows are of all units."""
    counts, mask = poisson_windows(bundle)
    n_windows, n_bins, n_units = counts.shape
    assert (n_windows, n_bins, n_units) == (8, bundle.window_spec.n_bins, 12)
    assert np.corrcoef(counts.mean(axis=(0, 1)), bundle.unit_mean)[0, 1] > 0.9
    assert mask[:4].all()
    assert set(np.unique(mask[4:])) == {0.0, 1.0}


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_not_finite_has_the_lowest_cosine(value):
    """NaN, infinity and zero have no direction: the cosine is -1."""
    expected = np.ones((1, 2, 3), np.float32)
    actual = expected.copy()
    actual[0, 1] = value
    assert patch_cosines(actual, expected).min() == -1
    assert patch_cosines(expected, expected).min() > MIN_COSINE


def test_fault_names_both_devices(bundle, spoiled):
    """The reason names both graphs, and by how much it missed."""
    fault = find_fault(spoiled, OnnxGraph(bundle), bundle)
    assert fault.count("CPU (ONNX Runtime") == 2
    assert find_fault(OnnxGraph(bundle), OnnxGraph(bundle), bundle) == ""


def test_int8_graph_that_agrees_is_used(int8_bundle, caplog):
    """On this processor int8 is near enough to float32: it encodes, and no refusal is kept."""
    assert cpu_graph(int8_bundle).device.endswith(", int8)")
    assert caplog.text == ""
    assert not (int8_bundle.folder / FOLDER).exists()


def test_spoiled_int8_graph_falls_back_to_float32(spoiled_int8_bundle, caplog):
    """A graph that is too far off costs only speed: float32 encodes, and the log has the reason.

    The refusal is kept for this processor: the second start does not compare again.
    """
    bundle = spoiled_int8_bundle
    expected = OnnxGraph(bundle, file_name=ENCODER_FLOAT32)
    graph = cpu_graph(bundle)
    assert graph.device == expected.device
    assert graph.precision == "float32"
    counts, mask = poisson_windows(bundle)
    assert np.array_equal(graph.run(counts, mask), expected.run(counts, mask))
    assert "encoder.onnx is refused: on 8 windows" in caplog.text
    assert "limit 0.99" in caplog.text
    (report,) = (bundle.folder / FOLDER).glob("*.json")
    facts = read_facts(report)
    assert (facts.library, facts.precision, facts.plan_sha256) == ("onnxruntime", "int8", "")
    caplog.clear()
    assert cpu_graph(bundle).precision == "float32"
    assert "was refused: on 8 windows of random spikes" in caplog.text
    assert f"remove {report}" in caplog.text


def test_refusal_on_another_processor_does_not_count(spoiled_int8_bundle, caplog):
    """A bundle that was copied from another machine is compared again here."""
    cpu_graph(spoiled_int8_bundle)
    (report,) = (spoiled_int8_bundle.folder / FOLDER).glob("*.json")
    other = read_facts(report).model_copy(update={"compute_capability": "another"})
    report.write_text(other.model_dump_json())
    caplog.clear()
    cpu_graph(spoiled_int8_bundle)
    assert "is refused: on 8 windows" in caplog.text


def test_older_int8_bundle_is_exact_on_every_processor(tiny_bundle, tmp_path, monkeypatch):
    """Weights of 8 bits and no float32 graph: kernels are taken that cannot saturate."""
    options = []
    open_session = encoders_onnx.open_session

    def remember(path, **changes):
        options.append(changes)
        return open_session(path, **changes)

    monkeypatch.setattr(encoders_onnx, "open_session", remember)
    bundle = edited(
        tiny_bundle,
        tmp_path / "int8",
        edit=lambda folder: write_int8(folder / ENCODER_ONNX, folder / ENCODER_ONNX),
    )
    assert cpu_graph(bundle).precision == "int8"
    assert [option["exact_int8"] for option in options] == [True]
