"""``neurrate bundle``: encoders for the daemon."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import check_folder_writable
from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.window import WindowSpec
from neurrate.arguments import Count, Seed

if TYPE_CHECKING:
    from stream_sources.source import SpikeSource

PAPER_WINDOW = WindowSpec(BinRate(120), n_bins=20, stride_bins=20)
"""167 ms of 120 Hz bins, as in NEURRATOR (arXiv 2606.18667); a new one every 167 ms."""

GRIDS = {"tiny": PatchGrid(8, 8, 64), "paper": PatchGrid(24, 24, 1024)}
"""What the small LLaVA of 'neurrate simulate llava' takes, and what LLaVA-1.5 takes."""


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
        tiny: 8 x 8 patches of 64 numbers; paper: 24 x 24 of 1024, as LLaVA-1.5 takes them.
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
    from stream_sources.recordings.open_source import open_source

    check_folder_writable(out)
    source = open_source(recording, units=units)
    try:
        write_random_bundle(
            source,
            out,
            model=_whole_path(model),
            size=size,
            window=WindowSpec(BinRate(bin_rate_hz), n_bins=bins, stride_bins=stride),
            seed=seed,
            command=shlex.join(["neurrate", *sys.argv[1:]]),
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
    from evaluation.simulated_encoder.bundle import (
        SHIPPED_ENCODER,
        SHIPPED_MODEL,
        write_shipped_bundle,
    )

    check_folder_writable(out)
    manifest = write_shipped_bundle(
        out,
        command=shlex.join(["neurrate", *sys.argv[1:]]),
        overwrite=overwrite,
        encoder=encoder or SHIPPED_ENCODER,
    )
    print(f"wrote {out}: {len(manifest.population)} units; its model is {SHIPPED_MODEL}")


def _whole_path(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def write_random_bundle(
    source: SpikeSource,
    out: Path,
    *,
    model: str,
    size: Literal["tiny", "paper"],
    window: WindowSpec = PAPER_WINDOW,
    seed: int = 0,
    command: str,
    overwrite: bool = False,
) -> None:
    """Write a bundle with random weights for the units of a source.

    Parameters
    ----------
    source : SpikeSource
        Read to its end, for the units' rates.
    out : Path
        Folder to write.
    model : str
        The vision-language model that the encoder is for.
    size : {"tiny", "paper"}
        Of the patch grid and of the encoder.
    window : WindowSpec
    seed : int
    command : str
        What made it, for the manifest.
    overwrite : bool
        Replace a bundle that is there.
    """
    from encoder_export.bundle import check_target
    from encoder_export.random_bundle import make_random_bundle

    check_target(out, overwrite=overwrite)
    unit_mean, unit_std = poisson_statistics(source, window.rate)
    make_random_bundle(
        out,
        population=source.population,
        unit_mean=unit_mean,
        unit_std=unit_std,
        window=window,
        grid=GRIDS[size],
        language_model_id=model,
        recording_label=source.label,
        size=size,
        seed=seed,
        command=command,
        overwrite=overwrite,
    )


def poisson_statistics(
    source: SpikeSource, rate: BinRate
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each unit's mean spikes per bin, and the standard deviation a Poisson unit has.

    Good enough for random weights; training measures both.

    Parameters
    ----------
    source : SpikeSource
        Read to its end.
    rate : BinRate
        Bins per second.

    Returns
    -------
    unit_mean, unit_std : array, shape (n_units,), float64, spikes per bin
        A unit without spikes counts as having had half of one.
    """
    n_spikes = np.zeros(len(source.population), dtype=np.int64)
    start_ns = stop_ns = 0
    for batch in source.batches():
        start_ns = batch.start_ns if batch.seq == 0 else start_ns
        stop_ns = batch.stop_ns
        n_spikes += np.bincount(batch.unit_index, minlength=len(n_spikes))
    n_bins = max(1, rate.bin_of(stop_ns) - rate.bin_of(start_ns))
    unit_mean = np.maximum(n_spikes, 0.5) / n_bins
    return unit_mean, np.sqrt(unit_mean)
