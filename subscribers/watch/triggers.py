"""Triggers, in what a watcher reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from contracts.trigger import Trigger, trigger_latency_ms


@dataclass(frozen=True, slots=True)
class ReceivedTriggers:
    """The newest trigger of one rule, and how many there were with it."""

    newest: Trigger
    n: int

    @property
    def stop_s(self) -> float:
        """End of the window, session seconds."""
        return self.newest.window.stop_s

    @property
    def total_ms(self) -> float:
        """From newest spike received to published."""
        return trigger_latency_ms(self.newest.stamps)["total"]

    @property
    def line(self) -> str:
        """One line for a log or a pipe."""
        trigger, dry = self.newest, "; dry run" if self.newest.dry_run else ""
        return (
            f"{self.stop_s:.3f} s  {trigger.population}: [{trigger.name}] {trigger.score:.2f}  "
            f"({self.total_ms:.1f} ms{dry})"
        )


def triggers_line(fired: Mapping[str, ReceivedTriggers], session_s: float) -> Text:
    """Return one line: every rule that fired, how often, and when last.

    `session_s` is the end of the newest window; a trigger of the last second stands out.
    """
    line = Text("triggers", style="dim", no_wrap=True, overflow="ellipsis")
    for name, one in sorted(fired.items()):
        is_new = 0 <= session_s - one.stop_s < 1
        line.append(f"  {name} ", style="bold yellow" if is_new else "")
        line.append(f"{one.n}x, {one.stop_s:.1f} s, {one.total_ms:.1f} ms", style="dim")
        line.append(" dry" if one.newest.dry_run else "", style="dim")
    return line
