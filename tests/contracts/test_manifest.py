"""The bundle: written, read back, and every problem in one error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import ManifestError
from contracts.manifest import (
    ENCODER_ONNX,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestModel,
    load_manifest,
    sha256_of,
    write_manifest,
)

GRAPH = b"not a graph"


def _fields() -> dict[str, Any]:
    return {
        "format_version": MANIFEST_VERSION,
        "window": {"bin_rate_num": 120, "n_bins": 20, "stride_bins": 10, "lag_ns": 50_000_000},
        "population": [{"unit_id": "1", "area": "VISp"}, {"unit_id": "2", "probe": "probeA"}],
        "unit_mean": [0.25, 0.5],
        "unit_std": [0.5, 1.0],
        "patch_grid": {"rows": 2, "cols": 3, "dim": 4},
        "language_model": {"model_id": "tiny-llava"},
        "training_data": {"recording": "tests"},
        "trained": False,
        "sha256": {ENCODER_ONNX: hashlib.sha256(GRAPH).hexdigest()},
        "command": "tests",
    }


def _bundle(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """Write a bundle whose manifest is wrong in one way, or sound."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENCODER_ONNX).write_bytes(GRAPH)
    fields = _fields()
    if change:
        change(fields)
    (folder / MANIFEST_NAME).write_text(json.dumps(fields))
    return folder


def _problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(folder)
    assert caught.value.path == str(folder)
    assert str(caught.value).startswith(f"bundle {folder}: ")
    return caught.value.problems


def test_sound_bundle_is_read(tmp_path):
    """What stands in the file is what the daemon sees, in its own types."""
    folder = _bundle(tmp_path / "bundle")
    manifest = load_manifest(folder)
    assert manifest.window_spec.rate.num == 120
    assert manifest.window_spec.lag_ns == 50_000_000
    assert [unit.key for unit in manifest.population.units] == [("", "1"), ("probeA", "2")]
    assert manifest.unit_mean.tolist() == [0.25, 0.5]
    assert manifest.unit_std.dtype == np.float32
    assert manifest.patch_grid.n_patches == 6
    assert manifest.sha256 == sha256_of(folder / MANIFEST_NAME)
    assert manifest.file(ENCODER_ONNX) == folder / ENCODER_ONNX
    assert manifest.file("captions.jsonl") is None


def test_written_manifest_is_read_back(tmp_path):
    """`write_manifest` leaves one whole file and no other."""
    (tmp_path / ENCODER_ONNX).write_bytes(GRAPH)
    model = ManifestModel.model_validate({**_fields(), "command": "séance ✓"})
    write_manifest(tmp_path, model)
    read: Manifest = load_manifest(tmp_path)
    assert read.model == model
    assert sorted(path.name for path in tmp_path.iterdir()) == [ENCODER_ONNX, MANIFEST_NAME]


def test_no_folder_and_no_manifest(tmp_path):
    """A folder that is not there, and one that is no bundle, say so."""
    assert _problems(tmp_path / "none") == ("there is no such folder",)
    assert _problems(tmp_path) == ("it has no manifest.json; is it a bundle?",)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no UTF-8", "too deep"]
)
def test_not_json(tmp_path, text):
    """Anything but JSON is one problem, however it fails."""
    (tmp_path / MANIFEST_NAME).write_bytes(text)
    (problem,) = _problems(tmp_path)
    assert problem.startswith("manifest.json is not JSON: ")


def test_not_an_object(tmp_path):
    """JSON of another kind is named."""
    (tmp_path / MANIFEST_NAME).write_text("[1]")
    assert _problems(tmp_path) == ("manifest.json must be a JSON object, got list",)


