"""TensorRT: engines built for real without a GPU, and one sentence for whatever is missing.

TensorRT for RTX makes the same engines as TensorRT through the same Python API. Running one needs
a GPU: those tests are in tests/conformance and skip without one.
"""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import pytest

import daemon.encoders
from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, load_manifest
from daemon.encoders.engine_cache import (
    ANY_GPU,
    FOLDER,
    get_engine,
    key_of,
    read_facts,
    read_plan,
    target_gpu,
)
from daemon.encoders.tensorrt_build import (
    Library,
    TensorrtLog,
    build_engine,
    find_gpu,
    first_library,
    load_library,
)

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


@pytest.fixture(scope="module")
def built(tiny_bundle, rtx, tmp_path_factory):
    """Return a bundle with one engine, made for three populations; not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    manifest = load_manifest(folder)
    get_engine(manifest, rtx, ANY_GPU, opt_batch=3)
    return manifest


def plan_of(manifest):
    """Return the one engine of a bundle."""
    (plan,) = (manifest.folder / FOLDER).glob("*.plan")
    return plan


def test_a_real_engine_is_made_and_read_back(built, rtx):
    """Without a GPU an engine is built and kept, names its target, and is read back whole."""
    plan = plan_of(built)
    assert target_gpu(rtx) == ANY_GPU
    facts = read_facts(plan)
    assert (facts.gpu, facts.precision, facts.opt_batch) == ("any GPU", "float32", 3)
    assert facts.onnx_sha256 == built.model.sha256[ENCODER_ONNX]
    assert plan.name == f"any-gpu-tensorrt-rtx-{rtx.version}-{facts.onnx_sha256[:12]}-x3.plan"
    content = read_plan(plan, key_of(built, rtx, ANY_GPU, opt_batch=3))
    assert len(content) > 100_000


def test_the_library_knows_its_engine(built, rtx):
    """The library finds its own version in the plan's header, and none in other bytes."""
    plan = plan_of(built).read_bytes()
    trt = rtx.module
    malformed = int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    mismatch = int(trt.EngineInvalidityDiagnostics.VERSION_MISMATCH)
    runtime = trt.Runtime(TensorrtLog(rtx).logger)
    _, validity = runtime.get_engine_validity(plan)
    assert not int(validity) & (malformed | mismatch)
    _, validity = runtime.get_engine_validity(b"no engine" + plan[9:])
    assert int(validity) & malformed


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
    """A missing libcudart, as the loader reports it, is a reason and not a crash."""
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(DependencyError, match=r"cannot be loaded \(libcudart\.so\.13.*again"):
        load_library("tensorrt")


def test_missing_driver_is_a_sentence():
    """Without a driver the error names the library that was not found."""
    with pytest.raises(DependencyError, match=r"no NVIDIA driver is here \(libnone\.so\)"):
        find_gpu("libnone.so")
