"""Engines: made for real without a GPU, kept, known by what they are for, never loaded blindly.

TensorRT for RTX makes the same engines as TensorRT through the same Python API. Running one needs
a GPU: those tests are in tests/conformance and skip without one.
"""

from __future__ import annotations

import logging
import shutil
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import daemon.encoders
from contracts.atomic_files import partial_name
from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, MAX_ENCODER_BATCH, load_manifest
from daemon.encoders.auto import load_encoder, outlook
from daemon.encoders.engine_cache import (
    ANY_GPU,
    FOLDER,
    get_engine,
    key_of,
    read_facts,
    read_plan,
    refuse_engine,
    target_gpu,
)
from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.tensorrt import TensorrtGraph
from daemon.encoders.tensorrt_build import (
    RECIPE,
    Gpu,
    Library,
    TensorrtLog,
    build_engine,
    find_gpu,
    first_library,
    load_library,
)
from tests.support.gpu import find_gpu_or_skip

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")

REMOVED_IN_11 = (
    "BuilderFlag.FP16",
    "BuilderFlag.BF16",
    "BuilderFlag.INT8",
    "BuilderFlag.FP8",
    "BuilderFlag.INT4",
    "PRECISION_CONSTRAINTS",
    "EXPLICIT_BATCH",
    "int8_calibrator",
    "layer.precision",
    "dynamic_range",
    "platform_has_",
    "device_memory_size",
    "supports_model",
    "binding_is_input",
    "execute_async_v2",
    "max_workspace_size",
)
"""Names of TensorRT 10 or before that 11 has no more (its release notes, "removed")."""


@pytest.fixture(scope="session")
def rtx() -> Library:
    """Return TensorRT for RTX, or skip."""
    try:
        return load_library("tensorrt_rtx")
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """Return a bundle of this test's own, without engines."""
    return _copy(tiny_bundle.folder, tmp_path)


@pytest.fixture(scope="session")
def built_once(tiny_bundle, rtx, tmp_path_factory):
    """Return a bundle with one engine, made for three populations; not to be changed."""
    manifest = _copy(tiny_bundle.folder, tmp_path_factory.mktemp("built"))
    get_engine(manifest, rtx, ANY_GPU, opt_batch=3)
    return manifest


@pytest.fixture
def built(built_once, tmp_path):
    """Return a bundle of this test's own, with one engine."""
    return _copy(built_once.folder, tmp_path)


def _copy(folder, parent):
    shutil.copytree(folder, parent / "bundle")
    return load_manifest(parent / "bundle")


def plan_of(manifest):
    """Return the one engine of a bundle."""
    (plan,) = (manifest.folder / FOLDER).glob("*.plan")
    return plan


def test_a_real_engine_is_made_and_read_back(built, rtx):
    """Without a GPU an engine is built and kept, says what it is for, and is read back whole."""
    bundle, plan = built, plan_of(built)
    assert target_gpu(rtx) == ANY_GPU
    facts = read_facts(plan)
    assert (facts.gpu, facts.precision, facts.opt_batch) == ("any GPU", "float32", 3)
    assert facts.onnx_sha256 == bundle.model.sha256[ENCODER_ONNX]
    assert plan.name == f"any-gpu-tensorrt-rtx-{rtx.version}-{facts.onnx_sha256[:12]}-x3.plan"
    content = read_plan(plan, key_of(bundle, rtx, ANY_GPU, opt_batch=3))
    assert len(content) > 100_000


def test_the_library_knows_its_engine(built, rtx):
    """The library finds its own version in the plan's header, and none in other bytes."""
    plan = plan_of(built).read_bytes()
    trt = rtx.module
    malformed = int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    mismatch = int(trt.EngineInvalidityDiagnostics.VERSION_MISMATCH)
    runtime = trt.Runtime(TensorrtLog(rtx).logger)
    _, found = runtime.get_engine_validity(plan)
    assert not int(found) & (malformed | mismatch)
    _, found = runtime.get_engine_validity(b"no engine" + plan[9:])
    assert int(found) & malformed


def test_second_time_it_is_there(built, rtx):
    """An engine that fits is used as it is."""
    first = plan_of(built)
    made_ns = first.stat().st_mtime_ns
    assert get_engine(built, rtx, ANY_GPU, opt_batch=3) == first
    assert first.stat().st_mtime_ns == made_ns


def test_engine_of_another_gpu_is_not_used(built, rtx, caplog):
    """For another GPU a second one is made, and the log says what there was."""
    first = plan_of(built)
    with caplog.at_level(logging.INFO):
        second = get_engine(built, rtx, H100, opt_batch=3)
    assert first != second
    assert f"(there is {first.name}, which is for something else)" in caplog.text
    assert read_facts(second).compute_capability == "9.0"


