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


def toml_string(text: str) -> str:
    r"""Write a text as a TOML string; what is not printable stands as an escape.

    >>> print(toml_string('a "b"\n'))
    "a \"b\"\n"
    """
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}

    def written(letter: str) -> str:
        if letter in escapes or letter.isprintable():
            return escapes.get(letter, letter)
        return f"\\u{ord(letter):04x}" if ord(letter) < 1 << 16 else f"\\U{ord(letter):08x}"

    return f'"{"".join(map(written, text))}"'


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
