"""The stages of ``neurrate calibrate``; the same command again resumes after the last finished one.

Everything that can be refused is refused before the sorter runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.atomic_files import check_folder_writable
from contracts.errors import UserError
from encoder_training.calibration.agreement import Agreement, agreement
from encoder_training.calibration.areas import read_areas
from encoder_training.calibration.calibration_report import Calibrated, write_calibration_report
from encoder_training.calibration.curate import Curated, curate, signal_to_noise, write_units
from encoder_training.calibration.curation import UnitQuality
from encoder_training.calibration.folder import (
    CalibrationFolder,
    begin_calibration,
    begun_calibration,
)
from encoder_training.calibration.input_contents import input_contents, voltage_contents
from encoder_training.calibration.nwb import CalibratedUnits, write_calibration_nwb
from encoder_training.calibration.offline import (
    check_sorter,
    load_offline,
    read_offline,
    run_sorter,
    save_offline,
)
from encoder_training.calibration.online import load_online, save_online, sort_online
from encoder_training.calibration.options import CalibrationOptions
from encoder_training.calibration.presentations_file import ShownMovies, read_shown
from encoder_training.pictures import check_matplotlib
from stream_sources.online_sorter.source import SorterOptions
from stream_sources.online_sorter.template_estimation import layout_of
from stream_sources.online_sorter.template_files import read_templates, write_templates
from stream_sources.recordings.sorting import ns_to_samples
from stream_sources.rigs.recording_files import first_minutes, open_recording

NWB = "calibration.nwb"
Notify = Callable[[str], None]
"""Is given a line for each thing that a person wants to know."""


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """What came of a calibration.

    `figures` are its numbers by name, `missing` what it lacks for a training, a sentence each.
    """

    folder: Path
    figures: dict[str, Any]
    missing: tuple[str, ...]
    was_finished: bool = False


def calibrate(options: CalibrationOptions, *, command: str, notify: Notify) -> CalibrationResult:
    """Do what is not done yet of a calibration.

    Raises
    ------
    UserError
        If an input is refused, the folder is another's, or no unit passes the rules.
    """
    check_folder_writable(options.out)
    check_matplotlib()
    wanted = {**options.as_text(), **input_contents(options)}
    folder = begun_calibration(options.out, wanted)
    if folder is not None and folder.is_complete:
        return _result(folder, was_finished=True)
    inputs = _check_inputs(options)
    folder = folder or begin_calibration(options.out, wanted, command=command)
    _sort(folder, options, inputs, notify)
    _curate(folder, options, inputs, notify)
    _sort_again(folder, options, inputs, notify)
    made = _gather(folder, options, inputs)
    _write(folder, options, inputs, made, notify)
    if not folder.is_finished("report"):
        write_calibration_report(folder.path, options, made, missing=_missing(options))
        folder.finish("report")
    return _result(folder)


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What was opened and checked."""

    part: Any  # the minutes to calibrate on, a recording of SpikeInterface
    n_recorded: int  # samples of the whole recording
    rate_hz: float
    duration_s: float
    areas: tuple[str, ...]
    shown: ShownMovies | None


def _check_inputs(options: CalibrationOptions) -> _Inputs:
    """Open everything that is needed later, so that nothing is refused after the long work."""
    SorterOptions(method=options.method, block_ms=options.block_ms, speed=None).check()
    if options.sorting is None:
        check_sorter(options.sorter)
    recording = open_recording(options.recording, stream=options.stream, geometry=options.geometry)
    part = first_minutes(recording, options.minutes, path=options.recording)
    rate_hz = float(recording.get_sampling_frequency())
    duration_s = part.get_num_samples() / rate_hz
    layout = layout_of(recording)
    areas = ("",) * len(layout.channel_ids)
    if options.areas is not None:
        areas = read_areas(options.areas, layout.channel_ids, layout.positions_um[:, 1])
    shown = None
    if options.presentations is not None:
        shown = read_shown(
            options.presentations,
            recorded_s=recording.get_num_samples() / rate_hz,
            calibrated_s=duration_s,
        )
    return _Inputs(part, recording.get_num_samples(), rate_hz, duration_s, areas, shown)


def _sort(
    folder: CalibrationFolder, options: CalibrationOptions, inputs: _Inputs, notify: Notify
) -> None:
    contents = voltage_contents(inputs.part)
    if folder.is_finished("sort"):
        if folder.results["sort"]["voltages"] != contents:
            raise UserError(
                f"{options.recording} is not the recording that {folder.path} was begun with: its "
                "voltages are others. Choose another folder."
            )
        return
    if options.sorting is not None:
        spikes = read_offline(options.sorting, inputs.part, n_recorded=inputs.n_recorded)
        source = str(options.sorting)
    else:
        notify(f"sorting {inputs.duration_s / 60:.3g} minutes with {options.sorter}")
        spikes = run_sorter(inputs.part, options.sorter, folder.path, seed=options.seed)
        source = options.sorter
    save_offline(spikes, inputs.rate_hz, folder.path)
    n_units, n_spikes = len(spikes.unit_ids), len(spikes.sample)
    folder.finish("sort", source=source, n_units=n_units, n_spikes=n_spikes, voltages=contents)
    notify(f"offline sorting: {n_units} units, {n_spikes:,} spikes")


