"""``neurrate stream open-ephys``: the Open Ephys GUI as a source."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import HostClock
from contracts.errors import UserError
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import KeyOption, server_keys
from neurrate.live_options import NO_ADDITIONS, AdditionOptions
from neurrate.stop_request import stop_request
from neurrate.tables import cell, print_table, write_json

if TYPE_CHECKING:
    from stream_sources.rigs.open_ephys.source import OpenEphysSource

RateOption = Annotated[
    float | None,
    Parameter(name="--sampling-rate-hz", validator=validators.Number(gte=1e3, lte=1e6)),
]
SettleMs = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1000))]


def stream(
    table: Path,
    *,
    connect: str = "tcp://127.0.0.1:5556",
    learn: Seconds | None = None,
    units_from: Path | None = None,
    electrodes: tuple[str, ...] = (),
    gui_stream: str = "",
    stream: str = "open-ephys",
    sampling_rate_hz: RateOption = None,
    settle_ms: SettleMs = 5.0,
    start_timeout: Seconds = 30.0,
    end_silence: Seconds | None = None,
    additions: AdditionOptions = NO_ADDITIONS,
    bind: str = "tcp://127.0.0.1:5570",
    insecure: bool = False,
    key: KeyOption = None,
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Follow the Open Ephys GUI: spikes of its own sorter, through its ZMQ Interface plugin.

    Examples
    --------
        neurrate stream open-ephys units.csv --learn 60
        neurrate stream open-ephys units.csv --units-from bundle/
        neurrate stream open-ephys units.csv --connect tcp://127.0.0.1:5558 --stream probeB

    Parameters
    ----------
    table
        CSV file that says which sorted_id of which electrode is which unit: columns electrode,
        sorted_id, unit_id; probe, area, cell_type, quality if known.
    connect
        Data port of the plugin; heartbeats go to the port after it.
    learn
        Write the table of what comes in so many seconds of data, and end.
    units_from
        Refuse a table with units that this bundle does not have.
    electrodes
        Only units of these electrodes.
    gui_stream
        Stream of the GUI; the first that comes if omitted.
    stream
        Name of the stream; one for each source that a daemon listens to.
    sampling_rate_hz
        Samples per second that the stream must have; plugins up to 0.2 may not send it.
    settle_ms
        How long after the newest sample a spike may still come, ms.
    start_timeout
        Seconds in which a plugin must answer at first.
    end_silence
        End after so many seconds without data; if omitted, wait for the next acquisition.
    bind
        Address to publish on; port 0 takes any free one.
    insecure
        Allow an address that other machines can reach, without keys.
    key
        Pair of keys: who listens then needs one too, and to be on the list beside it.
    stop_with_stdin
        Stop when standard input closes.
    address_file
        Write the address to this file, as JSON, once it is bound.
    json
        Write what was received and sent to this file, as JSON.

    Raises
    ------
    UserError
        If the table to be learned is there already.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.live import publish_live
    from stream_sources.recordings.open_source import units_of
    from stream_sources.rigs.open_ephys.source import OpenEphysSource
    from stream_sources.rigs.open_ephys.unit_table import read_unit_table

    configure_logging()
    check_writable(json)
    check_writable(address_file)
    units = None
    if learn is None:
        units = read_unit_table(table, electrodes=electrodes, expected=units_of(units_from))
    elif table.exists():
        raise UserError(f"{table} is there already; --learn writes a new table.")
    source = OpenEphysSource(
        connect,
        units,
        stream=stream,
        gui_stream=gui_stream,
        rate_hz=sampling_rate_hz,
        settle_ms=settle_ms,
        start_timeout_s=start_timeout,
        end_silence_s=end_silence,
    )
    with closing(source), stop_request(stop_with_stdin) as should_stop:
        if learn is not None:
            _learn(source, table, learn, should_stop)
            return
        added = additions.additions("TTL line 1", key=key, insecure=insecure).around(
            source, HostClock()
        )
        totals = publish_live(
            added.live,
            bind,
            HostClock(),
            is_insecure=insecure,
            keys=server_keys(key),
            should_stop=should_stop,
            on_bound=lambda address: write_json(address_file, {"spikes": address}),
        )
    numbers = {
        "source": source.label,
        **asdict(source.counters),
        **asdict(totals),
        **added.counted(),
    }
    write_json(json, numbers)
    print_table("Received and sent", [{"": k, "n": cell(v)} for k, v in numbers.items()])


def _learn(
    source: OpenEphysSource, table: Path, seconds: float, should_stop: Callable[[], bool]
) -> None:
    """Write the table of what comes, and show it; nothing is sent."""
    from stream_sources.rigs.open_ephys.learning import learn_units
    from stream_sources.rigs.open_ephys.unit_table import write_unit_table

    units = learn_units(source, seconds, HostClock(), should_stop)
    write_unit_table(table, units)
    rows = [
        {"electrode": key[0], "sorted_id": key[1], "unit_id": unit.unit_id, "spikes": n_spikes}
        for (key, unit), n_spikes in zip(units, map(source.learned.get, dict(units)), strict=True)
    ]
    print_table(f"{table}: give each row the unit_id and probe of the bundle's unit", rows)
