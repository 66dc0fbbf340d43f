"""``neurrate stream journal`` and ``neurrate journal``: what was recorded, again or for others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from contracts.atomic_files import check_writable
from contracts.errors import UserError
from contracts.journal_reader import JournalReader
from neurrate.arguments import JsonOption
from neurrate.stream_command import DEFAULT_OPTIONS, StreamOptions, play
from neurrate.tables import cell, print_table, write_json


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


def to_nwb(
    journal: Path,
    out: Path,
    *,
    subject_id: str = "",
    species: str = "",
    sex: str = "",
    age: str = "",
    json: JsonOption = None,
) -> None:
    """Export a journal as an NWB file: units, spikes, narrations, triggers, marks.

    A journal that was not closed is exported to its last whole message.

    Examples
    --------
        neurrate journal to-nwb journal/ session.nwb
        neurrate journal to-nwb journal/ session.nwb --subject-id m7 --species "Mus musculus"

    Parameters
    ----------
    journal
        Folder of the journal, or one of its parts.
    out
        The file to write; replaced if it is there.
    subject_id
        Name of the animal. Archives ask for it and the next three.
    species
        In Latin: Mus musculus.
    sex
        F, M, U (unknown) or O (other).
    age
        As an ISO 8601 duration: P90D.
    json
        Write what was exported to this file, as JSON.
    """
    from subscribers.recorder.nwb_export import AnimalFacts, export_nwb

    check_writable(out)
    check_writable(json)
    report = asdict(export_nwb(journal, out, AnimalFacts(subject_id, species, sex, age)))
    write_json(json, {"journal": str(journal), "out": str(out), **report})
    print_table("Exported", [{"": name, "exported": value} for name, value in report.items()])


def check(journal: Path, *, json: JsonOption = None) -> None:
    """Count what is in a journal and what is missing, over all of its parts.

    Missing are messages whose numbers are: lost on the way, with a recorder that was killed, or
    sent while none ran.

    Examples
    --------
        neurrate journal check journal/

    Parameters
    ----------
    journal
        Folder of the journal, or one of its parts.
    json
        Write the counts to this file, as JSON.
    """
    from subscribers.recorder.accounting import accounts_of

    check_writable(json)
    reader = JournalReader(journal)
    numbers = {"journal": str(journal), **accounts_of(reader).as_dict()}
    n_recordings = len({identity.recording for identity in reader.identities})
    numbers |= {"n_parts": len(reader.identities), "n_recordings": n_recordings}
    write_json(json, {**numbers, "unclosed": [str(part) for part in reader.unclosed]})
    print_table("Recorded", [{"": name, "recorded": cell(numbers[name])} for name in numbers])
    for part in reader.unclosed:
        print(part)
