"""``neurrate learn``: prepare, train and export, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from neurrate.arguments import Count, Seed
from neurrate.train_command import AboveZero, Passes


def learn(
    recording: str,
    out: Path,
    *,
    frames: Path,
    model: str,
    stimuli: str = "",
    units: str = "all",
    cell_types: Literal["column", "optotagging"] = "column",
    every: Count = 1,
    split: Literal["repeats", "middle", "front", "movies"] = "repeats",
    held_out: str = "",
    captions: Path | None = None,
    captioner: str | None = None,
    size: Literal["paper", "small", "tiny"] = "paper",
    training_epochs: Passes | None = None,
    max_minutes: AboveZero | None = None,
    device: str = "auto",
    seed: Seed = 0,
) -> None:
    """Make a bundle for the daemon from a recording and the frames that were shown.

    The three steps of 'neurrate prepare', 'neurrate train' and 'neurrate export', which have more
    options. The same command given again resumes where it stopped.

    Examples
    --------
        neurrate learn session.nwb out/ --frames movies/ --model llava-hf/llava-1.5-7b-hf
        neurrate learn day.nwb out/ --frames day_movies/ --model llava/ --split middle --size small

    Parameters
    ----------
    recording
        NWB file or URL, with tables of presentations that have frame numbers.
    out
        Folder for data/, run/ and bundle/.
    frames
        The stimulus: one file or folder of images, or a folder with one for each movie.
    model
        Folder or hub id of the LLaVA that will narrate.
    stimuli
        Movies to train on, separated by commas; all with frames if omitted.
    units
        Conditions that a unit must meet: all, good, allen, ...
    cell_types
        Of the units table (column), or of the units that answer pulses of light (optotagging).
    every
        Take every so many frames as targets.
    split
        What is held out: repeats, middle, front, or movies.
    held_out
        How much, or which movies.
    captions
        JSON lines or CSV with movie, frame and caption; those in the recording if omitted.
    captioner
        Folder or hub id of a model that captions the frames.
    size
        Of the encoder: paper, small (a laptop trains it), tiny (for trials).
    training_epochs
        Passes over the training windows; 20 if omitted.
    max_minutes
        Training ends by then; the same seed then no longer gives the same weights.
    device
        auto, cpu, cuda; auto is a GPU if there is one.
    seed
        The same seed gives the same bundle.
    """
    from encoder_export.export import is_exported
    from encoder_training.devices import resolve_device
    from neurrate.export_command import export
    from neurrate.prepare_command import prepare
    from neurrate.train_command import train

    device = resolve_device(device)
    prepare(
        recording,
        out / "data",
        frames=frames,
        model=model,
        stimuli=stimuli,
        units=units,
        cell_types=cell_types,
        every=every,
        split=split,
        held_out=held_out,
        captions=captions,
        captioner=captioner,
        device=device,
        seed=seed,
    )
    train(
        out / "data",
        out / "run",
        size=size,
        training_epochs=training_epochs,
        max_minutes=max_minutes,
        device=device,
        seed=seed,
    )
    if is_exported(out / "run", out / "bundle"):
        print(f"{out / 'bundle'} is finished: neurrate run --bundle {out / 'bundle'}")
        return
    export(out / "run", out / "bundle", seed=seed, overwrite=True)
