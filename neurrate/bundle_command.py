"""``neurrate bundle``: encoders for the daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from contracts.atomic_files import check_folder_writable
from contracts.binning import BinRate
from contracts.window import WindowSpec
from neurrate.arguments import Count, Seed, command_text


def random(
    recording: str,
    out: Path,
    *,
    units: str = "all",
    model: str,
    size: Literal["tiny", "paper"] = "tiny",
    bin_rate_hz: Count = 120,
    bins: Count = 20,
    stride: Count = 20,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Make a bundle with random weights for the units of a recording.

    Its narrations are noise; everything else is as with a trained one.

    Examples
    --------
        neurrate simulate llava tiny-llava/
        neurrate bundle random session.nwb bundle/ --model tiny-llava/
        neurrate bundle random session.nwb bundle/ --model llava-hf/llava-1.5-7b-hf --size paper

    Parameters
    ----------
    recording
        NWB file or URL, or the folder of a sorting.
    out
        Folder to write.
    units
        Conditions that a unit must meet, as for 'neurrate stream nwb'.
    model
        Folder or hub id of the vision-language model that the encoder is for. A folder that is
        there is kept with its whole path, so that the daemon finds it from anywhere.
    size
        Of the encoder. Its patches are those that the model takes, if that is a folder; else 8 x 8
        of 64 numbers (tiny) or 24 x 24 of 1024 (paper), as LLaVA-1.5 takes them.
    bin_rate_hz
        Bins per second.
    bins
        Bins in a window.
    stride
        Bins between the starts of two windows.
    seed
        The same seed gives the same bundle.
    overwrite
        Replace a bundle that is there.
    """
    from encoder_export.random_bundle import write_random_bundle
    from stream_sources.recordings.open_source import open_source

    check_folder_writable(out)
    source = open_source(recording, units=units)
    try:
        write_random_bundle(
            out,
            population=source.population,
            batches=source.batches(),
            recording_label=source.label,
            model=_whole_path(model),
            size=size,
            window=WindowSpec(BinRate(bin_rate_hz), n_bins=bins, stride_bins=stride),
            seed=seed,
            command=command_text(*sys.argv[1:]),
            overwrite=overwrite,
        )
    finally:
        source.close()
    print(f"wrote {out}: {len(source.population)} units, random weights")


def simulated(out: Path, *, encoder: Path | None = None, overwrite: bool = False) -> None:
    """Make the bundle of the simulated animal from the trained weights in the package.

    It narrates every session of 'neurrate simulate session' with the shipped small LLaVA.

    Examples
    --------
        neurrate bundle simulated bundle/
        neurrate bundle simulated bundle/ --encoder encoder/

    Parameters
    ----------
    out
        Folder to write.
    encoder
        Folder of 'neurrate simulate train-encoder'; the shipped weights if omitted.
    overwrite
        Replace a bundle that is there.
    """
    from evaluation.simulated_encoder import (
        SHIPPED_ENCODER,
        SHIPPED_MODEL,
        write_shipped_bundle,
    )

    check_folder_writable(out)
    manifest = write_shipped_bundle(
        out,
        command=command_text(*sys.argv[1:]),
        overwrite=overwrite,
        encoder=encoder or SHIPPED_ENCODER,
    )
    print(f"wrote {out}: {len(manifest.population)} units; its model is {SHIPPED_MODEL}")


def _whole_path(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model
