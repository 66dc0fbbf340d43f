"""Windows through any selection: the network's numbers, on ONNX Runtime on a CPU."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from contracts.errors import DependencyError, EngineError, ManifestError, MisuseError
from contracts.manifest import ENCODER_ONNX, ENCODER_WEIGHTS, load_manifest, sha256_of
from contracts.population import Population
from daemon.encoders import onnx
from daemon.encoders.auto import take_first
from daemon.encoders.onnx import OnnxGraph, cuda_errors
from daemon.encoders.window_encoder import WindowEncoder
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.training_set import Scaling
from encoder_training.weights import load_weights
from tests.support.tiny_bundle import tiny_windows


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def encoder_of(manifest, *names, **options):
    selections = [manifest.population.select(name) for name in names]
    return WindowEncoder(manifest, selections, OnnxGraph(manifest, **options))


def patches_of(embeddings):
    return np.stack([embedding.patches for embedding in embeddings])


def edited(manifest, folder, **changes):
    """Copy a bundle and change its manifest, as if from another export."""
    shutil.copytree(manifest.folder, folder)
    model = manifest.model.model_copy(update=changes)
    (folder / "manifest.json").write_text(model.model_dump_json())
    return load_manifest(folder)


def test_part_equals_whole(tiny_bundle):
    """Some of the populations, in their order, through the same graph."""
    whole = encoder_of(tiny_bundle, "all", "VISp", "shuffled", "silent")
    part = whole.part({"shuffled", "VISp"})
    assert [selection.name for selection in part.selections] == ["VISp", "shuffled"]
    assert part.is_on_cpu
    (window,) = tiny_windows(1)
    assert_close(patches_of(part.encode([window])), patches_of(whole.encode([window]))[1:3])


def test_equals_torch(tiny_bundle):
    """Selections, masking, shuffling and z-scoring are those of the torch network."""
    names = ("all", "VISp", "shuffled", "silent")
    windows = tiny_windows(3)
    encoder = encoder_of(tiny_bundle, *names)
    scaling = Scaling(tiny_bundle.unit_mean, tiny_bundle.unit_std)
    network = load_weights(tiny_bundle.folder / ENCODER_WEIGHTS)
    model = CountEncoder(network, scaling).eval()
    pairs = [(window, selection) for window in windows for selection in encoder.selections]
    z = [(w.counts - scaling.mean) / scaling.std for w, _ in pairs]
    counts = np.stack(
        [
            scaling.mean + scaling.std * rows[:, selection.order()]
            for rows, (_, selection) in zip(z, pairs, strict=True)
        ]
    )
    masks = np.stack([selection.mask for _, selection in pairs])
    with torch.inference_mode():
        expected = model(
            torch.from_numpy(counts.astype(np.float32)), torch.from_numpy(masks.astype(np.float32))
        ).numpy()
    embeddings = encoder.encode(windows)
    assert_close(patches_of(embeddings), expected)
    assert [embedding.population for embedding in embeddings] == list(names) * 3


def test_masked_unit_has_no_influence(tiny_bundle):
    """The spikes of a unit outside the selection do not change the patches."""
    (window,) = tiny_windows(1)
    louder = window.counts.copy()
    louder[:, ~tiny_bundle.population.select("VISp").mask] += 50
    encoder = encoder_of(tiny_bundle, "VISp")
    pair = encoder.encode([window, dataclasses.replace(window, counts=louder)])
    assert np.array_equal(pair[0].patches, pair[1].patches)


def test_selected_unit_has_influence(tiny_bundle):
    """The spikes of a unit in the selection do."""
    (window,) = tiny_windows(1)
    louder = window.counts.copy()
    louder[:, tiny_bundle.population.select("VISp").mask] += 5
    encoder = encoder_of(tiny_bundle, "VISp")
    pair = encoder.encode([window, dataclasses.replace(window, counts=louder)])
    assert np.abs(pair[0].patches - pair[1].patches).max() > 1e-3


def test_absent_unit_is_held_at_its_mean(tiny_bundle):
    """Its counts do not matter, in no population, and each says how many of its units it lacks."""
    (window,) = tiny_windows(1)
    encoder = encoder_of(tiny_bundle, "all", "VISp", "LGd", "shuffled", "silent")
    absent = np.zeros(12, dtype=bool)
    absent[[0, 1, 4]] = True
    louder = window.counts.copy()
    louder[:, absent] += 50
    lacking = [
        dataclasses.replace(window, absent_units=absent, counts=c) for c in (window.counts, louder)
    ]
    quiet, loud = encoder.encode(lacking[:1]), encoder.encode(lacking[1:])
    for one, other in zip(quiet, loud, strict=True):
        assert np.array_equal(one.patches, other.patches)
    assert [embedding.n_absent for embedding in quiet] == [3, 1, 2, 3, 0]
    # The same as a selection without them.
    rest = [
        unit.unit_id
        for unit, gone in zip(tiny_bundle.population.units, absent, strict=True)
        if not gone
    ]
    selection = tiny_bundle.population.select("rest", f"ids:{'|'.join(rest)}")
    (expected,) = WindowEncoder(tiny_bundle, [selection], OnnxGraph(tiny_bundle)).encode([window])
    assert_close(quiet[0].patches, expected.patches)
    (whole,) = encoder_of(tiny_bundle, "all").encode([window])
    assert np.abs(whole.patches - quiet[0].patches).max() > 1e-3


def test_silent_is_blind(tiny_bundle):
    """The silent control is the same for any spikes."""
    embeddings = encoder_of(tiny_bundle, "silent").encode(tiny_windows(3))
    assert np.ptp(patches_of(embeddings), axis=0).max() == 0


def test_shuffled_differs_from_all(tiny_bundle):
    """The shuffled control gets the same spikes from the wrong units."""
    all_units, shuffled = encoder_of(tiny_bundle, "all", "shuffled").encode(tiny_windows(1))
    assert np.abs(all_units.patches - shuffled.patches).max() > 1e-3
    assert all_units.n_units == shuffled.n_units == 12


@pytest.fixture
def fed(monkeypatch):
    """Return the counts that graphs will be given, one array for each run."""
    arrays: list[NDArray[np.float32]] = []
    run = OnnxGraph.run

    def remember_and_run(
        self: OnnxGraph, counts: NDArray[np.float32], mask: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        arrays.append(counts.copy())
        return run(self, counts, mask)

    monkeypatch.setattr(OnnxGraph, "run", remember_and_run)
    return arrays


def test_shuffled_keeps_the_z_scores(tiny_bundle, fed):
    """The network sees every unit's z-scores, none in its own row and none made louder."""
    encoder = encoder_of(tiny_bundle, "shuffled")
    (window,) = tiny_windows(1)
    encoder.encode([window])
    mean, std = tiny_bundle.unit_mean, tiny_bundle.unit_std
    z = (window.counts - mean) / std
    order = encoder.selections[0].order()
    np.testing.assert_allclose((fed[-1][0] - mean) / std, z[:, order], atol=1e-5)


