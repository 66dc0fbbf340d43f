"""An engine is held against the graph before it is used; graphs stand in for the GPU's run."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.errors import EngineError
from contracts.manifest import ENCODER_ONNX, load_manifest, sha256_of
from daemon.encoders.auto import take_first
from daemon.encoders.engine_cache import ANY_GPU, get_engine
from daemon.encoders.engine_check import (
    MIN_COSINE,
    find_fault,
    lowest_cosine,
    poisson_windows,
    try_engine,
)
from daemon.encoders.engine_files import EngineModel, keep_plan, key_of, read_facts
from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.trt_library import Library
from daemon.encoders.window_encoder import WindowEncoder

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


@pytest.fixture
def spoiled(tiny_bundle, tmp_path):
    """Return the bundle's graph with one weight of its largest matrix changed."""
    folder = tmp_path / "spoiled"
    shutil.copytree(tiny_bundle.folder, folder)
    proto = onnx.load(folder / ENCODER_ONNX)
    weights = max(proto.graph.initializer, key=lambda each: np.prod(each.dims))
    changed = numpy_helper.to_array(weights).copy()
    changed.flat[0] += 30
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(proto, folder / ENCODER_ONNX)
    hashes = tiny_bundle.model.sha256 | {ENCODER_ONNX: sha256_of(folder / ENCODER_ONNX)}
    model = tiny_bundle.model.model_copy(update={"sha256": hashes})
    (folder / "manifest.json").write_text(model.model_dump_json())
    return OnnxGraph(load_manifest(folder))


class HalfPrecise:
    """The bundle's graph, each number of its result rounded to float16."""

    def __init__(self, manifest):
        self._graph = OnnxGraph(manifest)
        self.device = "a test"

    def run(self, counts, mask):
        return self._graph.run(counts, mask).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("make", [OnnxGraph, HalfPrecise])
def test_honest_engine_is_kept(bundle, plan, make):
    """The same numbers, and the same numbers rounded, are no reason to refuse."""
    try_engine(make(bundle), OnnxGraph(bundle), bundle, plan)
    assert plan.read_bytes() == PLAN
    assert get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1) == plan


def test_spoiled_engine_is_refused_for_good(bundle, plan, spoiled):
    """One wrong weight: the plan goes, the reason stays, and no other is made for the same."""
    with pytest.raises(EngineError, match=r"is refused: on 8 windows .* cosine of .*0\.9996"):
        try_engine(spoiled, OnnxGraph(bundle), bundle, plan)
    assert not plan.exists()
    assert "cosine" in read_facts(plan).refused
    with pytest.raises(EngineError, match="was refused: on 8 windows"):
        get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1)


def test_next_device_is_taken(bundle, plan, spoiled):
    """A refused engine costs speed: the encoder runs on the next device, which gives the reason."""
    reference = OnnxGraph(bundle)
    tried = []

    def load(device):
        tried.append(device)
        graph = spoiled if device == "tensorrt" else reference
        if device == "tensorrt":
            try_engine(graph, reference, bundle, plan)
        return WindowEncoder(bundle, [bundle.population.select("all")], graph)

    reasons: list[str] = []
    encoder = take_first(load, reasons, obstacles={"tensorrt": lambda: None})
    assert tried == ["tensorrt", "cpu"]
    assert encoder.device == reference.device
    assert "is refused: on 8 windows" in reasons[0]


def test_engine_that_does_not_run_is_not_refused(bundle, plan):
    """A GPU that is full today says nothing against the engine."""

    class Full:
        device = "a test"

        def run(self, counts, mask):
            raise EngineError("the GPU did not encode: out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        try_engine(Full(), OnnxGraph(bundle), bundle, plan)
    assert get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=1) == plan


def test_windows_are_of_the_units(bundle):
    """Each unit fires at its mean rate, and half of the windows are heard by everyone."""
    counts, mask = poisson_windows(bundle)
    n_windows, n_bins, n_units = counts.shape
    assert (n_windows, n_bins, n_units) == (8, bundle.window_spec.n_bins, 12)
    assert np.corrcoef(counts.mean(axis=(0, 1)), bundle.unit_mean)[0, 1] > 0.9
    assert mask[:4].all()
    assert set(np.unique(mask[4:])) == {0.0, 1.0}


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_no_number_is_as_far_as_can_be(bundle, value):
    """NaN, infinity and nothing at all have no direction: the cosine is -1."""
    true = np.ones((1, 2, 3), np.float32)
    found = true.copy()
    found[0, 1] = value
    assert lowest_cosine(found, true) == -1
    assert lowest_cosine(true, true) > MIN_COSINE


def test_fault_names_both_devices(bundle, spoiled):
    """The reason says what was compared with what, and by how much it missed."""
    fault = find_fault(spoiled, OnnxGraph(bundle), bundle)
    assert fault.count("CPU (ONNX Runtime") == 2
    assert find_fault(OnnxGraph(bundle), OnnxGraph(bundle), bundle) == ""
