"""Learn which sorted units the GUI has, from what comes."""

from __future__ import annotations

from collections.abc import Callable

from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError
from contracts.population import Unit
from stream_sources.rigs.open_ephys.source import OpenEphysSource
from stream_sources.rigs.open_ephys.unit_table import SortedUnit


def learn_units(
    source: OpenEphysSource,
    seconds: float,
    clock: Clock,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[tuple[SortedUnit, Unit]]:
    """Listen for so long after the first message; name each unit ``electrode:sorted_id``.

    The probe of all is the stream of the GUI.

    Raises
    ------
    UserError
        If no sorted spike came.
    """
    until_ns = None
    for _ in source.messages():
        if until_ns is None and source.counters.n_messages:
            until_ns = clock.now_ns() + round(seconds * NS_PER_S)
        if should_stop() or (until_ns is not None and clock.now_ns() > until_ns):
            break
    if not source.learned:
        raise UserError(
            f"No sorted spikes came in {seconds:g} s ({source.counters.n_unsorted} unsorted ones): "
            "put Spike Detector, and Spike Sorter with units, before ZMQ Interface."
        )
    return [(key, Unit(f"{key[0]}:{key[1]}", source.gui_stream)) for key in sorted(source.learned)]
