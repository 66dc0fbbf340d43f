"""``neurrate stream``: a recording becomes a live stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, HostClock, second_to_ns
from contracts.errors import UserError
from contracts.selection_text import shown
from neurrate.key_options import server_keys
from neurrate.tables import cell, print_table, write_json
from stream_sources.speed import batch_length_ms, speed_factor

if TYPE_CHECKING:
    from contracts.spikes import SpikeBatch
    from stream_sources.journal import JournalSource
    from stream_sources.recordings.recording import RecordingSource
    from stream_sources.source import SpikeSource


@Parameter(name="*")
@dataclass(frozen=True)
class StreamOptions:
    """How to play a source."""

    speed: str = "1"
    "Session seconds per second, or max: as fast as the slowest subscriber takes it, lossless."
    start: float | None = None
    "First session second to send."
    seconds: float | None = None
    "Session seconds to send; the whole recording if omitted."
    loop: bool = False
    "Begin again where the recording ends before --seconds are over; its time goes on."
    bind: str = "tcp://127.0.0.1:5570"
    "Address to publish on; port 0 takes any free one."
    batch_ms: float | None = None
    "Length of a batch in ms; 10, and 100 at --speed max."
    wait_subscribers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 1
    "Begin once so many listen; 0 does not wait."
    insecure: bool = False
    "Allow an address that other machines can reach, without keys."
    key: str | None = None
    "Pair of keys: who listens then needs one too, and to be on the list beside it."
    stop_with_stdin: bool = False
    "Stop when standard input closes, as it does when the program that started this one dies."
    address_file: Path | None = None
    "Write the address to this file, as JSON, once it is bound."
    json: Annotated[Path | None, Parameter(name="--json")] = None
    "Write what was sent to this file, as JSON."

    @property
    def batch_length_ms(self) -> float:
        """Length of a batch at this speed, ms."""
        return batch_length_ms(speed_factor(self.speed), self.batch_ms)


DEFAULT_OPTIONS = StreamOptions()


def nwb(
    recording: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    stream: str = "nwb",
    cache_dir: Path | None = None,
    options: StreamOptions = DEFAULT_OPTIONS,
) -> None:
    """Replay the units table of an NWB 2 file, local or over http(s).

    Examples
    --------
        neurrate stream nwb session.nwb
        neurrate stream nwb session.nwb --units allen,area:VISp --speed 10
        neurrate stream nwb https://example.org/session.nwb --start 2850 --seconds 300
        neurrate stream nwb session.nwb --units-from bundle/ --speed max

    Parameters
    ----------
    recording
        File, folder of a Zarr, URL or dandi:DANDISET/PATH. The URL of a file needs a server that
        answers Range requests; that of a Zarr ends with .zarr or a slash. What is read of them is
        kept in the cache.
    units
        Conditions that a unit must meet, separated by commas: all, good, allen (the AllenSDK's
        default quality filter), area:VISp|VISl, probe:NAME, cell_type:NAME, ids:1|2|3
        (or ids:1,2,3). Names may stand in quotation marks: area:"layer 2/3, deep"|VISp.
    units_from
        Send exactly the units of this bundle, in its order.
    stream
        Name of the stream; one for each source that a daemon listens to.
    cache_dir
        Folder for what is read over http(s) or of a Zarr.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.recordings.nwb import NwbSource
    from stream_sources.recordings.open_source import units_of

    configure_logging()  # before the file is read, of which there may be something to say
    source = NwbSource(
        recording,
        stream=stream,
        units=units,
        only=units_of(units_from),
        start_s=options.start,
        duration_s=options.seconds,
        batch_ms=options.batch_length_ms,
        cache_dir=cache_dir,
    )
    play(source, options)


