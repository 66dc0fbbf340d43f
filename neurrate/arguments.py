"""Arguments that several verbs share, and the bounds of numbers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

ConfigOption = Annotated[Path | None, Parameter(name="--config")]
SetOption = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]
JsonOption = Annotated[Path | None, Parameter(name="--json")]

Seconds = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1e6))]
"""A length of time that somebody waits for or that is simulated: up to eleven days."""

Count = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=100_000))]
"""Units or bins: as many as a population or a window may have."""

Threads = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=256))]
"""Or processes."""

LagMs = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=10_000))]

Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**32))]
"""What every generator of random numbers here takes."""


def command_text(*words: object, **options: object) -> str:
    """Return a command that can be typed; options of None are left out."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    pairs = [[name, str(value)] for name, value in given.items() if value is not None]
    return shlex.join(["neurrate", *map(str, words), *(word for pair in pairs for word in pair)])
