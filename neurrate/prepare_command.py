"""``neurrate prepare``: a recording, its frames and a model become a data set for training."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from contracts.binning import BinRate
from contracts.selection_text import shown
from contracts.window import WindowSpec
from neurrate.arguments import Count, LagMs, Seconds, Seed, command_text

Share = Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))]


def prepare(
    recording: str,
    out: Path,
    *,
    frames: Path,
    model: str,
    stimuli: str = "",
    units: str = "all",
    cell_types: Literal["column", "optotagging"] = "column",
    bin_rate_hz: Count = 120,
    bins: Count = 20,
    stride: Count = 8,
    lag_ms: LagMs = 100.0,
    every: Count = 1,
    split: Literal["repeats", "middle", "front", "movies"] = "repeats",
    held_out: str = "",
    validation: Share = 0.125,
    chunk_seconds: Seconds = 1.0,
    captions: Path | None = None,
    captioner: str | None = None,
    caption_every: Count = 1,
    allow_missing_captions: bool = False,
    device: str = "auto",
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Make a data set for training: counts, the frames' patches, and what is held out.

    The presentation table of the recording holds which frame was on the screen when. The patches
    take long; the same command given again resumes where it stopped, and a finished data set is
    left as it is. The folder gets a report with figures.

    Examples
    --------
        neurrate prepare session.nwb data/ --frames movies/ --model llava-hf/llava-1.5-7b-hf
        neurrate prepare session.nwb data/ --frames movies/ --model llava/ --split middle
        neurrate prepare session.nwb data/ --frames movies/ --model llava/ --captions captions.jsonl
        neurrate prepare day.nwb data/ --frames day_movies/ --model tiny-llava/ --units allen

    Parameters
    ----------
    recording
        NWB file or URL, with tables of presentations that have frame numbers.
    out
        Folder of the data set.
    frames
        The stimulus: one file or folder of images, or a folder with one for each movie, called as
        in the recording. numpy, HDF5, tiff or images; as many frames as the recording numbers.
    model
        Folder or hub id of the vision-language model (or CLIP) whose vision tower encodes them.
    stimuli
        Movies to train on, separated by commas; all with frames if omitted. Any table of the
        recording's intervals with start_time, stop_time and frame may be named.
    units
        Conditions that a unit must meet, as for 'neurrate stream nwb': all, good, allen, ...
    cell_types
        column: those of the units table, if it has any. optotagging: units that answer pulses of
        light are of the Cre line in the animal's genotype, by AllenSDK's rule.
    bin_rate_hz
        Bins per second.
    bins
        Bins in a window.
    stride
        Bins between the starts of two windows, when narrating.
    lag_ms
        A window describes the frame shown this long before its end, milliseconds; training may
        choose another.
    every
        Take every so many frames as targets: neighbours look alike.
    split
        What is held out: repeats (the last ones of each movie), middle (a block of frames in the
        middle of each movie, in every repeat), front (the first frames), movies (whole ones).
    held_out
        How much: repeats (1), a share of each movie for middle and front (0.2), or names of
        movies, separated by commas.
    validation
        Share of the training chunks that validation takes, but for repeats.
    chunk_seconds
        Length of the chunks of neighbouring frames that it takes, seconds.
    captions
        JSON lines or CSV with movie, frame and caption, or a folder of them; the captions in the
        recording if omitted.
    captioner
        Folder or hub id of a model that captions the frames.
    caption_every
        Caption every so many frames; the others take the caption of the nearest.
    allow_missing_captions
        Continue if some frames have no caption.
    device
        Where the vision tower and the captioner run: auto, cpu, cuda, cuda:1; auto is a GPU if
        there is one.
    seed
        Draws the chunks for validation.
    overwrite
        Start again whatever is there; patches of the same frames and model are kept.
    """
    from encoder_training.data_set.prepare import PrepareOptions, build_data_set
    from encoder_training.data_set.prepare_captions import CaptionOptions
    from encoder_training.data_set.splits import SplitOptions, comma_separated
    from encoder_training.devices import resolve_device

    options = PrepareOptions(
        recording=recording,
        out=out,
        frames=frames,
        model=model,
        window=WindowSpec(
            BinRate(bin_rate_hz), n_bins=bins, stride_bins=stride, lag_ns=round(lag_ms * 1e6)
        ),
        split=SplitOptions.parse(
            split, held_out, validation=validation, chunk_s=chunk_seconds, seed=seed
        ),
        captions=CaptionOptions(captions, captioner, caption_every, allow_missing_captions),
        stimuli=comma_separated(stimuli),
        units=units,
        cell_types=cell_types,
        every=every,
        device=resolve_device(device),
    )
    command = command_text(*sys.argv[1:])
    result = build_data_set(options, command=command, overwrite=overwrite)
    for note in result.notes:
        print(f"note: {note}")
    data = result.data
    areas = Counter(unit.area or "(unknown)" for unit in data.population.units)
    summary = (
        f"{len(data.population)} units "
        f"({', '.join(f'{shown(area)} {n}' for area, n in areas.most_common())}), "
        f"{data.spans.n_rows / data.window.rate.bins_per_s:,.0f} s counted, "
        f"{len(data.frames.captions)} frames, sha256 {result.data_sha256[:16]}"
    )
    if result.was_finished:
        print(f"{out} is finished: {summary}, nothing to do")
    else:
        print(f"wrote {out}: {summary}")
    print(f"look at {out / 'report.md'}; then: neurrate train {out} RUN")