def test_graph_is_warm_before_the_first_window(tiny_bundle, fed):
    """The graph has run once, with as many rows as there are selections, before any window."""
    encoder_of(tiny_bundle, "all", "VISp", "silent")
    assert [len(counts) for counts in fed] == [3]


def test_batch_equals_single(tiny_bundle):
    """A window gives the same alone and in a batch, also beyond 64 at once."""
    encoder = encoder_of(tiny_bundle, "all", "LGd", "CA1")
    windows = tiny_windows(30)  # 90 pairs: two runs
    together = patches_of(encoder.encode(windows))
    alone = np.concatenate([patches_of(encoder.encode([window])) for window in windows])
    assert_close(together, alone)


def test_patches_are_kept(tiny_bundle):
    """The next batch does not write into the embeddings of the last."""
    encoder = encoder_of(tiny_bundle, "all")
    first = encoder.encode(tiny_windows(1, seed=1))[0]
    before = first.patches.copy()
    encoder.encode(tiny_windows(1, seed=2))
    assert np.array_equal(first.patches, before)


def test_device_is_named(tiny_bundle):
    """The device text names the processor and the runtime's version."""
    assert encoder_of(tiny_bundle, "all", device="cpu").device.startswith("CPU (ONNX Runtime ")


def test_threads_change_no_number(tiny_bundle):
    """Two threads give what one gives."""
    windows = tiny_windows(2)
    one = encoder_of(tiny_bundle, "all", threads=1).encode(windows)
    two = encoder_of(tiny_bundle, "all", threads=2).encode(windows)
    assert_close(patches_of(one), patches_of(two))


def test_window_of_another_shape_is_misuse(tiny_bundle):
    """A window that was cut for another encoder is refused, not broadcast."""
    (window,) = tiny_windows(1)
    short = dataclasses.replace(window, counts=window.counts[:1])
    with pytest.raises(MisuseError, match=r"shape \(20, 12\), got \(1, 12\)"):
        encoder_of(tiny_bundle, "all").encode([short])


def test_selection_of_another_population_is_misuse(tiny_bundle):
    """A selection with other units than the bundle's is refused by name."""
    other = Population(tiny_bundle.population.units[:5]).select("all")
    with pytest.raises(MisuseError, match=r"12 units; not so:.*all"):
        WindowEncoder(tiny_bundle, [other], OnnxGraph(tiny_bundle))


def test_graph_of_another_export_is_refused(tiny_bundle, tmp_path):
    """Shapes that differ from the manifest are all listed."""
    model = tiny_bundle.model
    changed = edited(
        tiny_bundle,
        tmp_path / "bundle",
        window=model.window.model_copy(update={"n_bins": 21}),
        patch_grid=model.patch_grid.model_copy(update={"dim": 65}),
    )
    with pytest.raises(ManifestError) as caught:
        encoder_of(changed, "all")
    assert len(caught.value.problems) == 2
    assert "different exports" in caught.value.problems[0]


