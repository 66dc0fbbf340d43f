"""``neurrate stream``: a recording becomes a live stream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stream_sources.replay import Replay, replay

DEFAULT_REPLAY = Replay()


def nwb(
    recording: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    stream: str = "nwb",
    cache_dir: Path | None = None,
    options: Replay = DEFAULT_REPLAY,
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
        File or URL. A URL needs a server that answers Range requests; what is read is kept in
        the cache.
    units
        Conditions that a unit must meet, separated by commas: all, good, allen (the AllenSDK's
        default quality filter), area:VISp|VISl, probe:NAME, cell_type:NAME, ids:1|2|3
        (or ids:1,2,3).
    units_from
        Send exactly the units of this bundle, in its order.
    stream
        Name of the stream; one for each source that a daemon listens to.
    cache_dir
        Folder for what is read over http(s).
    """
    from stream_sources.recordings.nwb import NwbSource
    from stream_sources.recordings.open_source import units_of

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
    replay(source, options)


def sorting(
    folder: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    stream: str = "sorting",
    sampling_rate_hz: Annotated[float | None, Parameter(name="--sampling-rate-hz")] = None,
    options: Replay = DEFAULT_REPLAY,
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
    from stream_sources.recordings.open_source import units_of
    from stream_sources.recordings.sorting import SortingSource

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
    replay(source, options)
