"""Which narration is about which showing of a clip."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.clock import second_to_ns
from contracts.narration import Narration
from evaluation.narrations.windows import MAX_LATENCY_NS


@dataclass(frozen=True, slots=True)
class Showing:
    """When a presentation of the schedule was on the screen, session nanoseconds."""

    presentation: int
    start_ns: int
    stop_ns: int


@dataclass(slots=True)
class ClipNarrations:
    """The sentences about each showing, by narrator and presentation; a failed one is empty."""

    texts: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    units: dict[str, int | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # What a reader must know

    def add(self, narrator: str, n_units: int | None, presentation: int, text: str) -> None:
        """Add one sentence."""
        self.units[narrator] = n_units
        self.texts.setdefault(narrator, {}).setdefault(presentation, []).append(text)


def narrations_of_clips(
    narrations: Iterable[Narration], showings: Sequence[Showing]
) -> ClipNarrations:
    """Give each narration to the showing that its window lies in; others are left out.

    A window belongs to a clip if all its spikes answer that clip (`narrations.windows`) and every
    bin was covered.
    """
    found = ClipNarrations()
    n_gaps = 0
    for narration, presentation in windows_of_clips(narrations, showings):
        if narration.n_gap_bins or narration.blind_streams:
            n_gaps += 1
            continue
        name = narration.label or narration.population
        found.add(name, narration.n_units, presentation, narration.utterance.text)
    if n_gaps:
        found.notes.append(
            f"{n_gaps:,} narrations of clips were left out, as spikes of their windows are missing"
        )
    return found


def windows_of_clips(
    narrations: Iterable[Narration], showings: Sequence[Showing]
) -> Iterable[tuple[Narration, int]]:
    """Yield narrations whose windows hold the spikes of one clip alone, and its presentation."""
    in_order = sorted(showings, key=lambda showing: showing.start_ns)
    starts = [showing.start_ns for showing in in_order]
    for narration in narrations:
        at = bisect_right(starts, second_to_ns(narration.frame_s)) - 1
        if at < 0:
            continue
        clip = in_order[at]
        first = second_to_ns(narration.window_start_s)
        last = second_to_ns(narration.window_stop_s)
        if clip.start_ns + MAX_LATENCY_NS <= first and last <= clip.stop_ns:
            yield narration, clip.presentation


def order_of(narrators: Iterable[str], wanted: Sequence[str], last: Sequence[str]) -> list[str]:
    """Return narrators in the order of tables: those that were asked for, others, controls."""
    found = list(narrators)
    rank: Mapping[str, int] = {name: at for at, name in enumerate(wanted)}
    return sorted(found, key=lambda name: (name in last, rank.get(name, len(rank))))
