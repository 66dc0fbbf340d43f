"""The bundle: the only thing that passes from training to the daemon.

A folder with ``manifest.json`` and the files that it lists with their sha256. No pickle
anywhere. `load_manifest` reports every problem it finds in one error.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.atomic_files import write_json
from contracts.binning import MAX_RATE_TERM, BinRate
from contracts.embedding import PatchGrid
from contracts.errors import ManifestError, UserError
from contracts.population import MAX_UNITS, Population, Unit
from contracts.window import MAX_WINDOW_BINS, WindowSpec

MANIFEST_VERSION = 1
"""Version of the bundle. Raised when a daemon of the version before would misread one."""

MANIFEST_NAME = "manifest.json"
ENCODER_ONNX = "encoder.onnx"
ENCODER_FLOAT32 = "encoder.float32.onnx"
"""The same encoder in float32, beside a graph of another precision."""
ENCODER_WEIGHTS = "encoder.safetensors"
CAPTIONS = "captions.jsonl"
EVIDENCE = "evidence.safetensors"

PARITY = "parity.json"
"""How far the graph is from the network in float64. Not in the manifest's sha256: processors round
differently, and equal exports are equal bundles."""

PROBES = "probes.safetensors"
PROBES_REPORT = "probes.json"

CONFIDENCE = "confidence.json"
CONFIDENCE_ARRAYS = "confidence.safetensors"

PRECISION_KEY = "precision"
"""Entry of the graph's own metadata: float32, float16 or int8."""

MEAN_PATCHES = "mean_patches"
"""The tensor in `EVIDENCE`: one row for each line of `CAPTIONS`."""

MAX_ENCODER_BATCH = 64
"""Windows times selections that a graph takes in one run: part of the format. A choice, with room
for ten selections of six windows."""

MAX_MANIFEST_BYTES = 64 << 20
"""A manifest of 100,000 units takes about 15 MB."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WindowModel(_Strict):
    """`WindowSpec`, as it stands in the file."""

    bin_rate_num: int = Field(ge=1, le=MAX_RATE_TERM)
    """Bins in ``bin_rate_den`` seconds."""
    bin_rate_den: int = Field(default=1, ge=1, le=MAX_RATE_TERM)
    """Seconds."""
    n_bins: int = Field(ge=1, le=MAX_WINDOW_BINS)
    """Bins in a window."""
    stride_bins: int = Field(ge=1, le=MAX_WINDOW_BINS)
    """Bins between the starts of two windows, unless the daemon's settings say otherwise."""
    lag_ns: int = Field(default=0, ge=0, le=10_000_000_000)
    """A window that ends at t describes the frame shown at t - lag."""

    @model_validator(mode="after")
    def _rate_in_range(self) -> WindowModel:
        if self.bin_rate_num * self.bin_rate_den > MAX_RATE_TERM:
            raise ValueError(
                f"bin_rate_num * bin_rate_den must be at most {MAX_RATE_TERM:,}, "
                f"got {self.bin_rate_num} * {self.bin_rate_den}"
            )
        return self


class UnitModel(_Strict):
    """`Unit`, as it stands in the file."""

    unit_id: str
    probe: str = ""
    area: str = ""
    cell_type: str = ""
    quality: str = ""


class PatchGridModel(_Strict):
    """`PatchGrid`, as it stands in the file."""

    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    dim: int = Field(ge=1)


class LanguageModel(_Strict):
    """The vision-language model whose image tokens the encoder predicts."""

    model_id: str
    """Hub id or folder name, for people: ``llava-hf/llava-1.5-7b-hf``."""
    revision: str = ""
    """Commit of the model, if known."""
    feature_layer: int | tuple[int, ...] = -2
    """Hidden layer of the vision tower that the patches stand for; several lie side by side."""
    select_strategy: str = "default"
    """``default`` drops the class token, ``full`` keeps it."""


class TrainingData(_Strict):
    """Which data the encoder was made from."""

    recording: str
    """File name or URL of the recording."""
    session_id: str = ""
    """The session's identifier in the recording."""
    sha256: str = ""
    """Of the prepared data set; empty for random weights."""


