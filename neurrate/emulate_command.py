"""``neurrate emulate``: a recording, sent as an acquisition system would send it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import HostClock
from neurrate.arguments import JsonOption, Seed
from neurrate.stop_request import stop_request
from neurrate.tables import cell, print_table, write_json

if TYPE_CHECKING:
    from stream_sources.source import SpikeSource

RateOption = Annotated[
    float, Parameter(name="--sampling-rate-hz", validator=validators.Number(gte=1e3, lte=1e6))
]


def open_ephys(
    recording: str,
    *,
    table: Path | None = None,
    raw: Annotated[bool, Parameter(negative=())] = False,
    units: str = "all",
    start: float | None = None,
    seconds: float | None = None,
    speed: Annotated[float, Parameter(validator=validators.Number(gte=0.01, lte=1000))] = 1.0,
    bind: str = "tcp://127.0.0.1:5556",
    gui_stream: str = "ProbeA-AP",
    sampling_rate_hz: RateOption = 30_000.0,
    channels: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=6144))] = 1,
    block_ms: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=500))] = 20.0,
    wait_subscribers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 1,
    fault: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    insecure: bool = False,
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Play a recording as the ZMQ Interface plugin of the Open Ephys GUI would send it.

    Its units become sorted units of electrodes, four on each; its presentations pulses of TTL line
    1; its continuous data are noise.

    Examples
    --------
        neurrate emulate open-ephys session.nwb --table units.csv
        neurrate emulate open-ephys kilosort4/ --table units.csv --channels 384
        neurrate emulate open-ephys session.nwb --fault gap@10:40 --fault restart@30
        neurrate emulate open-ephys recording/ --raw

    Parameters
    ----------
    recording
        NWB 2 file or URL, or the folder of a sorter; with --raw a recording of voltages.
    table
        Write the table for neurrate stream open-ephys to this file.
    raw
        Send the voltages of a recording that SpikeInterface or SpikeGLX has saved, and no spikes.
        It gives channels and sampling rate; TTL line 1 has irregular pulses.
    units
        Conditions that a unit must meet, as in neurrate stream nwb.
    start
        First session second to send.
    seconds
        Session seconds to send; the whole recording if omitted.
    speed
        Session seconds per second.
    bind
        Data port; heartbeats are answered at the port after it.
    gui_stream
        Name of the GUI's stream.
    sampling_rate_hz
        Samples per second.
    channels
        Channels of continuous data; each sends a message for each block.
    block_ms
        Length of a block.
    wait_subscribers
        Begin once so many listen; 0 does not wait.
    fault
        What goes wrong: gap@SECOND:MESSAGES loses messages, pause@SECOND:SECONDS sends nothing for
        a while, restart@SECOND begins the acquisition anew.
    insecure
        Allow an address that other machines can reach.
    stop_with_stdin
        Stop when standard input closes.
    address_file
        Write the address to this file, as JSON, once it is bound.
    json
        Write what was sent to this file, as JSON.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.recordings.open_source import open_source
    from stream_sources.rigs.open_ephys.emulator import EmulatedGui, EmulatorOptions, parse_fault
    from stream_sources.rigs.open_ephys.unit_table import write_unit_table
    from stream_sources.rigs.raw_recording import BlocksOfRecording
    from stream_sources.rigs.recording_files import open_recording

    configure_logging()
    for path in (table, address_file, json):
        check_writable(path)
    options = EmulatorOptions(
        bind=bind,
        gui_stream=gui_stream,
        rate_hz=sampling_rate_hz,
        speed=speed,
        n_channels=channels,
        wait_subscribers=wait_subscribers,
        is_insecure=insecure,
        faults=[parse_fault(text) for text in fault],
    )
    source: SpikeSource
    voltages = None
    if raw:
        voltages = open_recording(recording)
        source = BlocksOfRecording(voltages, start_s=start, duration_s=seconds, block_ms=block_ms)
        options = replace(options, rate_hz=voltages.sampling_frequency)
    else:
        source = open_source(
            recording, units=units, start_s=start, duration_s=seconds, batch_ms=block_ms
        )
    with closing(source), closing(EmulatedGui(source, options, HostClock(), voltages)) as gui:
        if table is not None and not raw:
            write_unit_table(table, gui.units)
        write_json(address_file, {"data": gui.address})
        with stop_request(stop_with_stdin) as should_stop:
            report = asdict(gui.play(should_stop))
    write_json(json, report)
    print_table("Sent", [{"": name, "sent": cell(value)} for name, value in report.items()])


def spikeglx(
    recording: Path,
    out: Path,
    *,
    probe: str = "NP1010",
    probe_index: Annotated[int, Parameter(validator=validators.Number(gte=0, lt=100))] = 0,
    speed: Annotated[float, Parameter(validator=validators.Number(gte=0.01, lte=1000))] = 1.0,
    sync: Literal["square", "irregular"] = "square",
    seed: Seed = 0,
    fault: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Write a recording as SpikeGLX would while it records: .ap.bin and .meta, which grow.

    The file is OUT/emulated_g0/emulated_g0_imec0/emulated_g0_t0.imec0.ap.bin.

    Examples
    --------
        neurrate emulate spikeglx recording/ rig/
        neurrate emulate spikeglx recording/ rig/ --fault pause@10:3 --fault jump@20:2

    Parameters
    ----------
    recording
        Recording that SpikeInterface has saved: a folder, or a .zarr.
    out
        Folder to write to; it may have no such recording yet.
    probe
        NP1010 (Neuropixels 1.0), NP2000 or NP2013 (2.0 with one shank or four). The channels must
        lie at its electrodes.
    probe_index
        The number after imec.
    speed
        Seconds of the recording per second.
    sync
        Pulses of the sync line: 1 Hz as SpikeGLX makes them, or at irregular intervals.
    seed
        Of irregular intervals; probes with the same one have the same pulses.
    fault
        What goes wrong: pause@SECOND:SECONDS writes nothing for a while, truncate@SECOND cuts the
        file to its half, jump@SECOND:SECONDS leaves some out and goes on in the next file.
    stop_with_stdin
        Stop when standard input closes.
    address_file
        Write the path of the .ap.bin to this file, as JSON, once it is there.
    json
        Write what was written to this file, as JSON.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.rigs.raw_recording import irregular_pulses
    from stream_sources.rigs.recording_files import open_recording
    from stream_sources.rigs.spikeglx.emulator import (
        SpikeGlxWriter,
        WriterOptions,
        parse_writer_fault,
    )

    configure_logging()
    check_writable(json)
    check_writable(address_file)
    faults = [parse_writer_fault(text) for text in fault]
    voltages = open_recording(recording)
    pulses_s = None
    if sync == "irregular":
        pulses_s = irregular_pulses(voltages.get_total_duration(), seed)
    options = WriterOptions(
        part_number=probe, probe_index=probe_index, speed=speed, pulses_s=pulses_s, faults=faults
    )
    writer = SpikeGlxWriter(voltages, out, options, HostClock())
    path = str(writer.path)
    writer.begin()
    write_json(address_file, {"file": path})
    with stop_request(stop_with_stdin) as should_stop:
        report = {"file": path, **asdict(writer.play(should_stop))}
    write_json(json, report)
    print_table("Written", [{"": name, "written": cell(value)} for name, value in report.items()])
