"""Error types: one base, then who can correct it.

A message states the rule, what was found, where it came from, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

MAX_LISTED = 5
"""Offenders named in a message; the rest are counted."""


def listed(offenders: Sequence[object]) -> str:
    """Join at most five offenders and count the rest.

    >>> listed([1, 2, 3])
    '1, 2, 3'
    >>> listed(range(8))
    '0, 1, 2, 3, 4 and 3 more'
    """
    head = ", ".join(str(offender) for offender in offenders[:MAX_LISTED])
    n_more = len(offenders) - MAX_LISTED
    return f"{head} and {n_more} more" if n_more > 0 else head


MAX_SHOWN = 80
"""Characters of a text of somebody else's in a message of ours."""


def shown(text: str, *, limit: int = MAX_SHOWN) -> str:
    r"""Return a text from outside as a log or a terminal may show it.

    What steers a terminal or begins a line is escaped, and a long text is cut.

    >>> shown("probe\x1b[2J")
    'probe\\x1b[2J'
    """
    cut = text[:limit]
    letters = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut)
    return "".join(letters) + ("..." if len(text) > limit else "")


class NeurrateError(Exception):
    """Base of every error that this project raises on purpose.

    Attributes
    ----------
    exit_code : int
        What a command or a worker that it stops ends with; see docs/exit-codes.md.
    """

    exit_code: ClassVar[int] = 1


class UserError(NeurrateError):
    """The user's input is at fault: a file, a setting, an argument. Exit code 2, no traceback."""

    exit_code = 2


class DependencyError(NeurrateError):
    """Something that must be installed or running is not there. Exit code 3, no traceback."""

    exit_code = 3


class ChildError(NeurrateError):
    """A process that we started came to an end that it should not have. Code 1, no traceback."""


class MisuseError(NeurrateError):
    """Our own code broke a rule between two components. Exit code 1, with a traceback."""


class PeerError(NeurrateError):
    """The other end of a socket is at fault. Counted in the fast loop, never raised out of it."""


class WireError(PeerError):
    """A message does not follow the wire format.

    Attributes
    ----------
    reason : str
        Short and stable, for the label of a counter: ``"version"``, ``"size"``, ...
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordingError(UserError):
    """A recording cannot be replayed. All problems found, in one error."""

    def __init__(self, path: str, *problems: str) -> None:
        self.path = path
        self.problems = problems
        super().__init__(f"{path}: {_one_or_list(problems)}")


class ManifestError(UserError):
    """A bundle cannot be loaded. All problems found, in one error."""

    def __init__(self, path: str, *problems: str) -> None:
        self.path = path
        self.problems = problems
        super().__init__(f"bundle {path}: {_one_or_list(problems)}")


class EngineError(UserError):
    """A compiled engine cannot be made of a graph, or is not for this GPU, version or graph."""


class SettingsError(UserError):
    """Settings are refused. All problems found, in one error.

    Each problem says where the value came from.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(_one_or_list(self.problems))


class PopulationMismatchError(UserError):
    """The units that a stream sends are not those that the encoder expects.

    Attributes
    ----------
    missing : tuple of str
        Units of the encoder that no stream sends.
    extra : tuple of str
        Units of the stream that the encoder does not know.
    twice : tuple of str
        Units that another stream sends already.
    """

    def __init__(
        self,
        missing: Sequence[str],
        extra: Sequence[str],
        *,
        source: str,
        twice: Sequence[str] = (),
    ) -> None:
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.twice = tuple(twice)
        parts = []
        if missing:
            parts.append(
                f"{len(missing)} units of the encoder's population are not in the stream: "
                f"unit_id {_labels(missing)}"
            )
        if extra:
            parts.append(
                f"{len(extra)} units in the stream are not in the encoder's population: "
                f"unit_id {_labels(extra)}"
            )
        if twice:
            parts.append(
                f"{len(twice)} units are sent by two streams at once: unit_id {_labels(twice)}"
            )
        super().__init__(
            f"{'; '.join(parts)} (source '{shown(source)}'). Use the bundle made for this "
            "recording, or start the source with --units-from BUNDLE."
        )


def _labels(labels: Sequence[str]) -> str:
    # A peer chose them, and how many there are.
    return listed([*map(shown, labels[:MAX_LISTED]), *labels[MAX_LISTED:]])


def _one_or_list(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:" + "".join(f"\n  - {problem}" for problem in problems)
