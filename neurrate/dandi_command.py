"""``neurrate stream dandi``: a file of the DANDI archive becomes a live stream."""

from __future__ import annotations

from pathlib import Path

from neurrate import stream_command
from neurrate.stream_command import DEFAULT_OPTIONS, StreamOptions


def dandi(
    asset: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    stream: str = "nwb",
    cache_dir: Path | None = None,
    options: StreamOptions = DEFAULT_OPTIONS,
) -> None:
    """Replay NWB of the DANDI archive, HDF5 or Zarr, without downloading it.

    What is read is kept in the cache, and an address that has expired is signed anew. Every command
    that takes a recording takes dandi:DANDISET/PATH too.

    Examples
    --------
        neurrate stream dandi 000021/sub-699733573/sub-699733573_ses-715093703.nwb
        neurrate stream dandi 000021@0.220126.1855/sub-699733573/sub-699733573_ses-715093703.nwb
        DANDI_API_KEY=... neurrate stream dandi 000123@draft/sub-1/sub-1.nwb --units good

    Parameters
    ----------
    asset
        DANDISET/PATH or DANDISET@VERSION/PATH; the newest published version if none is named, the
        draft where none is published. DANDI_API_KEY in the environment opens embargoed ones,
        DANDI_API_URL names another archive.
    units
        Conditions that a unit must meet, as for 'neurrate stream nwb'.
    units_from
        Send exactly the units of this bundle, in its order.
    stream
        Name of the stream; one for each source that a daemon listens to.
    cache_dir
        Folder for what is read.
    """
    from stream_sources.recordings.dandi import SCHEME

    stream_command.nwb(
        SCHEME + asset.removeprefix(SCHEME),
        units=units,
        units_from=units_from,
        stream=stream,
        cache_dir=cache_dir,
        options=options,
    )
