"""Finished files of SpikeGLX as a SpikeInterface recording, with the gains of each channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import RecordingError
from stream_sources.rigs.spikeglx.meta_file import check_size, read_meta

if TYPE_CHECKING:
    from spikeinterface import BaseRecording


def open_finished(folder: Path, stream: str) -> BaseRecording:
    """Open the files of one stream (``imec0.ap``) in a folder and those below it.

    SpikeInterface reads the samples. The gains are those of the ``.meta``: neo 0.14 gives the n
    channels that were saved the gains of the first n in ``imroTbl``, and these may be others.

    Raises
    ------
    RecordingError
        If a ``.meta`` cannot be read, or a file was cut, or the channels are others.
    """
    from spikeinterface.extractors import read_spikeglx

    metas = {path: read_meta(path) for path in sorted(folder.rglob(f"*.{stream}.meta"))}
    if not metas:
        raise RecordingError(str(folder), f"there is no .meta of {stream}; SpikeGLX writes one")
    for path, meta in metas.items():
        samples = path.with_suffix(".bin")
        if not samples.is_file():
            raise RecordingError(str(samples), "there is no such file beside its .meta")
        check_size(samples, samples.stat().st_size, meta)
    recording = read_spikeglx(folder, stream_id=stream)
    gains = [meta.uv_per_bit for meta in metas.values()]
    for path, meta in metas.items():
        if meta.layout.channel_ids != tuple(recording.channel_ids):
            raise RecordingError(str(path), "its channels are not those that SpikeInterface reads")
        if not np.array_equal(meta.uv_per_bit, gains[0]):
            raise RecordingError(str(path), "its gains differ from those of the run's other files")
    recording.set_channel_gains(gains[0])
    return recording
