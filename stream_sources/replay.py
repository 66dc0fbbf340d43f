"""What ``neurrate stream nwb`` and ``neurrate stream sorting`` share: play one source."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from neurrate.tables import cell, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts.spikes import SpikeBatch
    from stream_sources.player import PlayReport
    from stream_sources.source import SpikeSource

DEFAULT_BIND = "tcp://127.0.0.1:5570"

BATCH_MS = 10.0
"""Length of a batch at real time: what an online sorter gives, and far below any window."""

SHORTEST_BATCH_MS = 0.1
"""A hundredth of what an online sorter gives at once."""

LONGEST_BATCH_MS = 1000.0
"""Of the session, and below real time of the clock: the Must in docs/wire-format.md, `spikes`."""

BATCH_MS_AT_MAX = 100.0
"""Length of a batch at ``--speed max``, where messages cost and latency means nothing."""


@Parameter(name="*")
@dataclass(frozen=True)
class Replay:
    """How to play a source."""

    speed: str = "1"
    "Session seconds per second, or max: as fast as the slowest subscriber takes it, lossless."
    start: float | None = None
    "First session second to send."
    seconds: float | None = None
    "Session seconds to send; the whole recording if omitted."
    bind: str = DEFAULT_BIND
    "Address to publish on; port 0 takes any free one."
    batch_ms: float | None = None
    "Length of a batch in ms; 10, and 100 at --speed max."
    wait_subscribers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 1
    "Begin once so many listen; 0 does not wait."
    insecure: bool = False
    "Allow an address that other machines can reach."
    stop_with_stdin: bool = False
    "Stop when standard input closes, as it does when the program that started this one dies."
    address_file: Path | None = None
    "Write the address to this file, as JSON, once it is bound."
    json: Annotated[Path | None, Parameter(name="--json")] = None
    "Write what was sent to this file, as JSON."

    @property
    def speed_factor(self) -> float | None:
        """Session seconds per second; None for as fast as possible."""
        return speed_factor(self.speed)

    @property
    def batch_length_ms(self) -> float:
        """Length of a batch in ms, such that one is sent at least once a second.

        Raises
        ------
        UserError
            If `batch_ms` is not from 0.1 to 1000, or takes longer than a second at this speed.
        """
        speed = self.speed_factor
        longest = LONGEST_BATCH_MS if speed is None else LONGEST_BATCH_MS * min(1.0, speed)
        if self.batch_ms is None:
            return min(longest, BATCH_MS_AT_MAX if speed is None else BATCH_MS)
        if not SHORTEST_BATCH_MS <= self.batch_ms <= LONGEST_BATCH_MS:
            raise UserError(f"--batch-ms must be from 0.1 to 1000, got {self.batch_ms}.")
        if self.batch_ms > longest:
            raise UserError(
                f"--batch-ms must be at most {longest:g} at --speed {self.speed}, got "
                f"{self.batch_ms:g}: a source sends at least once a second, or the daemon takes "
                "it for blind."
            )
        return self.batch_ms


def speed_factor(text: str) -> float | None:
    """Read ``--speed``: a number above 0, or ``max`` (None).

    Raises
    ------
    UserError
        If it is neither.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1e6:
        raise UserError(f"--speed must be max or a number from 0.001 to 1e6, got {text!r}.")
    return speed


def replay(source: SpikeSource, options: Replay) -> None:
    """Publish a whole source, with a progress bar, and say what was sent.

    Parameters
    ----------
    source : SpikeSource
        Closed at the end.
    options : Replay
    """
    import zmq

    from contracts.spikes import Hello
    from daemon.service import signals
    from daemon.service.logs import configure_logging
    from stream_sources.player import play
    from stream_sources.publisher import SpikePublisher

    check_writable(options.json)
    check_writable(options.address_file)
    configure_logging()
    clock, stop = HostClock(), signals.StopRequest()
    if options.stop_with_stdin:
        signals.stop_with_stdin(stop)
    hello = Hello(source.stream, source.run, source.label, source.population)
    with zmq.Context() as context, signals.stop_on_signal(stop):
        publisher = SpikePublisher(
            context,
            options.bind,
            hello,
            clock,
            is_lossless=options.speed_factor is None,
            is_insecure=options.insecure,
        )
        try:
            write_json(options.address_file, {"spikes": publisher.endpoint})
            logging.getLogger(__name__).info(
                "source listens",
                extra={
                    "address": publisher.endpoint,
                    "source": source.label,
                    "n_units": len(source.population),
                    "n_spikes": source.n_spikes,
                    "waits_for": options.wait_subscribers,
                },
            )
            with _progress(source) as on_batch:
                report = play(
                    source,
                    publisher,
                    clock,
                    speed=options.speed_factor,
                    wait_for_subscribers=options.wait_subscribers,
                    should_stop=lambda: stop.is_made,
                    on_batch=on_batch,
                )
        finally:
            publisher.close(is_urgent=stop.is_made)
            source.close()
    _tell(source, report, options.json)


def _tell(source: SpikeSource, report: PlayReport, path: Path | None) -> None:
    numbers = {"source": source.label, "n_units": len(source.population), **asdict(report)}
    print_table("Sent", [{"": name, "sent": cell(value)} for name, value in numbers.items()])
    write_json(path, numbers)


@contextmanager
def _progress(source: SpikeSource) -> Iterator[Callable[[SpikeBatch], None]]:
    """Show how far the replay is on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal or source.span_ns is None:
        yield lambda _: None
        return
    start_ns, stop_ns = source.span_ns
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s of session"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(source.label, total=(stop_ns - start_ns) / NS_PER_S)

        def on_batch(batch: SpikeBatch) -> None:
            progress.update(task, completed=(batch.stop_ns - start_ns) / NS_PER_S)

        yield on_batch
