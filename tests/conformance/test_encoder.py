"""What every Encoder must do. To check a new device, add its graph to `GRAPHS`."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.protocol import Encoder
from daemon.encoders.tensorrt import TensorrtGraph
from daemon.encoders.window_encoder import WindowEncoder
from tests.support.gpu import find_gpu_or_skip
from tests.support.tiny_bundle import tiny_windows

GRAPHS = {
    "onnx on a CPU": pytest.param(OnnxGraph),
    "onnx on a GPU": pytest.param(partial(OnnxGraph, device="cuda"), marks=pytest.mark.gpu),
    "tensorrt": pytest.param(TensorrtGraph, marks=pytest.mark.gpu),
}
NAMES = ("all", "VISp", "cell_type:PV", "shuffled", "silent")


@pytest.fixture(params=list(GRAPHS.values()), ids=list(GRAPHS))
def encoder(request, tiny_bundle) -> Encoder:
    """Return one implementation with five selections."""
    if request.node.get_closest_marker("gpu"):
        find_gpu_or_skip()
    selections = [tiny_bundle.population.select(name) for name in NAMES]
    return WindowEncoder(tiny_bundle, selections, request.param(tiny_bundle))


def test_describes_itself(encoder, tiny_bundle):
    """Bundle, selections and device can be shown."""
    assert encoder.manifest is tiny_bundle
    assert [selection.name for selection in encoder.selections] == list(NAMES)
    assert encoder.device


def test_order_is_window_by_window(encoder):
    """Each window goes through every selection before the next window."""
    windows = tiny_windows(3)
    embeddings = encoder.encode(windows)
    assert [(embedding.window.seq, embedding.population) for embedding in embeddings] == [
        (window.seq, name) for window in windows for name in NAMES
    ]
    assert all(one.window is windows[row // 5] for row, one in enumerate(embeddings))


def test_patches_are_numbers_of_the_right_shape(encoder):
    """A grid of float32, all finite, with the number of selected units."""
    for embedding in encoder.encode(tiny_windows(2)):
        assert embedding.grid == encoder.manifest.patch_grid
        assert embedding.patches.dtype == np.float32
        assert np.isfinite(embedding.patches).all()
    assert [embedding.n_units for embedding in encoder.encode(tiny_windows(1))] == [12, 4, 3, 12, 0]


def test_no_window_no_embedding(encoder):
    """Nothing in, nothing out."""
    assert list(encoder.encode([])) == []


def test_stamp_is_taken_after_the_work(encoder):
    """The host stamp is between the call and its return."""
    before = time.monotonic_ns()
    embeddings = encoder.encode(tiny_windows(1))
    after = time.monotonic_ns()
    assert all(before <= embedding.encoded_host_ns <= after for embedding in embeddings)


def test_same_windows_same_patches(encoder):
    """Encoding is repeatable to the bit and leaves the counts alone."""
    windows = tiny_windows(2)
    counts = [window.counts.copy() for window in windows]
    first, second = encoder.encode(windows), encoder.encode(windows)
    pairs = zip(first, second, strict=True)
    assert all(np.array_equal(one.patches, two.patches) for one, two in pairs)
    assert all(np.array_equal(w.counts, c) for w, c in zip(windows, counts, strict=True))
