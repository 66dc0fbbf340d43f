"""The features that stand out in a decoding: which, how high, and which files are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from contracts.errors import UserError
from contracts.feature_file import FeatureEncoder
from contracts.manifest import PatchGridModel
from contracts.narration import MAX_FEATURES
from daemon.narrators.auto import load_narrator
from daemon.narrators.features import LEAST_Z, load_features
from daemon.narrators.protocol import narrate
from daemon.service.settings import NarratorSettings
from tests.support.daemon_components import embeddings_of
from tests.support.feature_files import (
    NAMES,
    SCALE,
    UNIQUE_TO,
    K,
    autoencoder_of,
    feature_arrays,
    write_feature_file,
)
from tests.support.tiny_bundle import TINY_GRID, tiny_windows


@pytest.fixture
def embeddings():
    """Return four grids of random patches."""
    rng = np.random.default_rng(5)
    shape = (TINY_GRID.n_patches, TINY_GRID.dim)
    return [
        replace(embeddings_of(window)[0], patches=rng.normal(size=shape).astype(np.float32))
        for window in tiny_windows(4)
    ]


def z_of(manifest, embedding):
    """Return the height of every feature, by the code of the evaluation."""
    arrays = feature_arrays(manifest)
    (codes,) = autoencoder_of(arrays).mean_codes(embedding.patches[np.newaxis])
    return (codes - arrays["reference_mean"]) / arrays["reference_std"]


def test_codes_are_those_of_the_autoencoder(stub_bundle, embeddings):
    """Without torch, the mean codes are equal to rounding."""
    arrays = feature_arrays(stub_bundle)
    encoder = FeatureEncoder(K, SCALE, arrays["mean"], arrays["encoder"], arrays["bias"])
    true = autoencoder_of(arrays).mean_codes(np.stack([one.patches for one in embeddings]))
    assert (true > 0).any(axis=1).all()
    for embedding, codes in zip(embeddings, true, strict=True):
        assert encoder.mean_codes(embedding.patches) == pytest.approx(codes, rel=1e-4, abs=1e-6)


def test_the_highest_are_named_each_name_once(stub_bundle, embeddings, tmp_path):
    """At most three that stand out, the largest first; two features of a name are one."""
    namer = load_features(write_feature_file(tmp_path / "f", stub_bundle), stub_bundle, "all")
    n_double = 0
    for embedding in embeddings:
        named, z = namer.of(embedding), z_of(stub_bundle, embedding)
        above = [at for at in np.argsort(-z).tolist() if z[at] >= LEAST_Z]
        n_double += {0, 3} <= set(above)
        expected = list(dict.fromkeys(NAMES[at] for at in above))[:MAX_FEATURES]
        assert [one.name for one in named] == expected
        for one in named:
            assert NAMES[one.feature] == one.name
            assert one.z == pytest.approx(z[one.feature], abs=1e-3)
    assert n_double


def test_unique_features_alone(stub_bundle, embeddings, tmp_path):
    """Of the set unique, one that is nobody's own is not named, however high."""
    path = write_feature_file(tmp_path / "f", stub_bundle)
    namer = load_features(path, stub_bundle, "unique")
    named = [one for embedding in embeddings for one in namer.of(embedding)]
    assert named
    assert all(UNIQUE_TO[one.feature] for one in named)


def test_dead_features_and_what_is_not_finite_are_not_named(stub_bundle, embeddings, tmp_path):
    """A feature that no training frame has stands out of nothing; NaN is above nothing."""
    spread = feature_arrays(stub_bundle)["reference_std"]
    spread[:] = 0
    path = write_feature_file(tmp_path / "f", stub_bundle, arrays={"reference_std": spread})
    assert load_features(path, stub_bundle, "all").of(embeddings[0]) == ()
    namer = load_features(write_feature_file(path, stub_bundle), stub_bundle, "all")
    broken = replace(embeddings[0], patches=np.full_like(embeddings[0].patches, np.nan))
    assert namer.of(broken) == ()


