"""The weights that ``neurrate train --weights`` begins with, or only evaluates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from contracts.errors import UserError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork
from encoder_training.options import Variant
from encoder_training.released import load_released
from encoder_training.released_zscore import load_zscore, zscore_beside
from encoder_training.weights import SPEC_KEY, load_weights, variant_of

NAMED_BY: dict[Variant, str] = {"retrieval": "--variant", "evidence": "--architecture"}
"""The option that asks for a variant by name. ``patches`` is also what is asked for by none."""


@dataclass(frozen=True, slots=True, eq=False)
class InitialWeights:
    """An encoder, and the statistics that its counts are scaled by."""

    encoder: EncoderNetwork
    # Those of a file; None if they are to be measured on the training windows
    scaling: Scaling | None = None
    scaling_file: Path | None = None

    @property
    def scaling_source(self) -> str:
        """Where the statistics are from, for people."""
        if self.scaling_file is None:
            return "measured on the training windows of the data set"
        return f"read from {self.scaling_file}"


def load_initial_weights(
    path: Path,
    prepared: PreparedSet,
    *,
    n_heads: int,
    zscore: Path | None,
    variant: Variant,
    evaluates_only: bool,
) -> InitialWeights:
    """Read a released checkpoint, or weights of a run, for a data set.

    `zscore` is the file of the statistics; by default the one that stands beside a released
    checkpoint. `variant` is the one that was asked for, which the weights must be of where it is
    one of `NAMED_BY`.

    Raises
    ------
    UserError
        If they cannot be read, do not fit the units and frames of the data set, or are of a
        variant that training cannot begin with.
    """
    if _is_of_a_run(path):
        encoder = _encoder_of_run(path, prepared)
    else:
        encoder = load_released(path, prepared, n_heads=n_heads)
        zscore = zscore or zscore_beside(path)
    actual = variant_of(encoder)
    option = NAMED_BY.get(variant)
    if option is not None and variant != actual:
        raise UserError(
            f"{option} {variant} was given, and {path} are weights of the variant {actual}. Leave "
            f"{option} out: weights tell it themselves."
        )
    if actual != "patches" and not evaluates_only:
        raise UserError(
            f"{path} are weights of the variant {actual}, which training cannot begin "
            "with. Evaluate them with --training-epochs 0, or train without --weights."
        )
    if zscore is None:
        return InitialWeights(encoder)
    scaling = load_zscore(zscore, n_units=len(prepared.population), rate=prepared.window.rate)
    return InitialWeights(encoder, scaling, zscore)


def _encoder_of_run(path: Path, prepared: PreparedSet) -> EncoderNetwork:
    n_units, grid = len(prepared.population), prepared.grid
    encoder = load_weights(path)
    spec = encoder.spec
    if (spec.n_units, spec.grid) != (n_units, grid):
        raise UserError(
            f"{path} must be for the data set's {n_units} units and {grid}; it is for "
            f"{spec.n_units} units and {spec.grid}. Train without --weights."
        )
    return encoder


def _is_of_a_run(path: Path) -> bool:
    """Whether `save_weights` wrote a file, with its sizes in the header."""
    try:
        with safe_open(path, framework="pt") as file:
            return SPEC_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
