"""``neurrate record``: spikes and narrations to a journal."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, HostClock
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import PLAIN, ConnectOptions
from neurrate.tables import cell, print_table, write_json

Megabytes = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1_000_000))]

Addresses = tuple[str, ...]


def record(
    folder: Path,
    *,
    spikes: Addresses = ("tcp://127.0.0.1:5570",),
    connect: Addresses = ("tcp://127.0.0.1:5571",),
    part_mb: Megabytes = 1000,
    min_free_mb: Megabytes = 1000,
    queue_mb: Megabytes = 256,
    seconds: Seconds | None = None,
    nwb: Path | None = None,
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
    access: ConnectOptions = PLAIN,
) -> None:
    """Record spikes, narrations, triggers, marks and statistics in a journal.

    What was received is on the disk within a second, and stays readable after a kill or a power
    cut. Recording slows neither sources nor daemon. Control-C ends it.

    Examples
    --------
        neurrate record journal/
        neurrate record journal/ --spikes tcp://127.0.0.1:5570 --spikes tcp://127.0.0.1:5580
        neurrate record journal/ --nwb session.nwb
        neurrate record journal/ --part-mb 200 --min-free-mb 5000
        neurrate record journal/ --spikes tcp://rig:5570 --connect tcp://rig:5571 \
            --key disk --server-key rig

    Parameters
    ----------
    folder
        Where to. A folder that has a journal is continued with a new part.
    spikes
        Address of a source; may be given several times. --empty-spikes records none.
    connect
        Address of a daemon's narrations; may be given several times. --empty-connect records none.
    part_mb
        Size at which a file is closed and the next one begun, in millions of bytes.
    min_free_mb
        Recording stops while so much of the disk is still free.
    queue_mb
        Memory for messages while the disk does not answer.
    seconds
        Stop after so many seconds.
    nwb
        When the recording has ended, write the journal to this NWB file too, as neurrate journal
        to-nwb does. A second Control-C leaves that out.
    stop_with_stdin
        Stop when standard input closes, as it does when the program that started this one dies.
    address_file
        Write the folder to this file, as JSON, once recording has begun.
    json
        Write what was recorded to this file, as JSON.
    """
    from daemon.service import signals
    from daemon.service.logs import configure_logging
    from subscribers.recorder.record import RecordOptions
    from subscribers.recorder.record import record as run_recorder

    check_writable(json)
    check_writable(address_file)
    check_writable(nwb)
    configure_logging()
    stop = signals.StopRequest()
    if stop_with_stdin:
        signals.stop_with_stdin(stop)
    clock = HostClock()
    deadline_ns = None if seconds is None else clock.now_ns() + round(seconds * NS_PER_S)
    options = RecordOptions(
        folder,
        spikes,
        connect,
        keys=access.keys_for([*spikes, *connect]),
        part_bytes=part_mb * 10**6,
        min_free_bytes=min_free_mb * 10**6,
        queue_bytes=queue_mb * 10**6,
    )
    with signals.stop_on_signal(stop):
        report = run_recorder(
            options,
            clock,
            should_stop=lambda: (
                stop.is_made or (deadline_ns is not None and clock.now_ns() >= deadline_ns)
            ),
            on_begun=lambda: write_json(address_file, {"journal": str(folder)}),
        )
    numbers = asdict(replace(report, error=None)) | {"error": str(report.error or "")}
    write_json(json, numbers)
    with signals.bounded_end(stop):
        accounts = numbers.pop("accounts")
        rows = {**numbers, **accounts}
        print_table("Recorded", [{"": name, "recorded": cell(rows[name])} for name in rows])
    if report.error is not None:
        raise report.error
    if nwb is not None:
        from subscribers.recorder.nwb_export import export_nwb

        print(f"writing {nwb}", file=sys.stderr)
        export_nwb(folder, nwb)
