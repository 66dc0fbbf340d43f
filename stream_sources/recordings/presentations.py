"""Stimulus presentations as columns, and as marks in order of their start. No file here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.spikes import Mark

GREY = "spontaneous"
"""Name of the stimulus that is a grey screen in Allen sessions, and in simulated ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Presentations:
    """One row for each presentation, in order of their start.

    Attributes
    ----------
    start_ns, stop_ns : array, shape (n_rows,), int64, session nanoseconds
        When it was on the screen.
    row_id : array, shape (n_rows,), int64
        Row id in its own table.
    frame : array, shape (n_rows,), float64
        Frame or image number, -1 for a blank; NaN where the table has none.
    stimulus : array, shape (n_rows,), int64
        Index into `names`.
    block : array, shape (n_rows,), float64
        ``stimulus_block`` of the table, NaN where it has none.
    caption : sequence of str
        One for each row, empty where unknown; or no captions at all.
    """

    start_ns: NDArray[np.int64]
    stop_ns: NDArray[np.int64]
    row_id: NDArray[np.int64]
    frame: NDArray[np.float64]
    stimulus: NDArray[np.int64]
    block: NDArray[np.float64]
    caption: Sequence[str]
    names: tuple[str, ...]

    @classmethod
    def none(cls) -> Presentations:
        """Return a table without rows."""
        integers = np.empty(0, dtype=np.int64)
        return cls(integers, integers, integers, np.empty(0), integers, np.empty(0), (), ())

    @classmethod
    def merge(cls, tables: Sequence[Presentations]) -> Presentations:
        """Put tables of one stimulus each into one, in order of start."""
        if not tables:
            return cls.none()
        start_ns = np.concatenate([table.start_ns for table in tables])
        order = np.argsort(start_ns, kind="stable")
        n_rows = [len(table.start_ns) for table in tables]
        captions = [
            caption for table in tables for caption in table.caption or [""] * len(table.start_ns)
        ]
        return cls(
            start_ns=start_ns[order],
            stop_ns=np.concatenate([table.stop_ns for table in tables])[order],
            row_id=np.concatenate([table.row_id for table in tables])[order],
            frame=np.concatenate([table.frame for table in tables])[order],
            stimulus=np.repeat(np.arange(len(tables)), n_rows)[order],
            block=np.concatenate([table.block for table in tables])[order],
            caption=[captions[row] for row in order.tolist()] if any(captions) else (),
            names=tuple(name for table in tables for name in table.names),
        )

    def marks(self, stream: str, run: str, *, start_ns: int, stop_ns: int) -> Iterator[Mark]:
        """Yield the presentations that meet a span, as marks.

        The span is half open, session nanoseconds; marks come in order of start.
        """
        starts = self.start_ns
        meets = (starts < stop_ns) & ((starts >= start_ns) | (self.stop_ns > start_ns))
        for row in np.flatnonzero(meets).tolist():
            frame = float(self.frame[row])
            yield Mark(
                stream=stream,
                run=run,
                start_ns=int(starts[row]),
                stop_ns=int(self.stop_ns[row]),
                stimulus=self.names[self.stimulus[row]],
                presentation_id=int(self.row_id[row]),
                frame=None if np.isnan(frame) else int(frame),
                caption=(self.caption[row] or None) if self.caption else None,
            )
