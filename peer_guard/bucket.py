"""A limit on how often something may happen."""

from __future__ import annotations

import math

ROUNDING = 1e-6
"""Ten tenths of a token are one."""


class TokenBucket:
    """Holds `burst` tokens at most and gains `per_s` of them every second.

    More may be spent than there are: it then takes longer until there are some again.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._counted_s: float | None = None

    def available(self, now_s: float) -> int:
        """Return how many tokens there are; 0 or less if there is none."""
        if self._counted_s is not None:
            gained = (now_s - self._counted_s) * self._per_s
            self._tokens = min(self._burst, self._tokens + gained)
        self._counted_s = now_s
        return math.floor(self._tokens + ROUNDING)

    def spend(self, n_tokens: int) -> None:
        """Take tokens."""
        self._tokens -= n_tokens

    @property
    def is_full(self) -> bool:
        """Whether nothing was spent that has not been gained since, as of the last look."""
        return self._tokens >= self._burst

    @property
    def wait_s(self) -> float:
        """Seconds until there is a token, as of the last look."""
        return max(0.0, (1 - self._tokens) / self._per_s)