def _curate(
    folder: CalibrationFolder, options: CalibrationOptions, inputs: _Inputs, notify: Notify
) -> None:
    if folder.is_finished("curate"):
        return
    notify("estimating templates")
    curated = curate(inputs.part, load_offline(folder.path), inputs.areas, options)
    write_templates(folder.path, curated.templates)
    write_units(folder.path, curated)
    units = [asdict(quality) for quality in curated.qualities]
    folder.finish("curate", units=units, rows=curated.rows.tolist())
    notify(f"{len(curated.rows)} of {len(units)} units pass the rules; units.csv says why not")


def _sort_again(
    folder: CalibrationFolder, options: CalibrationOptions, inputs: _Inputs, notify: Notify
) -> None:
    if folder.is_finished("online"):
        return
    notify(f"sorting the same minutes online, with {options.method}")
    spikes = sort_online(
        inputs.part,
        read_templates(folder.path),
        method=options.method,
        block_ms=options.block_ms,
        label=f"recording:{Path(options.recording).name}",
    )
    save_online(spikes, folder.path)
    folder.finish("online", n_spikes=len(spikes.time_ns), real_time_factor=spikes.real_time_factor)


def _gather(folder: CalibrationFolder, options: CalibrationOptions, inputs: _Inputs) -> Calibrated:
    """Read what the stages have written, and compare the two sortings."""
    templates = read_templates(folder.path)
    offline, online = load_offline(folder.path), load_online(folder.path)
    stored = folder.results["curate"]
    rows = np.array(stored["rows"], dtype=np.int64)
    qualities = tuple(UnitQuality(**unit) for unit in stored["units"])
    trains_ns = online.trains_ns(len(rows))
    first = offline.trains()
    compared = [
        _compare(first[row], train, inputs.rate_hz)
        for row, train in zip(rows.tolist(), trains_ns, strict=True)
    ]
    return Calibrated(
        curated=Curated(templates, qualities, rows, inputs.areas),
        online=online,
        trains_ns=trains_ns,
        agreements=compared,
        shown=inputs.shown,
        duration_s=inputs.duration_s,
        offline_from=str(folder.results["sort"]["source"]),
    )


def _compare(offline: Any, online_ns: Any, rate_hz: float) -> Agreement:
    return agreement(offline, ns_to_samples(online_ns, rate_hz), rate_hz=rate_hz)


def _write(
    folder: CalibrationFolder,
    options: CalibrationOptions,
    inputs: _Inputs,
    made: Calibrated,
    notify: Notify,
) -> None:
    if folder.is_finished("write"):
        return
    templates = made.curated.templates
    scores = np.array([one.score for one in made.agreements])
    units = CalibratedUnits(
        population=templates.population,
        trains_ns=made.trains_ns,
        snr=signal_to_noise(templates),
        agreement=scores,
        duration_s=made.duration_s,
    )
    write_calibration_nwb(
        folder.path / NWB,
        units,
        templates.layout,
        inputs.areas,
        inputs.shown,
        description=f"units of the online sorter ({options.method}); {templates.origin}",
        identifier=f"{Path(options.recording).stem}-calibration",
    )
    shown = inputs.shown
    folder.finish(
        "write",
        n_units=len(made.trains_ns),
        median_agreement=float(np.median(scores)),
        n_presentations=0 if shown is None else shown.n_rows,
        n_presentations_later=0 if shown is None else shown.n_later,
        n_units_without_area=sum(not unit.area for unit in templates.population.units),
        missing=list(_missing(options)),
    )
    notify(f"wrote {folder.path / NWB}")


def _missing(options: CalibrationOptions) -> tuple[str, ...]:
    """Return what a training will lack."""
    missing = []
    if options.presentations is None:
        missing.append(
            "no presentations: 'neurrate prepare' needs to know which frame was shown when. Give "
            "--presentations, a CSV file with start_time, stop_time, movie and frame"
        )
    if options.areas is None:
        missing.append("no areas: populations of one area need --areas, a CSV file")
    return tuple(missing)


def _result(folder: CalibrationFolder, *, was_finished: bool = False) -> CalibrationResult:
    sort, online = folder.results["sort"], folder.results["online"]
    written = dict(folder.results["write"])
    missing = tuple(written.pop("missing"))
    figures = {
        "offline_units": sort["n_units"],
        "offline_spikes": sort["n_spikes"],
        "online_spikes": online["n_spikes"],
        "real_time_factor": online["real_time_factor"],
        **written,
    }
    return CalibrationResult(folder.path, figures, missing, was_finished)
