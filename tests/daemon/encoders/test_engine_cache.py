"""Engines are kept, known by what they are for, and never loaded unchecked.

Building one takes a second and has tests of its own (test_tensorrt_build.py): here it is replaced.
"""

from __future__ import annotations

import itertools
import logging
import shutil

import pytest

from contracts.atomic_files import partial_name
from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, MAX_ENCODER_BATCH, load_manifest
from daemon.encoders import engine_cache
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
from daemon.encoders.tensorrt_build import RECIPE, BuiltEngine, Gpu, Library
from tests.support.gpu import without_gpu_or_skip

LIBRARY = Library("tensorrt_rtx", "1.0", None, is_portable=True)
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")


@pytest.fixture(autouse=True)
def quick_build(monkeypatch):
    """Build plans of a few bytes, each of them different."""
    numbers = itertools.count()
    monkeypatch.setattr(
        engine_cache,
        "build_engine",
        lambda *_, **__: BuiltEngine(b"%d: a plan" % next(numbers), "float32", b"timings", 0.1),
    )


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """Return a bundle of this test's own, without engines."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")
    return load_manifest(tmp_path / "bundle")


@pytest.fixture
def built(bundle):
    """Return a bundle of this test's own, with one engine for three populations."""
    get_engine(bundle, LIBRARY, ANY_GPU, opt_batch=3)
    return bundle


def plan_of(manifest):
    """Return the one engine of a bundle."""
    (plan,) = (manifest.folder / FOLDER).glob("*.plan")
    return plan


def test_engine_that_fits_is_used(built):
    """The second time none is made."""
    first = plan_of(built)
    made_ns = first.stat().st_mtime_ns
    assert get_engine(built, LIBRARY, ANY_GPU, opt_batch=3) == first
    assert first.stat().st_mtime_ns == made_ns


def test_engine_of_another_gpu_is_not_used(built, caplog):
    """For another GPU a second one is made, and the log names the first."""
    first = plan_of(built)
    with caplog.at_level(logging.INFO):
        second = get_engine(built, LIBRARY, H100, opt_batch=3)
    assert first != second
    assert f"(there is {first.name}, which is for something else)" in caplog.text
    assert read_facts(second).compute_capability == "9.0"


@pytest.mark.parametrize("field", ["library", "version", "gpu", "compute_capability"])
def test_engine_for_something_else_is_named(built, field):
    """Library, version and GPU are read from the JSON; the file name alone does not count."""
    plan = plan_of(built)
    key = key_of(built, LIBRARY, ANY_GPU, opt_batch=3)
    rewrite_facts(plan, **{field: "another"})
    wanted = f"{field.replace('_', ' ')} 'another', wanted '{getattr(key, field)}'"
    with pytest.raises(EngineError, match=wanted):
        read_plan(plan, key)


def test_engine_for_other_rows_is_not_used(built):
    """Kernels chosen for three populations do not serve eight; both engines are kept."""
    first = plan_of(built)
    second = get_engine(built, LIBRARY, ANY_GPU, opt_batch=8)
    assert first != second
    assert (read_facts(first).opt_batch, read_facts(second).opt_batch) == (3, 8)
    assert key_of(built, LIBRARY, ANY_GPU, opt_batch=1000).opt_batch == MAX_ENCODER_BATCH


def test_engine_of_another_recipe_is_made_again(built, caplog):
    """When flags or profile of the build change, what was built before is not taken for it."""
    plan = plan_of(built)
    rewrite_facts(plan, recipe=RECIPE - 1)
    assert get_engine(built, LIBRARY, ANY_GPU, opt_batch=3) == plan
    assert read_facts(plan).recipe == RECIPE
    assert f"recipe {RECIPE - 1}, wanted {RECIPE}" in caplog.text


