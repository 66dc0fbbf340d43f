"""docs/bundle-format.md is true: its fields, its files and its limits."""

import re
from pathlib import Path

import pytest

from contracts import manifest
from contracts.binning import MAX_RATE_TERM
from contracts.population import MAX_UNITS
from contracts.window import MAX_WINDOW_BINS
from daemon.encoders.engine_cache import EngineModel

DOCUMENT = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "model",
    [
        manifest.ManifestModel,
        manifest.WindowModel,
        manifest.UnitModel,
        manifest.PatchGridModel,
        manifest.LanguageModel,
        manifest.TrainingData,
    ],
)
def test_every_field_is_described(model):
    """Each field of the manifest, at any depth, is named in the document."""
    for name in model.model_fields:
        assert f"`{name}`" in DOCUMENT


def test_no_field_is_described_that_is_not_there():
    """The first table names the manifest's own fields, in their order, and no others."""
    table = DOCUMENT.partition("| field | type |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert rows == list(manifest.ManifestModel.model_fields)


def test_files_are_those_of_the_code():
    """The table of files is that of the code's names."""
    table = DOCUMENT.partition("| file |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|", table, flags=re.MULTILINE)
    assert rows == [
        manifest.MANIFEST_NAME,
        manifest.ENCODER_ONNX,
        manifest.ENCODER_FLOAT32,
        manifest.ENCODER_WEIGHTS,
        manifest.CAPTIONS,
        manifest.EVIDENCE,
        manifest.PROBES,
        manifest.PROBES_REPORT,
        manifest.CONFIDENCE,
        manifest.CONFIDENCE_ARRAYS,
        manifest.PARITY,
    ]


def test_engines_fields_are_those_of_the_code():
    """What stands beside an engine is described, field by field, and nothing else."""
    table = DOCUMENT.partition("## Engines")[2].partition("| field |")[2].partition("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", "".join(first_cells)) == list(EngineModel.model_fields)


@pytest.mark.parametrize("limit", [MAX_UNITS, MAX_WINDOW_BINS, MAX_RATE_TERM])
def test_limits_are_those_of_the_code(limit):
    """The limits stand in the document as the code has them."""
    assert f"{limit:,}" in DOCUMENT
    assert f"{manifest.MAX_MANIFEST_BYTES >> 20} MiB" in DOCUMENT
    assert f"| `format_version` | integer | {manifest.MANIFEST_VERSION} |" in DOCUMENT