class ManifestModel(_Strict):
    """The whole of ``manifest.json``."""

    format_version: int
    """`MANIFEST_VERSION` of the program that wrote it."""
    window: WindowModel
    population: list[UnitModel] = Field(min_length=1, max_length=MAX_UNITS)
    """The units, in the order of the encoder's input."""
    unit_mean: list[float]
    """Mean spikes per bin of each unit, in the training data."""
    unit_std: list[Annotated[float, Field(gt=0)]]
    """Standard deviation of the spikes per bin of each unit, in the training data."""
    patch_grid: PatchGridModel
    language_model: LanguageModel
    training_data: TrainingData
    trained: bool
    """False for random weights, whose narrations are noise."""
    scores: dict[str, float] = {}
    """Scores on held-out data."""
    sha256: dict[str, Sha256]
    """Of every other file in the bundle."""
    command: str
    """What made it."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> ManifestModel:
        n_units = len(self.population)
        problems = [
            f"{name} must have one value for each of {n_units} units, got {len(values)}"
            for name, values in (("unit_mean", self.unit_mean), ("unit_std", self.unit_std))
            if len(values) != n_units
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Manifest:
    """A bundle's manifest in the words of the daemon.

    Parameters
    ----------
    sha256 : str
        Of ``manifest.json`` itself; it names the bundle.

    Attributes
    ----------
    unit_mean, unit_std : array, shape (n_units,), float32, spikes per bin
    """

    def __init__(self, model: ManifestModel, folder: Path, sha256: str) -> None:
        self.model = model
        self.folder = folder
        self.sha256 = sha256
        window = model.window
        self.window_spec = WindowSpec(
            rate=BinRate(window.bin_rate_num, window.bin_rate_den),
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=window.lag_ns,
        )
        self.population = Population([Unit(**unit.model_dump()) for unit in model.population])
        self.unit_mean: NDArray[np.float32] = np.asarray(model.unit_mean, dtype=np.float32)
        self.unit_std: NDArray[np.float32] = np.asarray(model.unit_std, dtype=np.float32)
        grid = model.patch_grid
        self.patch_grid = PatchGrid(rows=grid.rows, cols=grid.cols, dim=grid.dim)

    def file(self, name: str) -> Path | None:
        """Return the path of one of the bundle's files, or None if it does not have it."""
        return self.folder / name if name in self.model.sha256 else None


def load_manifest(folder: Path, *, check_hashes: bool = True) -> Manifest:
    """Read and check a bundle.

    With `check_hashes` every file is read and its sha256 compared.

    Raises
    ------
    ManifestError
        With every problem found.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise ManifestError(str(folder), "there is no such folder")
    if not path.is_file():
        raise ManifestError(str(folder), f"it has no {MANIFEST_NAME}; is it a bundle?")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestError(str(folder), f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} B")
    text = path.read_bytes()
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(str(folder), f"{MANIFEST_NAME} is not JSON: {error}") from error
    problems = _version_problems(raw)
    if problems:
        raise ManifestError(str(folder), *problems)
    try:
        model = ManifestModel.model_validate(raw)
    except ValidationError as error:
        raise ManifestError(
            str(folder), *[_sentence(detail) for detail in error.errors()]
        ) from error
    problems = _file_problems(folder, model, check_hashes=check_hashes)
    try:
        manifest = Manifest(model, folder, hashlib.sha256(text).hexdigest())
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise ManifestError(str(folder), *problems)
    return manifest


def write_manifest(folder: Path, model: ManifestModel) -> None:
    """Write ``manifest.json`` last: a bundle is whole or not there."""
    write_json(folder / MANIFEST_NAME, model.model_dump())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_problems(raw: Any) -> list[str]:
    if not isinstance(raw, dict):
        return [f"{MANIFEST_NAME} must be a JSON object, got {type(raw).__name__}"]
    version = raw.get("format_version")
    if version != MANIFEST_VERSION:
        return [
            f"format_version is {version!r}, this build reads {MANIFEST_VERSION}; "
            "export the encoder again"
        ]
    return []


def _file_problems(folder: Path, model: ManifestModel, *, check_hashes: bool) -> list[str]:
    problems = []
    if ENCODER_ONNX not in model.sha256:
        problems.append(f"sha256 must list {ENCODER_ONNX}")
    for name, expected in model.sha256.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(f"sha256 names {name!r}, which is outside the bundle")
        elif not path.is_file():
            problems.append(f"{name} is listed and is not there")
        elif check_hashes and sha256_of(path) != expected:
            problems.append(
                f"{name} has another sha256 than the manifest says; it was changed or cut"
            )
    return problems


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    found = "" if detail["type"] in {"missing", "value_error"} else f", got {detail['input']!r:.64}"
    return f"{where + ': ' if where else ''}{detail['msg']}{found}"
