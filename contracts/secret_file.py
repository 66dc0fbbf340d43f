"""Files that only their owner may read: secret keys and tokens."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from contracts.errors import UserError

TOKEN = re.compile(r"[!-~]{16,1024}")
"""Printable, without spaces, as a header can carry it; long enough not to be guessed."""


def check_secret(path: Path, *, setting: str) -> None:
    """Refuse a file that other users can read.

    Raises
    ------
    UserError
        With the command that mends it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UserError(
            f"{path} can be read by other users (mode {mode:04o}), and a secret must not be "
            f"({setting}). Run: chmod 600 {path}"
        )


def check_folder(path: Path, *, what: str) -> None:
    """Refuse a folder that other users can write to; one that is not there is fine.

    Raises
    ------
    UserError
        With the command that mends it. `what` says what the folder holds.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o022:
        raise UserError(
            f"Other users can write to {path} (mode {mode:04o}), {what}. Run: chmod 700 {path}"
        )


def load_token(path: Path, *, setting: str) -> str:
    """Read a token from a file of one line.

    Raises
    ------
    UserError
        If it is not there, others can read it, or it holds no token.
    """
    path = path.expanduser()
    try:
        check_secret(path, setting=setting)
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise UserError(
            f"There is no token {path} ({setting}). "
            f"Make one: (umask 077; openssl rand -hex 32 > {path})"
        ) from error
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UserError(f"Cannot read the token {path}: {reason} ({setting}).") from error
    except UnicodeDecodeError:
        text = ""
    if not TOKEN.fullmatch(text):
        raise UserError(
            f"{path} must hold one token of 16 to 1024 letters, digits and signs ({setting})."
        )
    return text
