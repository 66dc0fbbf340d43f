"""An emulated Open Ephys GUI that plays in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from contracts.clock import HostClock
from contracts.population import Population
from stream_sources.rigs.open_ephys.emulator import EmulatedGui, EmulatorOptions
from stream_sources.rigs.open_ephys.unit_table import RigUnitTable
from stream_sources.source import SpikeSource

if TYPE_CHECKING:
    from spikeinterface import BaseRecording


@contextmanager
def emulated_gui(
    source: SpikeSource,
    *,
    speed: float = 50.0,
    port: int = 0,
    recording: BaseRecording | None = None,
    **options: Any,
) -> Iterator[EmulatedGui]:
    """Play once somebody subscribes; stopped and closed at the end of the body."""
    bind = f"tcp://127.0.0.1:{port}"
    gui = EmulatedGui(
        source, EmulatorOptions(bind=bind, speed=speed, **options), HostClock(), recording
    )
    stop = Event()
    thread = Thread(target=gui.play, args=(stop.is_set,))
    thread.start()
    try:
        yield gui
    finally:
        stop.set()
        thread.join()
        gui.close()


def table_of(gui: EmulatedGui) -> RigUnitTable:
    """Return the table that belongs to its units."""
    return table(gui.units)


def table(units: Sequence[Any]) -> RigUnitTable:
    """Return the table of units as `spread_units` gives them."""
    return RigUnitTable(
        Population([unit for _, unit in units]), {key: row for row, (key, _) in enumerate(units)}
    )
