"""What was on the screen, and how much of it was named. No socket, no drawing.

A recording may hold a caption for each presentation; its source sends them as marks. They are kept
by time, so that a narration can be compared with the caption of the moment that it describes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from contracts.spikes import Mark

MAX_SPANS = 10_000
"""Spans with one caption each that are kept: five hours of scenes of two seconds."""


@dataclass(frozen=True, slots=True)
class CaptionSpan:
    """Presentations one after another with the same caption; half open, session nanoseconds."""

    start_ns: int
    stop_ns: int
    caption: str


@dataclass(slots=True)
class CaptionTimeline:
    """The captions of one source, by time.

    They are in order of their start.
    """

    spans: list[CaptionSpan] = field(default_factory=list)
    _run: tuple[str, str] = ("", "")

    def add(self, mark: Mark) -> None:
        """Take in what a source shows; another run has other times, and starts a new timeline."""
        if (mark.stream, mark.run) != self._run:
            self._run = (mark.stream, mark.run)
            self.spans.clear()
        if not mark.caption:
            return
        last = self.spans[-1] if self.spans else None
        if last and last.caption == mark.caption and mark.start_ns <= last.stop_ns:
            self.spans[-1] = CaptionSpan(
                last.start_ns, max(last.stop_ns, mark.stop_ns), last.caption
            )
            return
        self.spans.append(CaptionSpan(mark.start_ns, mark.stop_ns, mark.caption))
        del self.spans[:-MAX_SPANS]

    def caption_at(self, session_ns: int) -> str:
        """Return the caption of what was shown at a time; empty where none is known."""
        at = bisect_right(self.spans, session_ns, key=lambda span: span.start_ns) - 1
        return self.spans[at].caption if at >= 0 and session_ns < self.spans[at].stop_ns else ""


@dataclass(slots=True)
class ObjectScore:
    """Kinds of things named, against kinds of things shown, added up over narrations (micro).

    Attributes
    ----------
    n_right, n_wrong, n_missed : int
        Kinds that were named and shown; named and not shown; shown and not named.
    """

    n: int = 0
    n_right: int = 0
    n_wrong: int = 0
    n_missed: int = 0

    def add(self, named: AbstractSet[str], shown: AbstractSet[str]) -> None:
        """Score one narration against the true caption."""
        self.n += 1
        self.n_right += len(named & shown)
        self.n_wrong += len(named - shown)
        self.n_missed += len(shown - named)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 0 to 1; None where there is nothing to name."""
        among = 2 * self.n_right + self.n_wrong + self.n_missed
        return 2 * self.n_right / among if among else None