def test_a_narrator_adds_them_to_its_utterances(stub_bundle, embeddings, tmp_path):
    """Of any back-end, in the order of the embeddings; without the setting there are none."""
    path = write_feature_file(tmp_path / "f", stub_bundle)
    settings = NarratorSettings(backend="retrieval", features=path, feature_set="all")
    said = narrate(load_narrator(settings, stub_bundle), embeddings)
    namer = load_features(path, stub_bundle, "all")
    assert [one.features for one in said] == [namer.of(embedding) for embedding in embeddings]
    plain = load_narrator(NarratorSettings(backend="retrieval"), stub_bundle)
    assert [one.features for one in narrate(plain, embeddings)] == [None] * 4
    assert [one.text for one in narrate(plain, embeddings)] == [one.text for one in said]


def _other_model(manifest):
    return manifest.model.language_model.model_copy(update={"model_id": "somewhere/other-7b"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda m: {"language_model": _other_model(m)}, "patches of somewhere/other-7b"),
        (
            lambda m: {
                "language_model": m.model.language_model.model_copy(update={"feature_layer": -3})
            },
            "layer -3",
        ),
        (
            lambda _: {"patch_grid": PatchGridModel(rows=24, cols=24, dim=1024)},
            "24 x 24 of 1024 numbers, and the bundle's 8 x 8 of 64",
        ),
        (lambda _: {"version": 2}, "its version is 2, this build reads 1"),
        (lambda _: {"arrays": {"bias": np.full(6, np.nan, np.float32)}}, "bias must be finite"),
        (lambda _: {"arrays": {"mean": np.zeros((3, 64), np.float32)}}, "mean must be"),
        (lambda _: {"unique_to": [[]] * 6}, "narrator.feature_set to all"),
        (lambda _: {"unique_to": [["a"]] * 5}, "its 6 features"),
    ],
)
def test_a_file_of_other_patches_is_refused(stub_bundle, tmp_path, changes, said):
    """Another language model, layer or grid, and tensors that do not fit, before a model loads."""
    path = write_feature_file(tmp_path / "f", stub_bundle, **changes(stub_bundle))
    settings = NarratorSettings(backend="llava", model="not/there", features=path)
    with pytest.raises(UserError, match=f"narrator.features, .*{said}"):
        load_narrator(settings, stub_bundle)


def test_the_same_model_in_another_folder_is_taken(stub_bundle, tmp_path):
    """A model is known by its name, wherever it lies."""
    name = stub_bundle.model.language_model.model_id.rsplit("/", 1)[-1]
    model = _other_model(stub_bundle).model_copy(update={"model_id": f"/elsewhere/{name}"})
    path = write_feature_file(tmp_path / "f", stub_bundle, language_model=model)
    assert load_features(path, stub_bundle, "unique")


@pytest.mark.parametrize("content", [None, b"", b"no features", b"\x80\x04pickle"])
def test_what_is_no_such_file_is_refused(stub_bundle, tmp_path, content):
    """Missing, empty, or of another kind."""
    path = tmp_path / "sparse-features.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as one"):
        load_features(path, stub_bundle, "all")


def test_tensors_that_numpy_does_not_have_are_refused(stub_bundle, tmp_path):
    """As bfloat16 of torch; once a package has taught it to numpy, by its type."""
    path = tmp_path / "f"
    arrays = {name: torch.from_numpy(of) for name, of in feature_arrays(stub_bundle).items()}
    with safe_open(write_feature_file(path, stub_bundle), framework="np") as opened:
        metadata = opened.metadata()
    save_file({name: of.bfloat16() for name, of in arrays.items()}, path, metadata=metadata)
    with pytest.raises(UserError, match=r"cannot be read as one|got bfloat16"):
        load_features(path, stub_bundle, "all")
