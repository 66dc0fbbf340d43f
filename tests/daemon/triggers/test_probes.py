"""The daemon's probes: the probabilities that training calibrated, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from contracts.errors import ManifestError
from contracts.manifest import Manifest, load_manifest, sha256_of, write_manifest
from daemon.triggers.probes import PopulationProbes, load_probes
from encoder_training.probes.probe_files import FittedProbes as TrainedProbes
from encoder_training.probes.probe_files import save_probes
from tests.support.tiny_bundle import TINY_GRID, write_stub_bundle
from tests.support.triggers import concept_probes, huge, probes_that_cancel, seen, write_probes

RNG = np.random.default_rng(3)


def _with_file(folder: Path) -> Manifest:
    """List ``probes.safetensors`` in a bundle's manifest."""
    manifest = load_manifest(folder, check_hashes=False)
    name = "probes.safetensors"
    hashes = {**manifest.model.sha256, name: sha256_of(folder / name)}
    write_manifest(folder, manifest.model.model_copy(update={"sha256": hashes}))
    return load_manifest(folder)


def _trained(populations: tuple[str, ...] = ("all", "area:VISp", "cell_type:PV")) -> TrainedProbes:
    n, dim, shape = 4, TINY_GRID.dim, (len(populations), 4)
    return TrainedProbes(
        ("car", "dark", "dog", "tree"),
        populations,
        RNG.normal(size=(n, dim)).astype(np.float32),
        RNG.normal(size=n).astype(np.float32),
        RNG.uniform(0.5, 2, shape).astype(np.float32),
        RNG.normal(size=shape).astype(np.float32),
        np.full(shape, 0.9, np.float32),
    )


def test_probabilities_are_those_of_training(tmp_path: Path):
    """Files written by training give the same numbers here, through each calibration."""
    write_stub_bundle(tmp_path / "bundle")
    trained = _trained()
    save_probes(trained, tmp_path / "bundle")
    probes = load_probes(_with_file(tmp_path / "bundle"))
    assert probes is not None
    expressions = {"all": "all", "V1": "area:VISp", "PV": "PV", "one": "unit:950901"}
    found = PopulationProbes(probes, expressions)
    assert found.calibrations == {
        "all": "all",
        "V1": "area:VISp",
        "PV": "cell_type:PV",
        "one": "all",
    }
    embeddings = seen(0, 0.5, tuple(expressions))
    for embedding in embeddings:
        embedding.patches[:] = RNG.normal(size=embedding.patches.shape)
    probability = found.probabilities(embeddings)
    for embedding in embeddings:
        mean = embedding.patches.mean(axis=0, keepdims=True)
        name = found.calibrations[embedding.population]
        np.testing.assert_allclose(
            probability[embedding.population], trained.probability(mean, name)[0], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("expression", "calibration"),
    [
        ("all", "all"),
        ("area:VISp", "area:VISp"),
        ("VISp", "area:VISp"),
        ('area:"VISp"', "area:VISp"),
        ('"VISp"', "area:VISp"),
        ('"VISp"|PV', "all"),
        ('"a, b"', "area:a, b"),
        ("area:a, b", "area:a, b"),
        ('area:"a, b"', "area:a, b"),
        ("PV", "cell_type:PV"),
        ("probe:probeA", "all"),
        ("shuffled", "all"),
        ("silent", "all"),
        ("ids:1|2", "all"),
    ],
)
def test_whose_calibration_is_taken(expression: str, calibration: str):
    """A population without a calibration of its own takes that of all units."""
    probes = concept_probes(("all", "area:VISp", "cell_type:PV", "area:a, b"))
    assert probes.calibration_of(expression) == calibration


