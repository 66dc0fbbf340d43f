"""Triggers, in what a watcher reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from contracts.trigger import Trigger, trigger_latency_ms


@dataclass(frozen=True, slots=True)
class ReceivedTriggers:
    """The newest trigger of one rule, and how many there were.

    Attributes
    ----------
    total_ms : float
        Newest spike received to published.
    n : int
        Triggers of this rule received so far, this one included.
    """

    name: str
    population: str
    score: float
    window_stop_s: float
    total_ms: float
    is_dry: bool
    n: int

    @classmethod
    def of(cls, trigger: Trigger, n_before: int) -> ReceivedTriggers:
        """Return what is read of a trigger."""
        return cls(
            name=trigger.name,
            population=trigger.population,
            score=float(trigger.score),
            window_stop_s=float(trigger.window.stop_s),
            total_ms=float(trigger_latency_ms(trigger.stamps)["total"]),
            is_dry=bool(trigger.dry_run),
            n=n_before + 1,
        )

    @property
    def line(self) -> str:
        """One line for a log or a pipe."""
        dry = "; dry run" if self.is_dry else ""
        return (
            f"{self.window_stop_s:.3f} s  {self.population}: [{self.name}] {self.score:.2f}  "
            f"({self.total_ms:.1f} ms{dry})"
        )


def triggers_line(fired: Mapping[str, ReceivedTriggers], session_s: float) -> Text:
    """Return one line: every rule that fired, how often, and when last.

    `session_s` is the end of the newest window; a trigger of the last second stands out.
    """
    line = Text("triggers", style="dim", no_wrap=True, overflow="ellipsis")
    for name, one in sorted(fired.items()):
        is_new = 0 <= session_s - one.window_stop_s < 1
        line.append(f"  {name} ", style="bold yellow" if is_new else "")
        line.append(f"{one.n}x, {one.window_stop_s:.1f} s, {one.total_ms:.1f} ms", style="dim")
        line.append(" dry" if one.is_dry else "", style="dim")
    return line