def test_too_large(tmp_path):
    """A file beyond any real bundle's is not read."""
    with (tmp_path / MANIFEST_NAME).open("wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    assert _problems(tmp_path) == ("manifest.json is larger than 67108864 B",)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_version(tmp_path, version):
    """Another version is the only problem told: the other fields may mean something else."""

    def change(fields: dict[str, Any]) -> None:
        fields.update(format_version=version, window="?")

    (problem,) = _problems(_bundle(tmp_path, change))
    assert problem == f"format_version is {version!r}, this build reads 1; export the encoder again"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.update(colour="red"), "colour: Extra inputs are not permitted, got 'red'"),
        (lambda f: f["window"].update(hz=3), "window.hz: Extra inputs are not permitted, got 3"),
        (lambda f: f.pop("command"), "command: Field required"),
        (lambda f: f["window"].update(n_bins=0), "window.n_bins: Input should be greater than"),
        (lambda f: f.update(unit_std=[0.0, 1.0]), "unit_std.0: Input should be greater than 0"),
        (lambda f: f.update(unit_mean=[float("nan"), 1.0]), "unit_mean.0: Input should be"),
        (lambda f: f.update(population=[]), "population: List should have at least 1 item"),
        (lambda f: f["patch_grid"].update(dim=0), "patch_grid.dim: Input should be greater than"),
        (lambda f: f["sha256"].update(x="abc"), "sha256.x: String should match pattern"),
        (
            lambda f: f["window"].update(bin_rate_num=50_000, bin_rate_den=50_000),
            "bin_rate_num * bin_rate_den must be at most 2,000,000,000, got 50000 * 50000",
        ),
        (
            lambda f: f["population"].append(f["population"][0]) or
            f.update(unit_mean=[1, 1, 1], unit_std=[1, 1, 1]),
            "each unit_id must be unique within its probe, got 1 more than once",
        ),
    ],
)  # fmt: skip
def test_wrong_field(tmp_path, change, says):
    """Each field that is missing, unknown or out of range is named with what was found."""
    (problem,) = _problems(_bundle(tmp_path, change))
    assert says in problem


def test_lengths_that_do_not_agree(tmp_path):
    """Both scalings are held to the number of units, in one go."""
    (problem,) = _problems(_bundle(tmp_path, lambda f: f.update(unit_mean=[1], unit_std=[1] * 3)))
    assert "unit_mean must have one value for each of 2 units, got 1" in problem
    assert "unit_std must have one value for each of 2 units, got 3" in problem


def test_all_fields_at_once(tmp_path):
    """Every field that is wrong is in the one error."""

    def change(fields: dict[str, Any]) -> None:
        fields["window"].update(n_bins=0, stride_bins=-1)
        fields["colour"] = "red"
        del fields["trained"]

    problems = _problems(_bundle(tmp_path, change))
    assert sorted(problem.partition(":")[0] for problem in problems) == [
        "colour", "trained", "window.n_bins", "window.stride_bins",
    ]  # fmt: skip


def test_all_files_at_once(tmp_path):
    """Files missing, changed, outside and not listed are all in the one error."""
    digest = hashlib.sha256(b"").hexdigest()

    def change(fields: dict[str, Any]) -> None:
        fields["sha256"] = {"gone": digest, "changed": digest, "../out": digest, "/etc/x": digest}

    folder = _bundle(tmp_path / "bundle", change)
    (folder / "changed").write_bytes(b"other")
    (tmp_path / "out").write_bytes(b"")
    assert _problems(folder) == (
        "sha256 must list encoder.onnx",
        "gone is listed and is not there",
        "changed has another sha256 than the manifest says; it was changed or cut",
        "sha256 names '../out', which is outside the bundle",
        "sha256 names '/etc/x', which is outside the bundle",
    )


def test_hashes_are_checked_unless_told_otherwise(tmp_path):
    """Without the hashes, a bundle is known by its files' names alone."""
    folder = _bundle(tmp_path)
    (folder / ENCODER_ONNX).write_bytes(b"changed")
    assert len(_problems(folder)) == 1
    assert load_manifest(folder, check_hashes=False).population