def test_only_what_is_asked_for_is_computed():
    """Populations that no rule names are passed over, and so is one that is not in the window."""
    found = PopulationProbes(concept_probes(), {"b": "all", "gone": "all"})
    assert list(found.probabilities(seen(0, 0.7, ("a", "b")))) == ["b"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none_give_none(bad: float):
    """An encoder that overflows gives NaN or an end of the scale, without a warning."""
    embeddings = seen(0, 0.7)
    embeddings[0].patches[0, 0] = bad
    probability = PopulationProbes(concept_probes(), {"all": "all"}).probabilities(embeddings)[
        "all"
    ]
    assert np.isnan(probability).all() or np.isfinite(probability).all()
    assert np.isnan(probability).all() == (not np.isfinite(bad))


def test_a_concept_that_is_no_number_takes_the_others_along():
    """Where finite numbers overflow in one concept, none of the population is to be trusted."""
    probability = PopulationProbes(probes_that_cancel(), {"all": "all"}).probabilities(huge())
    assert np.isnan(probability["all"]).all()


def test_a_bundle_without_probes_has_none(stub_bundle: Manifest):
    """It is no mistake: rules on narrations need none."""
    assert load_probes(stub_bundle) is None


def _write(folder: Path, **changes: object) -> None:
    probes = concept_probes(("all",))
    tensors = {name: getattr(probes, name) for name in ("weight", "bias", "scale", "offset")}
    tensors |= {name: value for name, value in changes.items() if name in tensors}
    header = {"version": 1, "concepts": probes.concepts, "populations": probes.populations}
    header |= {name: value for name, value in changes.items() if name in header}
    save_file(tensors, folder / "probes.safetensors", metadata={"probes": json.dumps(header)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": np.zeros((3, 5), np.float32)}, r"weight must be float32 of shape \(3, 64\)"),
        ({"bias": np.zeros(3)}, "bias must be float32"),
        ({"scale": np.full((1, 3), np.nan, np.float32)}, "scale must be finite"),
        ({"populations": ["VISp"]}, "a calibration for the population 'all'"),
        ({"version": 2}, "of version 2, this build reads 1"),
        ({"concepts": 5}, "does not hold concept probes"),
        ({"concepts": [1, 2, 3]}, r"concepts must be a list of names, got \[1, 2, 3\]"),
        ({"concepts": "car"}, "concepts must be a list of names, got 'car'"),
        ({"concepts": ["car", "", "dog"]}, "concepts must be a list of names"),
        ({"concepts": ["car", "car", "dog"]}, "concepts must differ, got car more than once"),
        ({"populations": {"all": 1}}, "populations must be a list of names"),
        ({"populations": ["all", "all"]}, "populations must differ, got all more than once"),
    ],
)
def test_a_wrong_file_is_said(tmp_path: Path, changes: dict[str, object], said: str):
    """Shapes, numbers, names and versions are checked before the first spike."""
    write_stub_bundle(tmp_path / "bundle")
    _write(tmp_path / "bundle", **changes)
    with pytest.raises(ManifestError, match=said):
        load_probes(_with_file(tmp_path / "bundle"))


def test_a_header_that_nests_too_deep_is_said(tmp_path: Path):
    """JSON that no parser follows is no header."""
    write_stub_bundle(tmp_path / "bundle")
    deep = {"probes": "[" * 100_000}
    save_file({}, tmp_path / "bundle" / "probes.safetensors", metadata=deep)
    with pytest.raises(ManifestError, match="does not hold concept probes: RecursionError"):
        load_probes(_with_file(tmp_path / "bundle"))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08" + bytes(7) + b"{}      "])
def test_a_file_of_something_else_is_said(tmp_path: Path, content: bytes):
    """Bytes that are no safetensors file give a sentence."""
    write_stub_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "probes.safetensors").write_bytes(content)
    with pytest.raises(ManifestError, match="does not hold concept probes"):
        load_probes(_with_file(tmp_path / "bundle"))


def test_the_support_writes_what_the_daemon_reads(tmp_path: Path):
    """The probes that other tests write are read back."""
    write_stub_bundle(tmp_path / "bundle")
    write_probes(tmp_path / "bundle", concept_probes())
    probes = load_probes(_with_file(tmp_path / "bundle"))
    assert probes is not None
    assert probes.concepts == concept_probes().concepts
