"""Everything that the daemon needs from training, written as one folder or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError, listed
from contracts.manifest import (
    CAPTIONS,
    ENCODER_FLOAT32,
    ENCODER_ONNX,
    ENCODER_WEIGHTS,
    EVIDENCE,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    MEAN_PATCHES,
    PARITY,
    LanguageModel,
    Manifest,
    ManifestModel,
    PatchGridModel,
    TrainingData,
    UnitModel,
    WindowModel,
    load_manifest,
    sha256_of,
    write_manifest,
)
from contracts.population import Population
from contracts.window import WindowSpec
from encoder_export.onnx_graph import Precision, write_graph, write_int8
from encoder_export.parity import ParityGate, check_parity, measure_file
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork
from encoder_training.weights import save_weights


@dataclass(frozen=True, slots=True)
class ReferenceFrame:
    """A captioned frame of the training data, for the nearest-frame evidence of a narration."""

    frame: str
    caption: str
    mean_patch: NDArray[np.float32]  # shape (dim,), of the vision tower's patches


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The contents of a manifest beside the weights."""

    population: Population  # the encoder's units, in order
    scaling: Scaling
    window: WindowSpec
    language_model: LanguageModel  # whose image tokens the encoder predicts
    training_data: TrainingData
    trained: bool  # False for random weights
    command: str  # that made the encoder
    scores: Mapping[str, float]  # on held-out data


def write_bundle(
    out: Path,
    encoder: EncoderNetwork,
    facts: BundleFacts,
    *,
    references: Sequence[ReferenceFrame] = (),
    more_files: Sequence[Path] = (),
    precision: Precision = "float32",
    gate: ParityGate | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Export an encoder.

    The folder is made beside `out` and renamed at the end, so that a bundle is whole or absent. A
    graph that is not float32 has a float32 one beside it, which the daemon compares it with and
    falls back to. The encoder is put in evaluation mode.

    Parameters
    ----------
    references : sequence of ReferenceFrame
        Training frames with captions; none leaves narrations without evidence.
    more_files : sequence of Path
        Copied into the bundle, under their own names: probes, the calibration of confidence.
    gate : ParityGate, optional
        The windows on which the graph is compared; Poisson counts if omitted.

    Raises
    ------
    UserError
        If `out` exists and may not be replaced, or the facts do not fit each other.
    ParityError
        If the graph is too far from the network; then there is no bundle.
    """
    check_target(out, overwrite=overwrite)
    _check_facts(encoder, facts, references)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_graphs(partial, encoder, facts, precision, gate)
        _write_files(partial, encoder, facts, references, more_files)
        _open_to_readers(partial)
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_manifest(out)


def _write_graphs(
    folder: Path,
    encoder: EncoderNetwork,
    facts: BundleFacts,
    precision: Precision,
    gate: ParityGate | None,
) -> None:
    """Write the graph, a float32 one beside one that is not, and the parity report.

    Raises
    ------
    ParityError
        If one of them is too far from the network.
    """
    n_bins, scaling = facts.window.n_bins, facts.scaling
    poisson = ParityGate.poisson(scaling, n_bins=n_bins)
    path = folder / ENCODER_ONNX
    float32 = path if precision == "float32" else folder / ENCODER_FLOAT32
    write_graph(encoder, scaling, float32, n_bins=n_bins)
    if precision == "float16":
        write_graph(encoder, scaling, path, n_bins=n_bins, precision="float16")
    elif precision == "int8":
        write_int8(float32, path)
    if path != float32:
        check_parity(measure_file(encoder, scaling, poisson, float32, "float32"))
    parity = measure_file(encoder, scaling, gate or poisson, path, precision)
    check_parity(parity)
    parity.write(folder / PARITY)


def _write_files(
    folder: Path,
    encoder: EncoderNetwork,
    facts: BundleFacts,
    references: Sequence[ReferenceFrame],
    more_files: Sequence[Path],
) -> None:
    save_weights(encoder, folder / ENCODER_WEIGHTS)
    if references:
        _write_references(folder, references)
    for path in more_files:
        shutil.copyfile(path, folder / path.name)
    hashes = {
        path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != PARITY
    }
    write_manifest(folder, _manifest_model(hashes, encoder.spec.grid, facts))


def _write_references(folder: Path, references: Sequence[ReferenceFrame]) -> None:
    lines = [
        json.dumps({"frame": reference.frame, "caption": reference.caption}, ensure_ascii=False)
        + "\n"
        for reference in references
    ]
    (folder / CAPTIONS).write_text("".join(lines), encoding="utf-8")
    mean_patches = np.stack([reference.mean_patch for reference in references]).astype(np.float32)
    save_file({MEAN_PATCHES: mean_patches}, folder / EVIDENCE)


def draft_manifest(grid: PatchGrid, facts: BundleFacts) -> Manifest:
    """Return the manifest, without files, of a bundle that is still to be written."""
    return Manifest(_manifest_model({}, grid, facts), Path(), "")


def _manifest_model(hashes: dict[str, str], grid: PatchGrid, facts: BundleFacts) -> ManifestModel:
    window = facts.window
    return ManifestModel(
        format_version=MANIFEST_VERSION,
        window=WindowModel(
            bin_rate_num=window.rate.num,
            bin_rate_den=window.rate.den,
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=window.lag_ns,
        ),
        population=[UnitModel(**unit.labels) for unit in facts.population.units],
        unit_mean=facts.scaling.mean.tolist(),
        unit_std=facts.scaling.std.tolist(),
        patch_grid=PatchGridModel(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        language_model=facts.language_model,
        training_data=facts.training_data,
        trained=facts.trained,
        scores=dict(facts.scores),
        sha256=hashes,
        command=facts.command,
    )


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is in use; call it before the work whose result would go there.

    Raises
    ------
    UserError
        If `out` is not a bundle, or is one and may not be replaced.
    """
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"{out} is already there. Choose another folder or add --overwrite.")
    if not (out / MANIFEST_NAME).is_file():
        raise UserError(
            f"only a bundle may be overwritten, and {out} has no {MANIFEST_NAME}. "
            "Choose another folder."
        )


def _check_facts(
    encoder: EncoderNetwork, facts: BundleFacts, references: Sequence[ReferenceFrame]
) -> None:
    n_units = len(facts.population)
    mean, std = facts.scaling.mean, facts.scaling.std
    if not mean.shape == std.shape == (n_units,) or encoder.spec.n_units != n_units:
        raise MisuseError(
            f"the population has {n_units} units, the encoder {encoder.spec.n_units}, the mean "
            f"shape {mean.shape}, the standard deviation shape {std.shape}; they must be equal"
        )
    usable = np.isfinite(mean) & np.isfinite(std) & (std > 0)
    if not usable.all():
        unit_ids = [facts.population.units[row].unit_id for row in np.flatnonzero(~usable)]
        raise UserError(
            "each unit needs a finite mean and a standard deviation above 0 spikes per bin; "
            f"unit_id {listed(unit_ids)} has not. Leave silent units out of the population."
        )
    dim = encoder.spec.grid.dim
    if any(reference.mean_patch.shape != (dim,) for reference in references):
        raise MisuseError(f"the mean patch of a reference frame must have shape ({dim},)")


def _open_to_readers(folder: Path) -> None:
    """Undo the private modes of temporary folders and of safetensors; others run the daemon."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _put_in_place(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / out.name)
    partial.rename(out)
    shutil.rmtree(old)