def test_refused_engine_is_not_made_again(built):
    """The plan is gone, its JSON has the reason, and only its removal lets another be made."""
    plan = plan_of(built)
    refuse_engine(built, plan, "its patches were wrong")
    assert not plan.exists()
    with pytest.raises(
        EngineError, match=rf"refused: its patches were wrong; .*remove .*{plan.stem}"
    ):
        get_engine(built, LIBRARY, ANY_GPU, opt_batch=3)
    assert get_engine(built, LIBRARY, H100, opt_batch=3).exists()
    plan.with_suffix(".json").unlink()
    assert get_engine(built, LIBRARY, ANY_GPU, opt_batch=3) == plan


def test_refused_plan_is_not_read(built):
    """A plan that could not be removed is not used either."""
    plan = plan_of(built)
    rewrite_facts(plan, refused="its patches were wrong")
    with pytest.raises(EngineError, match="was refused: its patches were wrong"):
        read_plan(plan, key_of(built, LIBRARY, ANY_GPU, opt_batch=3))


def test_refusal_is_in_the_cache_where_the_bundle_cannot_be_written(built, tmp_path, monkeypatch):
    """A bundle on a read-only disk keeps its plan, and the plan is not used all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = plan_of(built)
    report = plan.with_suffix(".json")
    partial_name(report).mkdir()  # in the way, for root may write anywhere
    refuse_engine(built, plan, "its patches were wrong")
    assert list((tmp_path / "cache" / "neurrate" / FOLDER).glob("*.json"))
    with pytest.raises(EngineError, match="was refused: its patches were wrong"):
        get_engine(built, LIBRARY, ANY_GPU, opt_batch=3)


def test_engine_of_another_graph_is_made_again(built, caplog):
    """The whole sha256 of the graph counts, not the digits in the name; the log has it."""
    plan = plan_of(built)
    rewrite_facts(plan, onnx_sha256=read_facts(plan).onnx_sha256[:12] + "0" * 52)
    assert get_engine(built, LIBRARY, ANY_GPU, opt_batch=3) == plan
    assert read_facts(plan).onnx_sha256 == built.model.sha256[ENCODER_ONNX]
    assert "wanted" in caplog.text
    assert "made again" in caplog.text


def rewrite_facts(plan, **changes):
    """Change the JSON beside an engine."""
    changed = read_facts(plan).model_copy(update=changes)
    plan.with_suffix(".json").write_text(changed.model_dump_json())


def test_changed_plan_is_never_read(built):
    """A plan is native code; one byte that differs from its JSON is enough."""
    plan = plan_of(built)
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)
    with pytest.raises(EngineError, match="another sha256 than its JSON"):
        read_plan(plan, key_of(built, LIBRARY, ANY_GPU, opt_batch=3))
    assert get_engine(built, LIBRARY, ANY_GPU, opt_batch=3).read_bytes() != bytes(content)


def test_plan_without_json_is_never_read(built):
    """A plan of unknown origin is not loaded."""
    plan = plan_of(built)
    plan.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="no JSON beside it"):
        read_plan(plan, key_of(built, LIBRARY, ANY_GPU, opt_batch=3))


def test_read_only_bundle_uses_the_cache(bundle, tmp_path, monkeypatch):
    """Where the bundle cannot be written to, the user's cache holds the engine."""
    (bundle.folder / FOLDER).write_text("a file in the way, for root may write anywhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = get_engine(bundle, LIBRARY, ANY_GPU)
    assert plan.parent == tmp_path / "cache" / "neurrate" / FOLDER
    assert get_engine(bundle, LIBRARY, ANY_GPU) == plan


def test_nowhere_to_keep_it_is_an_error(bundle, tmp_path, monkeypatch):
    """An engine that cannot be kept would be made at every start: an error with both folders."""
    (bundle.folder / FOLDER).write_text("in the way")
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match="kept in none of"):
        get_engine(bundle, LIBRARY, ANY_GPU)


def test_tensorrt_needs_the_gpu_it_is_for():
    """Without a GPU there is no engine of plain TensorRT; the error names the one without."""
    library = Library("tensorrt", "11.4.0", None, is_portable=False)
    without_gpu_or_skip()
    with pytest.raises(DependencyError, match=r"on the GPU that it is for.*tensorrt-rtx"):
        target_gpu(library)
