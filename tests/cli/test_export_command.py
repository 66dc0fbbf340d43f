"""``neurrate export``: the same run gives the same bundle; what does not fit is one sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from contracts.embedding import PatchGrid
from contracts.errors import EngineError
from contracts.manifest import (
    CAPTIONS,
    CONFIDENCE,
    CONFIDENCE_ARRAYS,
    ENCODER_ONNX,
    ENCODER_WEIGHTS,
    PARITY,
    PROBES,
    PROBES_REPORT,
    LanguageModel,
    Manifest,
    WindowModel,
    load_manifest,
    sha256_of,
)
from daemon.encoders.auto import load_encoder
from daemon.encoders.engine_cache import (
    ANY_GPU,
    FOLDER,
    EngineModel,
    get_engine,
    keep_plan,
    key_of,
    read_facts,
)
from daemon.encoders.tensorrt_build import Library, load_library
from encoder_export import bundle as bundle_module
from encoder_export.export import check_engine_parity, is_exported, make_engine
from encoder_export.parity import LIMITS, Limits, Parity, ParityError
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from encoder_training.data_set.training_set import measure_scaling
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.run_files import RunModel, load_run_model, write_run
from neurrate.cli import main
from tests.support.gpu import find_gpu_or_skip
from tests.support.prepared import prepared_set
from tests.support.tiny_bundle import TINY_GRID

LAG_NS = 100_000_000
QUICK = ("--windows", "16", "--narrations", "4")
QUICK_WITHOUT_NARRATIONS = ("--windows", "4", "--narrations", "0")


@pytest.fixture(scope="module")
def dataset(tiny_llava, tmp_path_factory) -> Path:
    """Return the folder of a data set whose patches are of the tiny LLaVA's shape."""
    small = prepared_set(n_frames=30, n_repeats=4)
    targets = np.random.default_rng(0).normal(size=(30, TINY_GRID.n_patches, TINY_GRID.dim))
    folder: Path = tmp_path_factory.mktemp("export") / "data"
    write_prepared(
        folder,
        replace(
            small,
            grid=TINY_GRID,
            targets=targets.astype(np.float16),
            language_model=LanguageModel(model_id=str(tiny_llava)),
        ),
    )
    return folder


def make_run(folder: Path, made_of: Path, **changes) -> Path:
    """Write a finished run of random weights: training has tests of its own."""
    prepared = load_prepared(made_of)
    data, parts = prepared.windows(LAG_NS)
    spec = EncoderSpec(
        len(prepared.population),
        prepared.grid,
        width=32,
        n_heads=2,
        feed_forward=64,
        conv_channels=8,
        kernels=(3,),
        time_layers=1,
        patch_layers=1,
    )  # every kind of layer once: tracing takes a time for each
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = PatchEncoder(spec).eval()
    window = prepared.window
    model = RunModel(
        dataset=str(made_of),
        dataset_sha256=prepared.training_data.sha256,
        training_data=prepared.training_data,
        language_model=prepared.language_model,
        variant="patches",
        spec=spec,
        options=TrainingOptions(),
        lags_ns=(LAG_NS,),
        window=WindowModel(
            bin_rate_num=window.rate.num,
            bin_rate_den=window.rate.den,
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=LAG_NS,
        ),
        scores={"cosine": 0.5},
        command="neurrate train data run",
        finished=True,
    ).model_copy(update=changes)
    write_run(folder, model, encoder=encoder, scaling=measure_scaling(data, parts.train))
    (folder / PROBES).write_bytes(b"probes")
    (folder / PROBES_REPORT).write_text("{}")
    (folder / CONFIDENCE).write_text("{}")
    (folder / CONFIDENCE_ARRAYS).write_bytes(b"arrays")
    return folder


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("export") / "run", dataset)


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """Return a bundle that was exported with narrations."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    assert main(["export", str(run), str(folder), *QUICK]) == 0
    return load_manifest(folder)


@pytest.fixture
def traced_before(bundle, monkeypatch):
    """Take the graph of `bundle`: tracing takes seconds, and has tests of its own."""
    traced = (bundle.folder / ENCODER_ONNX).read_bytes()
    monkeypatch.setattr(
        bundle_module, "write_graph", lambda _, __, path, **___: path.write_bytes(traced)
    )


def refused(capsys, *arguments: object) -> str:
    """Run a command that must be refused, and return its one sentence."""
    assert main(["export", *map(str, arguments)]) == 2
    error: str = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


def test_help_has_examples(capsys):
    """The help has the options and a command to copy."""
    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("neurrate export run/ bundle/", "--precision", "--engine", "--narrations"):
        assert part in text


def test_bundle_is_the_runs(bundle, run):
    """Window, lag, population, scores, data and probes are those of the run."""
    model = load_run_model(run)
    assert bundle.window_spec.lag_ns == LAG_NS
    assert bundle.model.trained is True
    assert bundle.model.scores == {"cosine": 0.5}
    assert bundle.model.training_data == model.training_data
    assert bundle.model.language_model == model.language_model
    assert bundle.file(PROBES).read_bytes() == b"probes"
    assert bundle.file(PROBES_REPORT) is not None
    assert bundle.file(CONFIDENCE) is not None
    assert bundle.file(CONFIDENCE_ARRAYS) is not None


def test_evidence_is_of_training_frames(bundle, dataset):
    """Captions and mean patches are those of captioned training frames."""
    prepared = load_prepared(dataset)
    captions = dict(
        zip(map(prepared.frames.label, range(30)), prepared.frames.captions, strict=True)
    )
    lines = bundle.file(CAPTIONS).read_text().splitlines()
    written = {line["frame"]: line["caption"] for line in map(json.loads, lines)}
    assert 0 < len(written) <= 30
    assert written.items() <= captions.items()


def test_parity_is_of_real_windows_and_narrations(bundle):
    """The report has the requested windows and narrations."""
    report = json.loads((bundle.folder / PARITY).read_text())
    assert (report["n_windows"], report["n_narrations"]) == (16, 4)
    assert report["n_equal"] >= 3
    assert report["onnx_sha256"] == bundle.model.sha256[ENCODER_ONNX]


def test_older_report_is_read(bundle, tmp_path):
    """A parity.json with fields that are written no more is read all the same."""
    report = json.loads((bundle.folder / PARITY).read_text())
    report["formats"] = {"model": "m", "trials": [{"number_format": "int8", "n_equal": 4}]}
    (tmp_path / PARITY).write_text(json.dumps(report))
    assert Parity.read(tmp_path / PARITY) == Parity.read(bundle.folder / PARITY)


@pytest.mark.usefixtures("traced_before")
def test_same_run_same_bundle(bundle, run, tmp_path):
    """Whatever run, bundle and data set are called, the manifest's sha256 is the same."""
    moved = tmp_path / "another run"
    run_copy = moved / "r"
    moved.mkdir()
    run_copy.symlink_to(run)
    assert main(["export", str(run_copy), str(tmp_path / "b"), "--narrations", "0"]) == 0
    again = load_manifest(tmp_path / "b")
    assert again.sha256 == bundle.sha256
    assert str(tmp_path) not in (again.folder / "manifest.json").read_text()


