"""How fast a recording is played, and in what batches."""

from __future__ import annotations

from contracts.errors import UserError

BATCH_MS = 10.0
"""Length of a batch at real time: what an online sorter gives, and far below any window."""

SHORTEST_BATCH_MS = 0.1
"""A hundredth of what an online sorter gives at once."""

LONGEST_BATCH_MS = 1000.0
"""Of the session, and below real time of the clock: the Must in docs/wire-format.md, `spikes`."""

BATCH_MS_AT_MAX = 100.0
"""Length of a batch at ``--speed max``, where each message costs and latency means nothing."""


def speed_factor(text: str) -> float | None:
    """Read ``--speed``: a number above 0, or ``max`` (None).

    Raises
    ------
    UserError
        If it is neither.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1e6:
        raise UserError(f"--speed must be max or a number from 0.001 to 1e6, got {text!r}.")
    return speed


def batch_length_ms(speed: float | None, batch_ms: float | None = None) -> float:
    """Return the length of a batch such that one is sent at least once a second.

    `batch_ms` is ``--batch-ms``; 10 if omitted, 100 at full speed, less where 10 would take over a
    second.

    Raises
    ------
    UserError
        If `batch_ms` is not from 0.1 to 1000, or takes longer than a second at this speed.
    """
    longest = LONGEST_BATCH_MS if speed is None else LONGEST_BATCH_MS * min(1.0, speed)
    if batch_ms is None:
        return min(longest, BATCH_MS_AT_MAX if speed is None else BATCH_MS)
    if not SHORTEST_BATCH_MS <= batch_ms <= LONGEST_BATCH_MS:
        raise UserError(f"--batch-ms must be from 0.1 to 1000, got {batch_ms}.")
    if batch_ms > longest:
        raise UserError(
            f"--batch-ms must be at most {longest:g} at --speed {speed:g}, got "
            f"{batch_ms:g}: a source sends at least once a second, or the daemon takes "
            "it for blind."
        )
    return batch_ms