@pytest.fixture
def unreadable(tiny_bundle, tmp_path):
    """Return a bundle whose graph is a model without a graph."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    (folder / ENCODER_ONNX).write_bytes(onnx_format.ModelProto(ir_version=9).SerializeToString())
    hashes = tiny_bundle.model.sha256 | {ENCODER_ONNX: sha256_of(folder / ENCODER_ONNX)}
    model = tiny_bundle.model.model_copy(update={"sha256": hashes})
    (folder / "manifest.json").write_text(model.model_dump_json())
    return load_manifest(folder)


def test_graph_that_is_none_is_refused(unreadable):
    """A file that ONNX Runtime cannot read is an error of the bundle."""
    with pytest.raises(ManifestError, match=r"cannot read encoder\.onnx"):
        encoder_of(unreadable, "all")


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
def test_graph_that_cuda_does_not_take_is_a_reason(unreadable, monkeypatch):
    """On a GPU every refusal of ONNX Runtime's lets the next device be tried."""
    monkeypatch.setattr(onnx, "check_cuda", lambda _: None)
    with pytest.raises(EngineError, match=r"CUDA does not take encoder\.onnx: "):
        OnnxGraph(unreadable, device="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
def test_auto_continues_when_cuda_refuses(tiny_bundle, unreadable, monkeypatch):
    """The CPU is taken, and the reason why not CUDA is kept."""
    monkeypatch.setattr(onnx, "check_cuda", lambda _: None)

    def load(device):
        graph = OnnxGraph(unreadable, device="cuda") if device == "cuda" else OnnxGraph(tiny_bundle)
        return WindowEncoder(tiny_bundle, [tiny_bundle.population.select("all")], graph)

    reasons: list[str] = []
    assert take_first(load, reasons, obstacles={"cuda": lambda: None}).device.startswith("CPU")
    assert reasons[0].startswith("CUDA does not take encoder.onnx")


def test_run_that_a_gpu_refuses_is_one_sentence(tiny_bundle):
    """An error of ONNX Runtime while it encodes lets another device be tried."""
    graph = OnnxGraph(tiny_bundle)
    wrong = np.zeros((1, 3, 12), np.float32)
    with (
        pytest.raises(EngineError, match=r"^CUDA did not encode: .*INVALID_ARGUMENT"),
        cuda_errors("CUDA did not encode"),
    ):
        graph.run(wrong, np.ones((1, 12), np.float32))


def test_missing_runtime_says_what_to_install(tiny_bundle, monkeypatch):
    """Without ONNX Runtime the error names the extra."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"neurrate\[cpu\]"):
        encoder_of(tiny_bundle, "all")


def test_gpu_asked_of_a_build_without_one(tiny_bundle):
    """ONNX Runtime's CPU build has no CUDA provider; the error lists what it has."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has a CUDA provider")
    with pytest.raises(DependencyError, match=r"no CUDA provider, it offers .*neurrate\[gpu\]"):
        encoder_of(tiny_bundle, "all", device="cuda")


class SlowGraph:
    """Takes so long for each row, and remembers how many rows there were."""

    device = "CPU"

    def __init__(self, shape: tuple[int, int], row_s: float) -> None:
        self.n_rows: list[int] = []
        self._shape, self._row_s = shape, row_s

    def run(self, counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        self.n_rows.append(len(counts))
        time.sleep(self._row_s * len(counts))
        return np.zeros((len(counts), *self._shape), np.float32)


def slow_encoder(manifest, n_populations, row_s):
    graph = SlowGraph((manifest.patch_grid.n_patches, manifest.patch_grid.dim), 0)
    selections = [manifest.population.select(f"p{row}", "all") for row in range(n_populations)]
    encoder = WindowEncoder(manifest, selections, graph)
    graph.n_rows.clear()
    graph._row_s = row_s
    return encoder, graph


def test_time_of_a_window_is_the_median_of_warm_runs(tiny_bundle):
    """A few runs of a whole window, after shorter ones; no populations take no time."""
    encoder, graph = slow_encoder(tiny_bundle, 70, 1e-4)
    assert 0.007 <= encoder.time_window(5.0) < 0.5
    assert graph.n_rows == [1, 2, 4, 8, 16, 32, 64] + 5 * [64, 6]
    assert slow_encoder(tiny_bundle, 0, 1)[0].time_window(1.0) == 0


def test_time_of_a_window_that_is_too_long_is_scaled_up(tiny_bundle):
    """Within the budget, from as many populations as it allows."""
    encoder, graph = slow_encoder(tiny_bundle, 1000, 0.02)
    began_s = time.monotonic()
    assert encoder.time_window(0.2) == pytest.approx(20, rel=0.5)
    assert time.monotonic() - began_s < 1
    assert max(graph.n_rows) <= 4
