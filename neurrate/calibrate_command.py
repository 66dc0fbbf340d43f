"""``neurrate calibrate``: minutes of voltages become units, templates and spikes to train on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.selection_text import shown
from neurrate.arguments import JsonOption, Seed, command_text
from neurrate.tables import cell, print_table, write_json

Minutes = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=600))]
NotNegative = Annotated[float, Parameter(validator=validators.Number(gte=0))]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]


def calibrate(
    recording: str,
    out: Path,
    *,
    minutes: Minutes = 10.0,
    recording_stream: str = "",
    geometry: Path | None = None,
    sorter: str = "lupin",
    sorting: Path | None = None,
    method: str = "tdc-peeler",
    block_ms: NotNegative = 100.0,
    areas: Path | None = None,
    presentations: Path | None = None,
    probe: str = "probe0",
    min_snr: NotNegative = 4.0,
    min_rate_hz: NotNegative = 0.2,
    max_violations: Share = 0.03,
    max_shared: Share = 0.5,
    seed: Seed = 0,
    json: JsonOption = None,
) -> None:
    """Calibrate the online sorter on the first minutes of a recording of raw voltages.

    Sorts them offline, keeps the units that pass the rules, makes templates, and sorts the same
    minutes with the online sorter, so that an encoder learns from what live will send. The folder
    then has templates for 'neurrate stream sorter', calibration.nwb for 'neurrate prepare',
    units.csv, and report.html with pictures. The same command given again resumes.

    Examples
    --------
        neurrate calibrate run_g0/ calibration/ --minutes 15 --areas areas.csv --presentations p.csv
        neurrate calibrate run_g0/ calibration/ --sorter kilosort4
        neurrate calibrate run_g0/ calibration/ --sorting kilosort4/ --probe probeA

    Parameters
    ----------
    recording
        SpikeGLX run (a folder, or a file of it), Open Ephys folder in binary format, folder that
        SpikeInterface saved, or NWB file with an ElectricalSeries. Raw: not filtered.
    out
        Folder of the calibration.
    minutes
        From the recording's first sample on.
    recording_stream
        Which stream of the recording, where it has several: imec0.ap.
    geometry
        Where its channels are, a file of probeinterface; for a recording that does not say.
    sorter
        Offline sorter, any that SpikeInterface runs and is installed.
    sorting
        Folder of a finished sorting of the recording, in place of a sorter: Kilosort, phy, or
        SpikeInterface's.
    method
        Of the online sorter: nearest, tdc-peeler, wobble, circus-omp.
    block_ms
        Length of the online sorter's blocks, ms. Live needs the same.
    areas
        CSV file with the columns channel and area, or depth_from, depth_to and area (micrometres
        from the tip).
    presentations
        CSV file with start_time, stop_time (seconds of the recording), movie, frame, and caption if
        there are any.
    probe
        Name of the probe in the unit table.
    min_snr
        Least peak of a unit's mean waveform, in standard deviations of the noise.
    min_rate_hz
        Fewest spikes per second.
    max_violations
        Largest share of intervals between a unit's spikes that are below 1.5 ms.
    max_shared
        Largest share of its spikes that one larger unit has too.
    seed
        Of whatever is drawn.
    json
        Write the figures to this file, as JSON.
    """
    from contracts.atomic_files import check_writable
    from daemon.service.logs import configure_logging
    from encoder_training.calibration.calibrate import calibrate as run
    from encoder_training.calibration.options import CalibrationOptions, CurationRules

    configure_logging()
    check_writable(json)
    options = CalibrationOptions(
        recording=recording,
        out=out,
        minutes=minutes,
        stream=recording_stream,
        geometry=geometry,
        sorter=sorter,
        sorting=sorting,
        method=method,
        block_ms=block_ms,
        areas=areas,
        presentations=presentations,
        probe=probe,
        rules=CurationRules(min_snr, min_rate_hz, max_violations, max_shared),
        seed=seed,
    )
    command = command_text(*sys.argv[1:])
    result = run(options, command=command, notify=_notify)
    for text in result.missing:
        print(f"missing: {shown(text)}")
    write_json(json, result.figures)
    print_table("Found", [{"": name, "n": cell(value)} for name, value in result.figures.items()])
    print(f"{out} is finished" if result.was_finished else f"wrote {out}")
    print(f"look at {out / 'report.html'}; then: neurrate prepare {out / 'calibration.nwb'} DATA")


def _notify(line: str) -> None:
    print(line, file=sys.stderr)
