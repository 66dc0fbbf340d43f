"""``neurrate stream sorter``: spikes of known units out of a probe's voltages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import HostClock
from contracts.errors import UserError
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import KeyOption, server_keys
from neurrate.live_options import NO_ADDITIONS, AdditionOptions
from neurrate.stop_request import stop_request
from neurrate.tables import cell, print_table, write_json

PortOption = Annotated[int | None, Parameter(validator=validators.Number(gte=0, lte=65_535))]
SubscriberCount = Annotated[int, Parameter(validator=validators.Number(gte=0))]

SHOWN_UNITS = 20
"""Units in the table at the end; all are in --json."""


def sorter(
    voltages: str,
    *,
    templates: Path,
    method: str = "tdc-peeler",
    block_ms: float = 100.0,
    when_behind: str = "wait",
    workers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    speed: str = "1",
    seconds: Seconds | None = None,
    end_silence: Seconds | None = None,
    additions: AdditionOptions = NO_ADDITIONS,
    stream: str = "sorter",
    bind: str = "tcp://127.0.0.1:5570",
    wait_subscribers: SubscriberCount = 0,
    metrics_port: PortOption = None,
    insecure: bool = False,
    key: KeyOption = None,
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Sort a probe's voltages while they come, by the templates of a calibration.

    Examples
    --------
        neurrate stream sorter recording/ --templates calibration/
        neurrate stream sorter recording/ --templates analyzer/ --method nearest --speed max
        neurrate stream sorter recording/ --templates calibration/ --when-behind drop
        neurrate stream sorter spikeglx:run_g0_t0.imec0.ap.bin --templates calibration/

    Parameters
    ----------
    voltages
        Recording that SpikeInterface has saved: a folder, a Zarr folder or a JSON file, with gains
        and a probe. Or a rig, which is followed: spikeglx:RUN.ap.bin, or
        open-ephys:ADDRESS,PROBE.json (or ...,PROBE.json,STREAM of the GUI), or
        spikeglx-remote:SDK_FOLDER,PROBE.json,HOST:PORT/imecN.
    templates
        Folder of a calibration, or a SortingAnalyzer that finds its recording.
    method
        nearest, tdc-peeler, wobble or circus-omp.
    block_ms
        Length of a block: spikes are sent when it and a margin of some ms are over.
    when_behind
        What to do when the sorter is half a second behind: wait (sort all, late), nearest (match
        by the cheapest method until it has caught up) or drop (skip blocks, as gaps).
    workers
        Processes that match blocks at the same time; 0 takes one for each 192 channels, and no
        more than there are cores. They do not change what is found.
    speed
        Recorded seconds per second, or max: as fast as it goes, lossless. Of recordings, and of a
        file of SpikeGLX that is over: a rig comes at its own pace.
    seconds
        Recorded seconds to sort; to the end if omitted.
    end_silence
        End a rig's source after so many seconds without samples; if omitted, wait for more.
    stream
        Name of the stream; one for each source that a daemon listens to.
    bind
        Address to publish on; port 0 takes any free one.
    wait_subscribers
        Begin once so many listen; 0 does not wait.
    metrics_port
        Serve metrics for Prometheus on this port of this machine; 0 takes any free one.
    insecure
        Allow an address that other machines can reach, without keys.
    key
        Pair of keys: who listens then needs one too, and to be on the list beside it.
    stop_with_stdin
        Stop when standard input closes.
    address_file
        Write the addresses to this file, as JSON, once they are bound.
    json
        Write what was sent, how fast, and the state of each unit to this file, as JSON.

    Raises
    ------
    UserError
        If markers are asked for at another speed than the recording's.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.online_sorter.sorter_session import SorterPlace, sort_live
    from stream_sources.online_sorter.source import SorterOptions
    from stream_sources.speed import speed_factor

    configure_logging()
    check_writable(json)
    check_writable(address_file)
    if additions.lsl_marks and speed_factor(speed) != 1.0:
        raise UserError(
            f"--lsl-marks needs --speed 1, got {speed}: when spikes come tells what time markers "
            "are on the recording's clock."
        )
    with stop_request(stop_with_stdin) as should_stop:
        report = sort_live(
            voltages,
            templates,
            SorterOptions(stream, method, block_ms, when_behind, speed_factor(speed), workers),
            SorterPlace(bind, insecure, server_keys(key), metrics_port, wait_subscribers),
            additions.additions("sync bit 6", key=key, insecure=insecure),
            HostClock(),
            duration_s=seconds,
            end_silence_s=end_silence,
            should_stop=should_stop,
            on_bound=lambda address, port: write_json(
                address_file, {"spikes": address, "metrics_port": port}
            ),
        )
    write_json(json, report)
    units = report.pop("units")
    print_table("Sorted and sent", [{"": name, "n": cell(n)} for name, n in report.items()])
    lost_first = sorted(units, key=lambda unit: not unit["lost"])
    print_table(f"{len(units)} units, lost ones first", lost_first[:SHOWN_UNITS])
