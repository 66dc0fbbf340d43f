"""What may stand around a live source: the clock of another source, and markers as marks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from contracts.clock import Clock
from stream_sources.live import LiveSource
from stream_sources.rigs.lsl_marks import LslMarkedSource, LslMarksOptions
from stream_sources.rigs.synced_source import SyncedSource, SyncOptions, on_clock_of


class AddedSource(NamedTuple):
    """A source with what was added to it."""

    live: LiveSource
    synced: SyncedSource | None
    marked: LslMarkedSource | None

    def counted(self) -> dict[str, Any]:
        """Return what each addition has counted, by its name."""
        additions = {"sync": self.synced, "lsl_marks": self.marked}
        return {name: asdict(one.counters) for name, one in additions.items() if one is not None}


class LiveAdditions(NamedTuple):
    """What to add."""

    sync: SyncOptions | None = None  # whose clock the source is put on, instead of its own
    lsl_marks: LslMarksOptions | None = None  # sent as marks

    def around(self, source: LiveSource, clock: Clock) -> AddedSource:
        """Return a source with the additions; what they open is closed with it.

        Raises
        ------
        UserError
            If an option is not allowed.
        """
        live = source
        synced = marked = None
        if self.sync is not None:
            live = synced = on_clock_of(source, self.sync)
        if self.lsl_marks is not None:
            live = marked = LslMarkedSource(live, self.lsl_marks, clock)
        return AddedSource(live, synced, marked)
