"""Arguments that several verbs share, and the bounds of numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.errors import SettingsError

if TYPE_CHECKING:
    from daemon.service.settings_loader import LoadedSettings

ConfigOption = Annotated[Path | None, Parameter(name="--config")]
SetOption = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]
JsonOption = Annotated[Path | None, Parameter(name="--json")]

Seconds = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1e6))]
"""A length of time that somebody waits for or that is simulated: up to eleven days."""

Count = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=100_000))]
"""Units or bins: as many as a population or a window may have."""

Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**32))]
"""What every generator of random numbers here takes."""


def overrides_of(texts: Sequence[str]) -> dict[str, object]:
    """Read ``key=value`` texts.

    Parameters
    ----------
    texts : sequence of str
        As given to ``--set``; a later one of the same key wins.

    Returns
    -------
    overrides : dict
        Dotted keys and the texts of their values.

    Raises
    ------
    SettingsError
        If a text has no ``=``.
    """
    bad = [text for text in texts if not text.partition("=")[0].strip() or "=" not in text]
    if bad:
        raise SettingsError([f"--set takes key=value, got {text!r}." for text in bad])
    pairs = (text.partition("=") for text in texts)
    return {key.strip(): value for key, _, value in pairs}


def settings_from(
    config: Path | None, texts: Sequence[str], named: Mapping[str, object] | None = None
) -> LoadedSettings:
    """Load the settings from a file, this process's environment and the command line.

    Parameters
    ----------
    config : Path or None
        TOML file.
    texts : sequence of str
        As given to ``--set``.
    named : mapping, optional
        Dotted keys and values of options that have names of their own; they win over ``--set``.
    """
    from daemon.service.settings_loader import load_settings

    overrides = {**overrides_of(texts), **(named or {})}
    return load_settings(file=config, environ=os.environ, overrides=overrides)
