"""Nearest training frames, and the narrator that says their captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from contracts.embedding import PatchEmbedding
from contracts.errors import ManifestError, UserError
from contracts.manifest import CAPTIONS, EVIDENCE, load_manifest, sha256_of
from contracts.narration import Status
from daemon.narrators.auto import load_narrator
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.protocol import narrate
from daemon.narrators.retrieval import RetrievalNarrator
from daemon.service.settings import NarratorSettings
from tests.support.tiny_bundle import CAPTIONS as SENTENCES
from tests.support.tiny_bundle import TINY_GRID, tiny_windows, write_stub_bundle


def embedding_towards(axis, *, scale=1.0):
    """Return patches whose mean points along one axis, around which they scatter."""
    patches = np.random.default_rng(axis).normal(0, 0.1, (TINY_GRID.n_patches, TINY_GRID.dim))
    patches -= patches.mean(axis=0)
    patches[:, axis] += scale
    (window,) = tiny_windows(1)
    return PatchEmbedding(window, "all", 12, TINY_GRID, patches.astype(np.float32))


def finder_of(manifest):
    finder = EvidenceFinder.from_bundle(manifest)
    assert finder is not None
    return finder


def rewritten(manifest, name, write):
    """Change one file of a bundle, and its hash, as another program might have written it."""
    path = manifest.folder / name
    write(path)
    hashes = {each: sha256_of(manifest.folder / each) for each in manifest.model.sha256}
    model = manifest.model.model_copy(update={"sha256": hashes})
    (manifest.folder / "manifest.json").write_text(json.dumps(model.model_dump()))
    return load_manifest(manifest.folder)


def test_nearest_by_cosine_of_the_mean(stub_bundle):
    """The direction of the mean patch decides, not its length."""
    finder = finder_of(stub_bundle)
    found = finder.nearest([embedding_towards(2), embedding_towards(0, scale=30)])
    assert [each.frame for each in found] == ["2", "0"]
    assert [each.caption for each in found] == [SENTENCES[2], SENTENCES[0]]
    assert [each.cosine for each in found] == pytest.approx([1, 1], abs=1e-4)


def test_cosine_of_nothing_is_zero(stub_bundle):
    """Patches without a direction are near to nothing."""
    finder = finder_of(stub_bundle)
    zeros = embedding_towards(1)
    zeros.patches[:] = 0
    assert finder.nearest([zeros])[0].cosine == 0


def test_bundle_without_captions_has_no_finder(tmp_path):
    """A bundle may come without captioned frames."""
    assert EvidenceFinder.from_bundle(write_stub_bundle(tmp_path / "bundle")) is None


def test_half_precision_vectors_are_read(tmp_path):
    """Mean patches may be stored as float16."""
    manifest = write_stub_bundle(tmp_path / "bundle", references=SENTENCES)
    rows = np.eye(3, TINY_GRID.dim, dtype=np.float16)
    manifest = rewritten(manifest, EVIDENCE, lambda path: save_file({"mean_patches": rows}, path))
    finder = finder_of(manifest)
    assert finder.nearest([embedding_towards(1)])[0].frame == "1"


def test_caption_may_hold_any_character(tmp_path):
    """A line ends at a newline and at nothing that merely looks like one."""
    odd = ["A car\u2028stops.", "Zürich at night."]
    manifest = write_stub_bundle(tmp_path / "bundle", references=odd)
    text = "".join(
        json.dumps({"frame": str(i), "caption": c}, ensure_ascii=False) + "\n"
        for i, c in enumerate(odd)
    )
    manifest = rewritten(manifest, CAPTIONS, lambda path: path.write_text(text, "utf-8"))
    found = finder_of(manifest).nearest([embedding_towards(0)])
    assert found[0].caption == odd[0]


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (CAPTIONS, lambda path: path.write_text("{"), "cannot be read"),
        (CAPTIONS, lambda path: path.write_text('{"frame": "1"}\n'), "cannot be read"),
        (CAPTIONS, lambda path: path.write_text('{"frame": "1", "caption": ""}\n'), r"\(1, 64\)"),
        (EVIDENCE, lambda path: path.write_bytes(b"cut"), "cannot be read"),
        (EVIDENCE, lambda path: save_file({"other": np.zeros(1)}, path), "cannot be read"),
        (
            EVIDENCE,
            lambda path: save_file({"mean_patches": np.zeros((3, 65))}, path),
            r"\(3, 64\).*\(3, 65\)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, name, write, message):
    """Captions and vectors that cannot be read, or not together, are the bundle's fault."""
    manifest = write_stub_bundle(tmp_path / "bundle", references=SENTENCES)
    with pytest.raises(ManifestError, match=message):
        EvidenceFinder.from_bundle(rewritten(manifest, name, write))


def test_one_file_alone_is_refused(tmp_path):
    """Captions without vectors are of no use."""
    manifest = write_stub_bundle(tmp_path / "bundle", references=SENTENCES)
    del manifest.model.sha256[EVIDENCE]
    with pytest.raises(ManifestError, match="belong together"):
        EvidenceFinder.from_bundle(manifest)


def test_retrieval_says_the_caption(stub_bundle):
    """The text is the nearest frame's caption, and the evidence says which frame."""
    (said,) = narrate(RetrievalNarrator(stub_bundle), [embedding_towards(1)])
    assert said.text == SENTENCES[1]
    assert said.status == Status.OK
    assert said.evidence is not None
    assert said.evidence.frame == "1"
    assert (said.n_tokens, said.mean_logprob) == (0, None)


def test_retrieval_needs_captions(tmp_path):
    """Without captioned frames there is nothing to say, and the error says how to go on."""
    with pytest.raises(UserError, match="Export it with captions"):
        RetrievalNarrator(write_stub_bundle(tmp_path / "bundle"))


def test_back_end_is_chosen_by_name(stub_bundle, tiny_llava):
    """Settings name a back-end."""
    retrieval = NarratorSettings(backend="retrieval")
    assert isinstance(load_narrator(retrieval, stub_bundle), RetrievalNarrator)
    llava = NarratorSettings(backend="llava", model=str(tiny_llava), device="cpu")
    assert isinstance(load_narrator(llava, stub_bundle), LlavaNarrator)