def test_finished_export_is_recognised(bundle, run, tmp_path):
    """A bundle of this run that is whole, and none of other weights or with a spoiled file."""
    assert is_exported(run, bundle.folder)
    assert not is_exported(run, tmp_path / "nowhere")
    spoiled, other = tmp_path / "spoiled", tmp_path / "other"
    shutil.copytree(bundle.folder, spoiled)
    with (spoiled / ENCODER_ONNX).open("ab") as graph:
        graph.write(b"\0")
    assert not is_exported(run, spoiled)
    shutil.copytree(run, other)
    weights = load_file(other / ENCODER_WEIGHTS)
    name = next(iter(weights))
    with safe_open(other / ENCODER_WEIGHTS, "np") as file:
        metadata = file.metadata()
    weights[name][...] += 1
    save_file(weights, other / ENCODER_WEIGHTS, metadata)
    assert not is_exported(other, bundle.folder)


def test_the_daemon_runs_it(bundle):
    """The daemon loads the bundle, and its encoder is ready on the CPU."""
    encoder = load_encoder(bundle, [bundle.population.select("all")], device="cpu")
    assert encoder.device.startswith("CPU")


@pytest.mark.usefixtures("traced_before")
def test_engine_is_in_the_bundle(run, tmp_path, capsys):
    """An engine for any GPU is made on a machine without one, and found beside the graph."""
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "bundle"
    options = ["--engine", "tensorrt-rtx", "--populations", "3", *QUICK_WITHOUT_NARRATIONS]
    assert main(["export", str(run), str(out), *options]) == 0
    (plan,) = (out / FOLDER).glob("*.plan")
    facts = read_facts(plan)
    assert (facts.library, facts.precision, facts.opt_batch) == ("tensorrt_rtx", "float32", 3)
    assert load_manifest(out).model.sha256.keys().isdisjoint({plan.name})
    text = capsys.readouterr().out
    assert "the engine of tensorrt_rtx" in text or "the engine against" in text


@pytest.mark.usefixtures("traced_before")
def test_numbers_fit_a_terminal(run, tmp_path, capsys):
    """80 columns hold one line of numbers; the runtime's name stands above them."""
    assert main(["export", str(run), str(tmp_path / "b"), *QUICK_WITHOUT_NARRATIONS]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith(tuple("┏┃┡│└"))]
    assert len(table) == 5
    assert max(map(len, table)) <= 80
    assert any("not compared" in line and "1.0000000" in line for line in table)
    assert "ONNX Runtime" in " ".join(lines[: lines.index(table[0])])


