"""What is observed of one fault; an expectation that is not met ends the case."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from contracts.errors import NeurrateError

DEADLINE_S = 60.0
"""For what takes a second or two on a quiet machine."""

PAUSE_S = 0.05

Found = TypeVar("Found")


class ExpectationError(NeurrateError):
    """What a fault should show was not seen."""


@dataclass(slots=True)
class Observations:
    """Quotes for the table, in the order in which they were observed."""

    sees: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def wait_for(
    look: Callable[[], Found | None], what: Callable[[], str], *, deadline_s: float = DEADLINE_S
) -> Found:
    """Return what `look` finds, as soon as it is not None.

    Raises
    ------
    ExpectationError
        With `what`, if nothing is found in time.
    """
    stop = time.monotonic() + deadline_s
    while (found := look()) is None:
        if time.monotonic() > stop:
            raise ExpectationError(f"not seen within {deadline_s:.0f} s: {what()}")
        time.sleep(PAUSE_S)
    return found


def expect(is_met: object, what: str) -> None:
    """Fail the case unless a condition is met.

    Raises
    ------
    ExpectationError
        With `what` was expected.
    """
    if not is_met:
        raise ExpectationError(f"expected {what}")
