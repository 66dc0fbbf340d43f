"""Files that are whole or not there: written under another name, forced to the disk, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.errors import UserError

READABLE = 0o644
"""Mode of what is written. safetensors writes for the owner alone, and others export and run it."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend another name to write under; the file takes its own when it is whole and on the disk.

    A file that is there is replaced; it stays as it was when writing ends in an error, or by a
    signal.
    """
    partial = partial_name(path)
    try:
        yield partial
        partial.chmod(READABLE)
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: object, *, indent: int = 1) -> None:
    """Write indented JSON, whole or not at all; numbers that are not finite are refused."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    # A file's name need not be UTF-8. What is not becomes an escape that JSON has too.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


def check_writable(path: Path | None) -> None:
    """Refuse a path that cannot be written, before the work that leads to it.

    None, no file wanted, is fine.

    Raises
    ------
    UserError
        With what is in the way.
    """
    if path is None:
        return
    target = path.resolve()
    folder = target.parent
    if target.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if target.exists() and not target.is_file():
        raise UserError(f"Cannot write {path}: it is a device, not a file. Name a file.")
    if not folder.is_dir():
        raise UserError(f"Cannot write {path}: there is no folder {folder}. Make it first.")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"Cannot write {path}: permission denied. Name a file that you may write.")
    partial = partial_name(target)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        reason = (error.strerror or "it cannot be made").lower()
        raise UserError(
            f"Cannot write {path}: {reason}. Name a file that you may write."
        ) from error


def check_folder_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, before the work that leads to it.

    Folders above it may be missing too.

    Raises
    ------
    UserError
        With what is in the way.
    """
    lowest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not lowest.is_dir():
        raise UserError(f"Cannot write {folder}: {lowest} is a file. Name another folder.")
    if not os.access(lowest, os.W_OK):
        raise UserError(
            f"Cannot write {folder}: permission denied in {lowest}. "
            "Name a folder that you may write."
        )


def partial_name(path: Path) -> Path:
    """Return the name under which a file is written until it is whole."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