@pytest.mark.parametrize("field", ["library", "version", "gpu", "compute_capability"])
def test_engine_for_something_else_is_named(built, rtx, field):
    """Library, version and GPU stand in the JSON; a file name alone is not believed."""
    plan = plan_of(built)
    key = key_of(built, rtx, ANY_GPU, opt_batch=3)
    says_wrongly(plan, **{field: "another"})
    wanted = f"{field.replace('_', ' ')} 'another', wanted '{getattr(key, field)}'"
    with pytest.raises(EngineError, match=wanted):
        read_plan(plan, key)


def test_engine_for_other_rows_is_not_used(built, rtx):
    """Kernels chosen for three populations do not serve eight; both engines are kept."""
    first = plan_of(built)
    second = get_engine(built, rtx, ANY_GPU, opt_batch=8)
    assert first != second
    assert (read_facts(first).opt_batch, read_facts(second).opt_batch) == (3, 8)
    assert key_of(built, rtx, ANY_GPU, opt_batch=1000).opt_batch == MAX_ENCODER_BATCH


def test_engine_of_another_recipe_is_made_again(built, rtx, caplog):
    """When flags or profile of the build change, what was built before is not taken for it."""
    plan = plan_of(built)
    says_wrongly(plan, recipe=RECIPE - 1)
    assert get_engine(built, rtx, ANY_GPU, opt_batch=3) == plan
    assert read_facts(plan).recipe == RECIPE
    assert f"recipe {RECIPE - 1}, wanted {RECIPE}" in caplog.text


def test_refused_engine_is_not_made_again(built, rtx):
    """The plan is gone, its JSON says why, and only its removal lets another be made."""
    plan = plan_of(built)
    refuse_engine(built, plan, "it said nonsense")
    assert not plan.exists()
    with pytest.raises(EngineError, match=rf"refused: it said nonsense; .*remove .*{plan.stem}"):
        get_engine(built, rtx, ANY_GPU, opt_batch=3)
    assert get_engine(built, rtx, H100, opt_batch=3).exists()
    plan.with_suffix(".json").unlink()
    assert get_engine(built, rtx, ANY_GPU, opt_batch=3) == plan


def test_engine_that_came_with_its_refusal_is_not_read(built, rtx):
    """A plan that could not be removed is as dead as one that could."""
    plan = plan_of(built)
    says_wrongly(plan, refused="it said nonsense")
    with pytest.raises(EngineError, match="was refused: it said nonsense"):
        read_plan(plan, key_of(built, rtx, ANY_GPU, opt_batch=3))


def test_refusal_lies_in_the_cache_where_the_bundle_cannot_be_written(
    built, rtx, tmp_path, monkeypatch
):
    """A bundle on a read-only disk keeps its plan, and the plan is not used all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = plan_of(built)
    report = plan.with_suffix(".json")
    partial_name(report).mkdir()  # in the way, for root may write anywhere
    refuse_engine(built, plan, "it said nonsense")
    assert list((tmp_path / "cache" / "neurrate" / FOLDER).glob("*.json"))
    with pytest.raises(EngineError, match="was refused: it said nonsense"):
        get_engine(built, rtx, ANY_GPU, opt_batch=3)


def test_engine_of_another_graph_is_made_again(built, rtx, caplog):
    """The whole sha256 of the graph counts, not the digits in the name; the log says it."""
    plan = plan_of(built)
    says_wrongly(plan, onnx_sha256=read_facts(plan).onnx_sha256[:12] + "0" * 52)
    assert get_engine(built, rtx, ANY_GPU, opt_batch=3) == plan
    assert read_facts(plan).onnx_sha256 == built.model.sha256[ENCODER_ONNX]
    assert "wanted" in caplog.text
    assert "made again" in caplog.text


def says_wrongly(plan, **changes):
    """Change what stands beside an engine."""
    changed = read_facts(plan).model_copy(update=changes)
    plan.with_suffix(".json").write_text(changed.model_dump_json())


def test_changed_plan_is_never_read(built, rtx):
    """A plan is native code; one byte that differs from its JSON is enough."""
    plan = plan_of(built)
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)
    with pytest.raises(EngineError, match="another sha256 than its JSON"):
        read_plan(plan, key_of(built, rtx, ANY_GPU, opt_batch=3))
    assert get_engine(built, rtx, ANY_GPU, opt_batch=3).read_bytes() != bytes(content)


def test_plan_without_json_is_never_read(built, rtx):
    """A plan of unknown origin is not loaded."""
    plan = plan_of(built)
    plan.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="no JSON beside it"):
        read_plan(plan, key_of(built, rtx, ANY_GPU, opt_batch=3))


def test_read_only_bundle_uses_the_cache(bundle, rtx, tmp_path, monkeypatch):
    """Where the bundle cannot be written to, the user's cache holds the engine."""
    (bundle.folder / FOLDER).write_text("a file in the way, for root may write anywhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = get_engine(bundle, rtx, ANY_GPU)
    assert plan.parent == tmp_path / "cache" / "neurrate" / FOLDER
    assert get_engine(bundle, rtx, ANY_GPU) == plan


def test_nowhere_to_keep_it_is_said(bundle, rtx, tmp_path, monkeypatch):
    """An engine that cannot be kept would be made at every start: an error with both folders."""
    (bundle.folder / FOLDER).write_text("in the way")
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match="kept in none of"):
        get_engine(bundle, rtx, ANY_GPU)