def sorting(
    folder: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    stream: str = "sorting",
    sampling_rate_hz: Annotated[float | None, Parameter(name="--sampling-rate-hz")] = None,
    options: StreamOptions = DEFAULT_OPTIONS,
) -> None:
    """Replay a spike sorting: a Kilosort or phy folder, or a folder saved by SpikeInterface.

    Examples
    --------
        neurrate stream sorting kilosort4/
        neurrate stream sorting kilosort4/ --units good --speed max
        neurrate stream sorting kilosort4/ --sampling-rate-hz 30000 --bind tcp://127.0.0.1:5580

    Parameters
    ----------
    folder
        The sorting.
    units
        Conditions that a unit must meet, separated by commas: all, good, ids:1|2|3
        (or ids:1,2,3).
    units_from
        Send exactly the units of this bundle, in its order.
    stream
        Name of the stream; one for each source that a daemon listens to.
    sampling_rate_hz
        Samples per second, where the folder has no params.py; 30000 if omitted.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.recordings.open_source import units_of
    from stream_sources.recordings.sorting import SortingSource

    configure_logging()
    source = SortingSource(
        folder,
        stream=stream,
        units=units,
        only=units_of(units_from),
        sampling_rate_hz=sampling_rate_hz,
        start_s=options.start,
        duration_s=options.seconds,
        batch_ms=options.batch_length_ms,
    )
    play(source, options)


def play(recording: RecordingSource | JournalSource, options: StreamOptions) -> None:
    """Publish a source, with a progress bar, and print what was sent.

    Raises
    ------
    UserError
        If --loop has no --seconds, or the source is a journal.
    """
    from daemon.service import signals
    from stream_sources.journal import JournalSource
    from stream_sources.repeated import RepeatedSource
    from stream_sources.replay import ReplayOptions, replay

    repeated = None
    if options.loop:
        if isinstance(recording, JournalSource):
            raise UserError("A journal is played once: leave out --loop.")
        if options.seconds is None:
            raise UserError("--loop needs --seconds: how long to play the recording in a loop.")
        repeated = RepeatedSource(recording, second_to_ns(options.seconds))
    source: SpikeSource = repeated or recording
    check_writable(options.json)
    check_writable(options.address_file)
    stop = signals.StopRequest()
    if options.stop_with_stdin:
        signals.stop_with_stdin(stop)
    with signals.stop_on_signal(stop), _progress(source) as on_batch:
        report = replay(
            source,
            ReplayOptions(
                options.bind,
                speed_factor(options.speed),
                options.wait_subscribers,
                is_insecure=options.insecure,
                keys=server_keys(options.key),
            ),
            HostClock(),
            should_stop=lambda: stop.is_made,
            on_bound=lambda address: write_json(options.address_file, {"spikes": address}),
            on_batch=on_batch,
        )
    numbers = {"source": source.label, "n_units": len(source.population), **asdict(report)}
    if repeated is not None:
        numbers["n_rounds"] = round(repeated.n_rounds, 3)
    if isinstance(recording, JournalSource):
        numbers["n_not_closed"] = len(recording.unclosed)
        numbers["n_unreadable"] = recording.n_unreadable
    write_json(options.json, numbers)
    with signals.bounded_end(stop):
        print_table("Sent", [{"": name, "sent": cell(value)} for name, value in numbers.items()])


@contextmanager
def _progress(source: SpikeSource) -> Iterator[Callable[[SpikeBatch], None]]:
    """Show how far the replay is on standard error, if that is a terminal."""
    if source.span_ns is None:
        yield lambda _: None
        return
    from tqdm import tqdm

    from daemon.service.logs import QueuedOutput

    start_ns, stop_ns = source.span_ns
    output = QueuedOutput(sys.stderr)  # a terminal that was paused must not stop the replay
    with (
        closing(output),
        tqdm(
            file=output,
            desc=shown(source.label),
            total=(stop_ns - start_ns) / NS_PER_S,
            bar_format="{desc} {bar} {n:.1f} of {total:.1f} s of session {remaining}",
            leave=False,
            disable=None,
        ) as bar,
    ):

        def on_batch(batch: SpikeBatch) -> None:
            bar.update((batch.stop_ns - start_ns) / NS_PER_S - bar.n)

        yield on_batch
