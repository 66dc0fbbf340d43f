"""``neurrate stream journal`` and ``neurrate journal``: what was recorded, again or for others."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import UserError
from neurrate.stream_command import DEFAULT_OPTIONS, StreamOptions, play


def stream(
    journal: Path, *, stream: str | None = None, options: StreamOptions = DEFAULT_OPTIONS
) -> None:
    """Replay what one source sent while 'neurrate record' recorded it, bit for bit.

    A journal that was not closed is played to its last whole message.

    Examples
    --------
        neurrate stream journal journal/
        neurrate stream journal journal/ --stream probeA --speed max
        neurrate stream journal journal/part-00002.mcap

    Parameters
    ----------
    journal
        Folder of the journal, or one of its parts.
    stream
        Which stream, where several were recorded.

    Raises
    ------
    UserError
        If it cannot be played.
    """
    from daemon.service.logs import configure_logging
    from stream_sources.journal import JournalSource

    configure_logging()
    if options.batch_ms is not None:
        raise UserError("A journal is played in the batches that were recorded: omit --batch-ms.")
    source = JournalSource(
        journal, stream=stream, start_s=options.start, duration_s=options.seconds
    )
    play(source, options)
