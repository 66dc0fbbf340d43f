"""``neurrate emulate``: a recording, sent as an acquisition system would send it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import HostClock
from neurrate.arguments import JsonOption
from neurrate.stop_request import stop_request
from neurrate.tables import cell, print_table, write_json

RateOption = Annotated[
    float, Parameter(name="--sampling-rate-hz", validator=validators.Number(gte=1e3, lte=1e6))
]


def open_ephys(
    recording: str,
    *,
    table: Path | None = None,
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

    Parameters
    ----------
    recording
        NWB 2 file or URL, or the folder of a sorter.
    table
        Write the table for neurrate stream open-ephys to this file.
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
    source = open_source(
        recording, units=units, start_s=start, duration_s=seconds, batch_ms=block_ms
    )
    with closing(source), closing(EmulatedGui(source, options, HostClock())) as gui:
        if table is not None:
            write_unit_table(table, gui.units)
        write_json(address_file, {"data": gui.address})
        with stop_request(stop_with_stdin) as should_stop:
            report = asdict(gui.play(should_stop))
    write_json(json, report)
    print_table("Sent", [{"": name, "sent": cell(value)} for name, value in report.items()])
