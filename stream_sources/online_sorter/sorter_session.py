"""One run of the online sorter: open, publish until the end, and report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contracts.allow_list import ServerKeys
from contracts.clock import Clock
from stream_sources.live import publish_live
from stream_sources.online_sorter.calibrated_options import other_options
from stream_sources.online_sorter.open_templates import open_templates
from stream_sources.online_sorter.open_voltages import open_voltages
from stream_sources.online_sorter.sorter_metrics import serve_metrics
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.rigs.live_additions import LiveAdditions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SorterPlace:
    """Where a sorter listens, and to whom."""

    bind: str
    is_insecure: bool = False
    keys: ServerKeys | None = None
    metrics_port: int | None = None
    wait_for_subscribers: int = 0


def sort_live(
    voltages: str,
    templates: Path,
    options: SorterOptions,
    place: SorterPlace,
    additions: LiveAdditions,
    clock: Clock,
    *,
    duration_s: float | None = None,
    end_silence_s: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_bound: Callable[[str, int | None], None] = lambda *_: None,
) -> dict[str, Any]:
    """Sort until the voltages end or it is asked to stop.

    Parameters
    ----------
    voltages, duration_s, end_silence_s
        As in `open_voltages`.
    on_bound : callable
        Called with the address of the spikes and the port of the metrics.

    Returns
    -------
    report : dict
        What was sent, how fast, and the state of each unit.
    """
    options.check()  # before templates are estimated
    known = open_templates(templates)
    for text in other_options(templates, method=options.method, block_ms=options.block_ms):
        logger.warning("not as calibrated: an encoder learned from other spikes: %s", text)
    with closing(
        open_voltages(
            voltages,
            speed=options.speed,
            duration_s=duration_s,
            end_silence_s=end_silence_s,
            clock=clock,
        )
    ) as opened:
        logger.info(
            "starting the sorter: compiles for a minute the first time",
            extra={"method": options.method},
        )
        source = OnlineSorterSource(opened, known, options, clock=clock)
        added = additions.around(source, clock)
        with serve_metrics(source, place.metrics_port) as port:
            totals = publish_live(
                added.live,
                place.bind,
                clock,
                is_insecure=place.is_insecure,
                keys=place.keys,
                is_lossless=options.speed is None,
                wait_for_subscribers=place.wait_for_subscribers,
                should_stop=should_stop,
                on_bound=lambda address: on_bound(address, port),
            )
    return {
        "source": source.label,
        "templates": known.origin,
        **asdict(options),
        **asdict(source.counters),
        **asdict(totals),
        **source.load.figures._asdict(),
        "max_behind_s": source.load.max_behind_s,
        "real_time_factor": source.load.busy_s / max(source.load.sorted_s, 1e-9),
        "n_units_lost": source.units.n_lost,
        **added.counted(),
        "units": [asdict(unit) for unit in source.units.states()],
    }
