"""Which software this is: its version, and its commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GIT_TIMEOUT_S = 10.0
"""Git answers in milliseconds; a folder on a server that is gone must not keep a daemon."""


@cache
def software() -> dict[str, str]:
    """Return ``version`` and ``commit``.

    The commit ends in ``-dirty`` where files differ from it, and is empty in an installed package.
    """
    return {"version": _version(), "commit": _commit()}


def _version() -> str:
    try:
        return metadata.version("neurrate")
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    # An installed package may lie in somebody else's repository, whose commit says nothing.
    if not (ROOT / ".git").exists():
        return ""
    words = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
