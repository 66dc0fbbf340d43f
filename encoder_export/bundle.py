"""Everything that the daemon needs from training, written as one folder or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError, listed
from contracts.manifest import (
    CAPTIONS,
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
from encoder_export.parity import ParityGate, check_parity
from encoder_export.parity_run import measure_file
from encoder_export.precision import Precision, write_graph
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork
from encoder_training.weights import save_weights


@dataclass(frozen=True, slots=True)
class ReferenceFrame:
    """A frame of the training data, for the nearest-frame evidence of a narration.

    Attributes
    ----------
    frame : str
        Its label.
    caption : str
        What a person would say of it.
    mean_patch : array, shape (dim,), float32
        Mean of the vision tower's patches.
    """

    frame: str
    caption: str
    mean_patch: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What stands in a manifest beside the weights.

    Attributes
    ----------
    population : Population
        The encoder's units, in order.
    scaling : Scaling
        Mean and standard deviation of their counts.
    window : WindowSpec
        What the encoder was trained on.
    language_model : LanguageModel
        Whose image tokens it predicts.
    training_data : TrainingData
        What it was made from.
    trained : bool
        False for random weights.
    command : str
        What made it.
    scores : mapping of str to float
        On held-out data.
    """

    population: Population
    scaling: Scaling
    window: WindowSpec
    language_model: LanguageModel
    training_data: TrainingData
    trained: bool
    command: str
    scores: Mapping[str, float]


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

    The folder is made beside `out` and renamed at the end, so that a bundle is whole or not there.

    Parameters
    ----------
    out : Path
        The bundle's folder.
    encoder : EncoderNetwork
        With its weights; is put in evaluation mode.
    facts : BundleFacts
        The rest of the manifest.
    references : sequence of ReferenceFrame
        Training frames with captions; none leaves narrations without evidence.
    more_files : sequence of Path
        Copied into the bundle, under their own names: probes.
    precision : {"float32", "float16", "bfloat16", "int8"}
        What the graph computes in.
    gate : ParityGate, optional
        What the graph is tried on; Poisson counts if omitted.
    overwrite : bool
        Replace a bundle that is there.

    Returns
    -------
    Manifest
        As `load_manifest` reads it back.

    Raises
    ------
    UserError
        If `out` is there and may not be replaced, or the facts do not fit each other.
    ParityError
        If the graph is too far from the network; then there is no bundle.
    """
    check_target(out, overwrite=overwrite)
    _check_facts(encoder, facts, references)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_graph(partial, encoder, facts, precision, gate)
        _write_files(partial, encoder, facts, references, more_files)
        _open_to_readers(partial)
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_manifest(out)


def _write_graph(
    folder: Path,
    encoder: EncoderNetwork,
    facts: BundleFacts,
    precision: Precision,
    gate: ParityGate | None,
) -> None:
    """Write the graph and how near it is.

    Raises
    ------
    ParityError
        If that is not near enough.
    """
    n_bins, path = facts.window.n_bins, folder / ENCODER_ONNX
    write_graph(encoder, facts.scaling, path, n_bins=n_bins, precision=precision)
    parity = measure_file(
        encoder,
        facts.scaling,
        gate or ParityGate.poisson(facts.scaling, n_bins=n_bins),
        path,
        precision,
    )
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
        json.dumps({"frame": each.frame, "caption": each.caption}, ensure_ascii=False) + "\n"
        for each in references
    ]
    (folder / CAPTIONS).write_text("".join(lines), encoding="utf-8")
    mean_patches = np.stack([each.mean_patch for each in references]).astype(np.float32)
    save_file({MEAN_PATCHES: mean_patches}, folder / EVIDENCE)


def draft_manifest(grid: PatchGrid, facts: BundleFacts) -> Manifest:
    """Return the manifest of a bundle that is not written yet, for a narrator to fit itself to.

    Parameters
    ----------
    grid : PatchGrid
        Of the encoder.
    facts : BundleFacts

    Returns
    -------
    Manifest
        Without files.
    """
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
        population=[UnitModel(**asdict(unit)) for unit in facts.population.units],
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
    """Refuse a folder that is taken; ask before the work whose result would go there.

    Parameters
    ----------
    out : Path
        Where a bundle will be written.
    overwrite : bool
        Whether a bundle that is there may be replaced.

    Raises
    ------
    UserError
        If something else is there, or may not be replaced.
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
