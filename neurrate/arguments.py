"""Arguments that several verbs share, and the bounds of numbers."""

from __future__ import annotations

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

LagMs = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=10_000))]

Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**32))]
"""What every generator of random numbers here takes."""
