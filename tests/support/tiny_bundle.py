"""A bundle and a LLaVA small enough to be made in a test, and windows to feed them.

The fixtures are for every test, the functions for tests that need another bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.manifest import Manifest, load_manifest
from contracts.population import Population, Unit
from contracts.window import Window, WindowSpec
from tests.support.once import made_once

TINY_GRID = PatchGrid(rows=8, cols=8, dim=64)
TINY_SPEC = WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=10, lag_ns=50_000_000)
CAPTIONS = ("A car drives towards the camera.", "A dog sits under a tree.", "The street is dark.")


REFERENCE_SEED = 199
"""With it each caption is the nearest one of at least a tenth of random windows: texts change."""


def tiny_population(n_units: int = 12) -> Population:
    """Return units in VISp, LGd and CA1 in turn, on two probes, some of them PV or SST."""
    return Population(
        [
            Unit(
                unit_id=str(950900 + row),
                probe="probeA" if row < n_units // 2 else "probeB",
                area=("VISp", "LGd", "CA1")[row % 3],
                cell_type=("", "PV", "", "SST")[row % 4],
                quality="good",
            )
            for row in range(n_units)
        ]
    )


def tiny_scaling(n_units: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a mean and a standard deviation for each unit, spikes per bin, all different."""
    mean = np.linspace(0.05, 0.6, n_units)
    return mean, np.sqrt(mean)


@contextmanager
def shallow_encoders() -> Iterator[None]:
    """Let a tiny encoder have every kind of layer once: the exporter takes a time for each."""
    from encoder_training.model import EncoderSpec

    tiny = EncoderSpec.tiny

    def shallow(n_units: int, grid: PatchGrid) -> EncoderSpec:
        return replace(tiny(n_units, grid), kernels=(3,), time_layers=1, patch_layers=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncoderSpec, "tiny", staticmethod(shallow))
        yield


@shallow_encoders()
def make_tiny_bundle(
    out: Path, *, seed: int = 0, n_units: int = 12, with_references: bool = True
) -> Manifest:
    """Export random weights for `tiny_population`; seconds, most of them in the exporter."""
    from encoder_export.bundle import ReferenceFrame
    from encoder_export.random_bundle import make_random_bundle

    mean, std = tiny_scaling(n_units)
    rng = np.random.default_rng(seed + REFERENCE_SEED)
    references = [
        ReferenceFrame(str(frame), caption, rng.normal(size=TINY_GRID.dim).astype(np.float32))
        for frame, caption in enumerate(CAPTIONS)
    ]
    return make_random_bundle(
        out,
        population=tiny_population(n_units),
        unit_mean=mean,
        unit_std=std,
        window=TINY_SPEC,
        grid=TINY_GRID,
        language_model_id="tiny-llava",
        recording_label="tests",
        command="tests/support/tiny_bundle.py",
        seed=seed,
        references=references if with_references else (),
    )


def tiny_windows(n: int, *, seed: int = 0, n_units: int = 12) -> list[Window]:
    """Return consecutive windows of Poisson counts."""
    rng = np.random.default_rng(seed)
    rate = tiny_scaling(n_units)[0]
    return [
        Window(
            spec=TINY_SPEC,
            first_bin=each * TINY_SPEC.stride_bins,
            counts=rng.poisson(rate, (TINY_SPEC.n_bins, n_units)).astype(np.uint16),
        )
        for each in range(n)
    ]


def write_stub_bundle(folder: Path, *, references: Sequence[str] = ()) -> Manifest:
    """Write a bundle whose graph is no graph, in no time: for narrators, which do not open it."""
    import json

    from safetensors.numpy import save_file

    from contracts.manifest import (
        MANIFEST_VERSION,
        LanguageModel,
        ManifestModel,
        PatchGridModel,
        TrainingData,
        UnitModel,
        WindowModel,
        sha256_of,
        write_manifest,
    )

    folder.mkdir(parents=True)
    (folder / "encoder.onnx").write_bytes(b"not a graph")
    if references:
        lines = [json.dumps({"frame": str(i), "caption": c}) for i, c in enumerate(references)]
        (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
        rows = np.eye(len(references), TINY_GRID.dim, dtype=np.float32)
        save_file({"mean_patches": rows}, folder / "evidence.safetensors")
    model = ManifestModel(
        format_version=MANIFEST_VERSION,
        window=WindowModel(bin_rate_num=120, n_bins=20, stride_bins=10),
        population=[UnitModel(unit_id=unit.unit_id) for unit in tiny_population().units],
        unit_mean=[0.1] * 12,
        unit_std=[0.3] * 12,
        patch_grid=PatchGridModel(rows=8, cols=8, dim=64),
        language_model=LanguageModel(model_id="tiny-llava"),
        training_data=TrainingData(recording="tests"),
        trained=False,
        sha256={path.name: sha256_of(path) for path in folder.iterdir()},
        command="tests/support/tiny_bundle.py",
    )
    write_manifest(folder, model)
    return load_manifest(folder)


@pytest.fixture
def shallow() -> Iterator[None]:
    """Keep tiny encoders shallow in a test that exports one."""
    with shallow_encoders():
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return a bundle of random weights with captioned frames."""
    return load_manifest(made_once(tmp_path_factory, "tiny_bundle", make_tiny_bundle))


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a LLaVA of random weights that fits `tiny_bundle`."""

    def make(folder: Path) -> None:
        from simulation.tiny_llava import write_random_llava

        write_random_llava(folder)

    return made_once(tmp_path_factory, "tiny_llava", make)


@pytest.fixture(scope="session")
def stub_bundle(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return a bundle for narrators: captioned frames, and a graph that is none."""
    return write_stub_bundle(tmp_path_factory.mktemp("stub") / "bundle", references=CAPTIONS)
