"""A host clock that tests turn by hand."""

from __future__ import annotations


class ManualClock:
    """Stands still unless a test moves it, or sleeps."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.ns = now_ns

    def now_ns(self) -> int:
        """Return the time."""
        return self.ns

    def sleep_ns(self, duration_ns: int) -> None:
        """Move on at once."""
        self.ns += max(0, duration_ns)