def test_engine_that_is_too_far_is_refused_and_the_bundle_stays(bundle, tmp_path):
    """The error does not say that nothing was written, and the daemon builds no other one."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    manifest = load_manifest(folder)
    library = Library("tensorrt_rtx", "1.0", None, is_portable=True)
    key = key_of(manifest, library, ANY_GPU, opt_batch=1)
    plan = folder / FOLDER / key.file_name
    facts = EngineModel(**asdict(key), precision="float32", plan_sha256="0" * 64)
    keep_plan(plan, facts, b"a plan")
    parity = replace(Parity.read(folder / PARITY), min_cosine=0.5, runtime="an engine")
    with pytest.raises(ParityError, match=r"is 0\.5, .*is written, and this engine of it is refu"):
        check_engine_parity(parity, manifest, plan)
    assert not plan.exists()
    assert load_manifest(folder).sha256 == bundle.sha256
    with pytest.raises(EngineError, match=r"was refused: the lowest cosine of a patch is 0\.5"):
        get_engine(manifest, library, ANY_GPU, opt_batch=1)


def test_engine_that_cannot_be_made_leaves_the_bundle(bundle, tmp_path):
    """The library's error is followed by what was written nevertheless."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    graph = onnx.load(folder / ENCODER_ONNX)
    graph.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(graph, folder / ENCODER_ONNX)
    hashes = bundle.model.sha256 | {ENCODER_ONNX: sha256_of(folder / ENCODER_ONNX)}
    model = bundle.model.model_copy(update={"sha256": hashes})
    manifest = Manifest(model, folder, bundle.sha256)
    library = load_library("tensorrt_rtx")
    with pytest.raises(
        EngineError, match=r"cannot take this graph.*GPU\. The bundle .* is written"
    ):
        make_engine(manifest, library, ANY_GPU, opt_batch=1, measure=never)


def never(graph):
    raise AssertionError(graph)


def test_engine_without_a_gpu(run, tmp_path, capsys):
    """Plain TensorRT needs the GPU or its library: exit code 3 before any work."""
    code = main(["export", str(run), str(tmp_path / "b"), "--engine", "tensorrt"])
    if code == 0:
        pytest.skip("TensorRT and a GPU are here")
    assert code == 3
    assert "tensorrt" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_int8_has_no_engine(run, tmp_path, capsys):
    """An engine of an int8 graph is refused before any work, with the remedy."""
    error = refused(capsys, run, tmp_path / "b", "--engine", "tensorrt-rtx", "--precision", "int8")
    assert "int8 graph is for a CPU" in error


@pytest.mark.usefixtures("traced_before")
def test_graph_that_is_too_far_is_not_written(run, tmp_path, capsys, monkeypatch):
    """The gate's error names number and limit, and the folder is not made."""
    monkeypatch.setitem(LIMITS, "float32", Limits(1.1, 1.1, 0.0, 1.0))
    error = refused(capsys, run, tmp_path / "b", "--narrations", "0")
    assert "lowest cosine of a patch is" in error
    assert "Nothing was written" in error
    assert not (tmp_path / "b").exists()


def test_existing_bundle(bundle, run, capsys):
    """A bundle is replaced only when asked for."""
    assert "add --overwrite" in refused(capsys, run, bundle.folder)


def test_run_that_is_not_evaluated(dataset, tmp_path, capsys):
    """The error of an unfinished run has the command that continues it."""
    unfinished = make_run(tmp_path / "run", dataset, finished=False)
    error = refused(capsys, unfinished, tmp_path / "b")
    assert "has not been evaluated. Continue with: neurrate train data run" in error


def test_other_data_set(dataset, tmp_path, capsys):
    """A data set with another sha256 is not the training data."""
    other = make_run(tmp_path / "run", dataset, dataset_sha256="f" * 64)
    error = refused(capsys, other, tmp_path / "b")
    assert "sha256 ffffffffffff" in error
    assert "--dataset DIR" in error


def test_data_set_that_has_moved(dataset, tmp_path, capsys):
    """A data set that is not where it was can be named."""
    moved = make_run(tmp_path / "run", dataset, dataset=str(tmp_path / "gone"))
    assert "Say where it is: --dataset DIR" in refused(capsys, moved, tmp_path / "b")


def test_model_of_another_grid(run, tmp_path, capsys):
    """A vision tower with other patches than the encoder's is refused with both grids."""
    from simulation.tiny_llava import write_random_llava

    write_random_llava(tmp_path / "other", grid=PatchGrid(rows=4, cols=4, dim=64))
    error = refused(capsys, run, tmp_path / "b", "--model", tmp_path / "other")
    assert "the encoder predicts 8 x 8 patches" in error


@pytest.mark.gpu
def test_engine_passes_the_gate_on_the_gpu(run, tmp_path, capsys):
    """Where it can run, the engine is compared with the network as the graph is."""
    find_gpu_or_skip()
    out = tmp_path / "bundle"
    options = ["--engine", "tensorrt", "--precision", "float16", "--narrations", "0"]
    assert main(["export", str(run), str(out), *options]) == 0
    assert "tensorrt" in capsys.readouterr().out
