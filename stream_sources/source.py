"""The SpikeSource protocol: what every producer of spikes offers, and the cut into batches.

To add a source, write a class with these members and add it to
``tests/conformance/test_spike_source.py``; nothing else needs to know.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, shown
from contracts.population import Population
from contracts.spikes import STREAM_NAME, Hello, Mark, SpikeBatch


class SpikeSource(Protocol):
    """A recording or a rig, as one stream.

    Attributes
    ----------
    stream : str
        Name of the stream: letters, digits, ``_`` and ``-``.
    run : str
        Sixteen hex digits, new for each source object.
    label : str
        For people: ``nwb:715093703``.
    population : Population
        The units; a batch's ``unit_index`` is a row of it.
    n_spikes : int or None
        Spikes that the source will send in all; None if it cannot know.
    span_ns : tuple of int, or None
        First and last nanosecond of what will be sent, half open; None if it cannot know.

    A source may also have `session_start_utc` and `table`, texts as in `Hello`, `next_seq`, the
    number of its first batch if that is not 0, and `in_order`, which yields batches, marks, hellos
    of further runs and ends as they are to be sent.
    """

    @property
    def stream(self) -> str: ...  # noqa: D102 - described above
    @property
    def run(self) -> str: ...  # noqa: D102 - described above
    @property
    def label(self) -> str: ...  # noqa: D102 - described above
    @property
    def population(self) -> Population: ...  # noqa: D102 - described above
    @property
    def n_spikes(self) -> int | None: ...  # noqa: D102 - described above
    @property
    def span_ns(self) -> tuple[int, int] | None: ...  # noqa: D102 - described above

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches in order, without holes in ``seq`` or in time, empty ones too."""
        ...

    def marks(self) -> Iterator[Mark]:
        """Yield the stimulus presentations in order of ``start_ns``; none if there are none."""
        ...

    def close(self) -> None:
        """Release files and devices."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SpikeBlock:
    """An interval of a recording in memory, in order of time.

    Attributes
    ----------
    start_ns, stop_ns : int
        The span covered, half open, session nanoseconds.
    spike_time_ns : array, shape (n_spikes,), int64, nanoseconds
        Sorted, within the span.
    unit_index : array, shape (n_spikes,), uint32
        Row in the population.
    """

    start_ns: int
    stop_ns: int
    spike_time_ns: NDArray[np.int64]
    unit_index: NDArray[np.uint32]


def check_stream_name(name: str) -> None:
    """Refuse a name that a stream cannot have.

    Raises
    ------
    UserError
        With the rule.
    """
    if not STREAM_NAME.fullmatch(name):
        raise UserError(f"--stream must be 1 to 64 of A-Z a-z 0-9 _ -, got {shown(name)!r}.")


def new_run() -> str:
    """Return a new name for one start of one source."""
    return secrets.token_hex(8)


def hello_of(source: SpikeSource) -> Hello:
    """Return the hello of a source, before it has sent a batch."""
    return Hello(
        source.stream,
        source.run,
        source.label,
        source.population,
        next_seq=getattr(source, "next_seq", 0),
        session_start_utc=getattr(source, "session_start_utc", ""),
        table=getattr(source, "table", ""),
    )


def cut_batches(
    blocks: Iterable[SpikeBlock], *, stream: str, run: str, batch_ns: int
) -> Iterator[SpikeBatch]:
    """Cut blocks into batches of at most `batch_ns`, none of them across two blocks.

    Blocks come in order of time, each starting where the one before stopped. Batches are numbered
    from 0; their arrays are views of the block's.
    """
    seq = 0
    for block in blocks:
        edges = np.arange(block.start_ns, block.stop_ns, batch_ns, dtype=np.int64)
        first = np.searchsorted(block.spike_time_ns, edges, side="left").tolist()
        last = [*first[1:], len(block.spike_time_ns)]
        stops = [*edges[1:].tolist(), block.stop_ns]
        for start_ns, stop_ns, i, j in zip(edges.tolist(), stops, first, last, strict=True):
            yield SpikeBatch(
                stream=stream,
                run=run,
                seq=seq,
                start_ns=start_ns,
                stop_ns=stop_ns,
                spike_time_ns=block.spike_time_ns[i:j],
                unit_index=block.unit_index[i:j],
            )
            seq += 1
