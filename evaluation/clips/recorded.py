"""What a daemon narrated while a schedule was shown, from a journal of ``neurrate record``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.clock import second_to_ns
from contracts.errors import UserError, WireError, listed
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.narration import Narration
from contracts.spikes import Mark
from evaluation.clips.narrations import ClipNarrations, Showing, narrations_of_clips
from evaluation.clips.schedule import Presentation
from evaluation.triggers.annotations import MAX_GAP_NS
from subscribers.listener import parse


def recorded_narrations(
    journal: Path, schedule: Sequence[Presentation], *, start_s: float | None
) -> ClipNarrations:
    """Return the narrations of the clips of a schedule.

    `start_s` is the session second at which the schedule began; without it the clips are found by
    stimulus marks that have their names.

    Raises
    ------
    UserError
        If it is no journal, or the schedule was not shown in it.
    """
    narrations, marks = _read(journal)
    if not narrations:
        raise UserError(
            f"{journal} holds no narrations. Record with 'neurrate record JOURNAL' while the "
            "daemon narrates."
        )
    made_by = {(one.provenance.bundle[:12], one.provenance.model) for one in narrations}
    if len(made_by) > 1:
        raise UserError(
            f"the narrations in {journal} must be of one bundle and language model, and are of "
            f"{listed(sorted(made_by))}. Name the journal of one session."
        )
    if start_s is None:
        showings = showings_of_marks(marks, schedule, journal)
    else:
        showings = [
            Showing(
                one.presentation,
                second_to_ns(start_s + one.onset_s),
                second_to_ns(start_s + one.onset_s + one.duration_s),
            )
            for one in schedule
        ]
    found = narrations_of_clips(narrations, showings)
    if not found.texts:
        raise UserError(
            f"none of the {len(narrations):,} narrations in {journal} is about a clip: a window "
            "must lie between 0.15 s after a clip's onset and its end. The clips were on from "
            f"{_span([one.start_ns for one in showings])} s, windows begin at "
            f"{_span([second_to_ns(one.window_start_s) for one in narrations])} s of the session."
        )
    (bundle, model) = made_by.pop()
    found.notes.insert(0, f"narrated by bundle {bundle} and {model or 'no language model'}")
    if len(showings) < len(schedule):
        found.notes.insert(
            1, f"{len(schedule) - len(showings)} of {len(schedule)} presentations have no mark"
        )
    return found


def showings_of_marks(
    marks: Sequence[Mark], schedule: Sequence[Presentation], journal: Path
) -> list[Showing]:
    """Return when each presentation was shown: the first mark of a name is its first row.

    Marks of successive frames are one showing. A mark without an end lasts as the schedule says.

    Raises
    ------
    UserError
        If no clip has a mark, or one has more than the schedule has rows.
    """
    rows: dict[str, list[Presentation]] = {}
    for presentation in schedule:
        rows.setdefault(presentation.clip, []).append(presentation)
    spans: dict[str, list[list[int]]] = {}
    for mark in sorted(marks, key=lambda mark: (mark.start_ns, mark.stop_ns)):
        if mark.stimulus in rows:
            of_clip = spans.setdefault(mark.stimulus, [])
            if of_clip and mark.start_ns - of_clip[-1][1] <= MAX_GAP_NS:
                of_clip[-1][1] = max(of_clip[-1][1], mark.stop_ns)
            else:
                of_clip.append([mark.start_ns, mark.stop_ns])
    if not spans:
        names = sorted({mark.stimulus for mark in marks})
        raise UserError(
            f"{journal} must hold a mark for each clip, with the clip's name ({schedule[0].clip}), "
            f"and its {len(marks):,} marks are {listed(names) or 'none'}. Have the stimulus "
            "program send them, or give --start if the session second of the first row is known."
        )
    often = [clip for clip, found in spans.items() if len(found) > len(rows[clip])]
    if often:
        clip = often[0]
        raise UserError(
            f"{journal} has {len(spans[clip])} showings of {clip!r} and the schedule has "
            f"{len(rows[clip])}: it is of another schedule, or of several sessions. Name the "
            "journal of one session."
        )
    return [
        Showing(
            row.presentation,
            start,
            stop if stop > start else start + second_to_ns(row.duration_s),
        )
        for clip, found in spans.items()
        for row, (start, stop) in zip(rows[clip], found, strict=False)
    ]


def _read(path: Path) -> tuple[list[Narration], list[Mark]]:
    narrations: list[Narration] = []
    marks: dict[tuple[int, int, str], Mark] = {}  # several probes send one, and the daemon
    for message in JournalReader(path).messages(_is_wanted):
        try:
            value = parse(message.parts, host_ns=message.host_ns).value
        except WireError:  # 'neurrate journal check' counts what follows no format
            continue
        if isinstance(value, Mark):
            marks.setdefault((value.start_ns, value.stop_ns, value.stimulus), value)
        elif isinstance(value, Narration):
            narrations.append(value)
    return narrations, list(marks.values())


def _is_wanted(origin: Origin, topic: str) -> bool:
    kinds = ("mark.",) if origin is Origin.SOURCE else ("mark.", "narration.")
    return topic.startswith(kinds)


def _span(times_ns: Sequence[int]) -> str:
    return f"{min(times_ns) / 1e9:.1f} to {max(times_ns) / 1e9:.1f}"