def test_damaged_graph_is_one_sentence(rtx):
    """What is no graph is refused with the parser's own reason."""
    with pytest.raises(EngineError, match=r"tensorrt_rtx cannot take this graph: .*parse"):
        build_engine(rtx, b"no graph")


def test_no_removed_name_is_used():
    """The same code serves TensorRT 10 and 11: nothing of what 11 removed is mentioned."""
    folder = Path(daemon.encoders.__path__[0])
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert [name for name in REMOVED_IN_11 if name in text] == [], path.name


def test_missing_library_is_a_sentence(monkeypatch):
    """Where neither library is installed the error names both, with what to install."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"tensorrt is .*\[gpu\].*tensorrt_rtx is .*\[rtx\]"):
        first_library()


def test_library_of_another_version_is_a_sentence(monkeypatch):
    """A version whose API is not known is refused with those that are."""
    old = types.ModuleType("tensorrt")
    old.__version__ = "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(
        DependencyError, match=r"8\.6\.1 is installed, and Neurrate knows 10 and 11"
    ):
        load_library("tensorrt")


def test_library_that_cannot_be_loaded_is_a_sentence(tmp_path, monkeypatch):
    """A missing libcudart, as the loader says it, is a reason and not a crash."""
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(DependencyError, match=r"cannot be loaded \(libcudart\.so\.13.*again"):
        load_library("tensorrt")


def test_tensorrt_needs_the_gpu_it_is_for():
    """Without a GPU there is no engine of plain TensorRT; the error names the one without."""
    library = Library("tensorrt", "11.4.0", None, is_portable=False)
    _without_gpu()
    with pytest.raises(DependencyError, match=r"on the GPU that it is for.*tensorrt-rtx"):
        target_gpu(library)


def test_missing_driver_is_a_sentence():
    """Without a driver the error says which library was looked for."""
    with pytest.raises(DependencyError, match=r"no NVIDIA driver is here \(libnone\.so\)"):
        find_gpu("libnone.so")


def test_auto_says_which_and_why(bundle, caplog):
    """The log gets one line, with the device and for each faster one the reason."""
    _without_gpu()
    with caplog.at_level(logging.INFO):
        encoder = load_encoder(bundle, [bundle.population.select("all")])
    assert encoder.device.startswith("CPU (ONNX Runtime ")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "daemon.encoders.auto"]
    assert line.startswith(f"encoder on {encoder.device}: ")
    assert "no NVIDIA driver" in line
    assert "no CUDA provider" in line
    assert outlook().startswith("the CPU: ")


def test_auto_survives_broken_libraries(bundle, caplog, monkeypatch):
    """A library that cannot be loaded costs speed and not the start."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.INFO):
        load_encoder(bundle, [bundle.population.select("all")])
    assert "tensorrt is not installed" in caplog.text


@pytest.mark.parametrize("device", ["tensorrt", "cuda"])
def test_what_was_asked_for_and_is_not_there(bundle, device):
    """A device that the settings name is not replaced by another."""
    _without_gpu()
    with pytest.raises(DependencyError, match=f"encoder.device is {device}, and "):
        load_encoder(bundle, [bundle.population.select("all")], device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("on_gpu", [TensorrtGraph, partial(OnnxGraph, device="cuda")])
def test_gpu_says_what_the_cpu_says(bundle, on_gpu):
    """The same graph on a GPU gives the same patches, for any size of batch."""
    find_gpu_or_skip()
    rng = np.random.default_rng(0)
    graph, expected = on_gpu(bundle), OnnxGraph(bundle)
    for n in (1, 3, 64):
        counts = rng.poisson(0.3, (n, bundle.window_spec.n_bins, 12)).astype(np.float32)
        mask = (rng.random((n, 12)) < 0.5).astype(np.float32)
        np.testing.assert_allclose(
            graph.run(counts, mask), expected.run(counts, mask), rtol=0, atol=2e-3
        )


def _without_gpu() -> None:
    try:
        found = find_gpu()
    except DependencyError:
        return
    pytest.skip(f"says what happens without a GPU; here is {found.name}")
