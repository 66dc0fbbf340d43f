"""Templates by the folder that somebody names: a calibration, an analyzer, or a sorter's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.errors import UserError, shown
from contracts.population import Unit
from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.template_files import has_templates, read_templates
from stream_sources.online_sorter.templates import SorterTemplates
from stream_sources.recordings.kilosort import is_kilosort_folder
from stream_sources.recordings.pickles import refuse_pickles
from stream_sources.recordings.sorting import units_of_sorting

CALIBRATE = "neurrate calibrate"


def open_templates(folder: Path) -> SorterTemplates:
    """Return the templates of a folder.

    Parameters
    ----------
    folder : Path
        Of a calibration, or a SpikeInterface SortingAnalyzer that finds its recording.

    Raises
    ------
    UserError
        If it is none of them, or templates cannot be right for live voltages.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    if has_templates(folder):
        return read_templates(folder)
    if is_kilosort_folder(folder):
        raise UserError(
            f"{folder}: Kilosort's templates are of whitened voltages that were filtered forwards "
            "and backwards, and their microvolts are not known, so they cannot be used on live "
            f"voltages. Estimate templates from its spikes: {CALIBRATE} RECORDING --sorting "
            f"{folder}."
        )
    return _from_analyzer(folder)


def _from_analyzer(folder: Path) -> SorterTemplates:
    """Estimate templates from the sorting and the recording of an analyzer.

    Its own templates are of voltages that were preprocessed in another way.

    Raises
    ------
    UserError
        If the raw recording is not there, or is not that of the analyzer's channels.
    """
    analyzer = _load_analyzer(folder)
    if not analyzer.has_recording():
        raise UserError(
            f"{folder}: the analyzer does not find its recording, and templates are estimated "
            "from raw voltages. Put the recording back where it was, or estimate templates from "
            f"the recording: {CALIBRATE}."
        )
    recording = _raw(analyzer.recording)
    _check_same_samples(analyzer.recording, recording, folder)
    sorting = analyzer.sorting
    units: tuple[Unit, ...] = units_of_sorting(sorting)
    origin = f"SortingAnalyzer {shown(folder.resolve().name)}"
    return estimate_templates(recording, sorting, origin=origin, units=units)


def _check_same_samples(analysed: Any, raw: Any, folder: Path) -> None:
    """Refuse an analyzer whose sample numbers or channels are not those of its raw recording.

    Raises
    ------
    UserError
        If a filter, a choice of channels, a slice of time or another rate is between them.
    """
    if raw.is_filtered():
        raise UserError(
            f"{folder}: the recording of the analyzer was saved after a filter, and live voltages "
            "are filtered in another way. Make the analyzer from the raw recording, filtered "
            "lazily."
        )
    names = [str(channel) for channel in analysed.channel_ids]
    if names != [str(channel) for channel in raw.channel_ids]:
        raise UserError(
            f"{folder}: the analyzer has {len(names)} channels of the {len(raw.channel_ids)} "
            f"of its raw recording. Save the channels that are used, and {CALIBRATE} on them."
        )
    # A slice begins to count at its own first sample: spikes would be looked for too early.
    found, wanted = (
        (one.get_total_samples(), float(one.get_sampling_frequency())) for one in (analysed, raw)
    )
    if found != wanted:
        raise UserError(
            f"{folder}: the analyzer has {found[0]:,} samples at {found[1]:g} Hz, and its raw "
            f"recording {wanted[0]:,} at {wanted[1]:g} Hz, so its spike times are not those of the "
            "raw samples. Save the part that is used with recording.save(folder=...), and "
            f"{CALIBRATE} on it."
        )


def _load_analyzer(folder: Path) -> Any:
    """Load an analyzer.

    Raises
    ------
    UserError
        If it is none, or holds a pickle.
    """
    import spikeinterface

    # What its extensions have computed is not needed, and may be pickles.
    refuse_pickles(folder, besides=("extensions",))
    try:
        loaded = spikeinterface.load(folder, load_extensions=False)
    except Exception as error:  # its loaders raise whatever the format's reader does
        raise UserError(
            f"{folder}: it is no calibration (there is no templates.json), no SortingAnalyzer, and "
            f"no Kilosort folder: {shown(str(error), limit=200)}. Make templates with {CALIBRATE}."
        ) from error
    if not isinstance(loaded, spikeinterface.SortingAnalyzer):
        raise UserError(
            f"{folder}: templates are wanted, got a {type(loaded).__name__}. Name the folder of a "
            f"SortingAnalyzer, or make templates with {CALIBRATE}."
        )
    return loaded


def _raw(recording: Any) -> Any:
    """Return the recording that a chain of lazy preprocessing begins with."""
    while (parent := recording.get_parent()) is not None:
        recording = parent
    return recording
