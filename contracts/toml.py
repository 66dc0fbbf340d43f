"""TOML files, with a byte order mark or nested too deep, read without surprises."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    It must be UTF-8; a byte order mark at its beginning is passed over.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is not TOML, not UTF-8, or nests too deep.
    """
    return parse_toml(path.read_text(encoding="utf-8-sig"))


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises
    ------
    ValueError
        If it is not TOML, or nests too deep.

    Examples
    --------
    >>> parse_toml("a = [1, 2]")
    {'a': [1, 2]}
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
