"""Temporary folders of a process, which the next start removes if it was killed.

A process that ends by SIGKILL, or with the machine, removes nothing. So each folder holds a file
that its owner keeps locked: the kernel releases the lock however the owner ends, and, unlike a
process id, a lock cannot belong to another process by chance. Making a folder removes those in the
same place whose owner has ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "neurrate-"
OWNER = "owner"
"""The locked file. A folder without one is not of this kind, or is being made."""


class TemporaryFolder:
    """A folder of mode 0700, at `path`, until it is closed.

    Raises
    ------
    OSError
        If there is no temporary folder that can be written.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        # Locked under another name, so that nobody finds it unlocked. The descriptor is not
        # inherited: a child that outlives its parent does not keep the folder.
        unnamed = self.path / f".{OWNER}"
        self._descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self.path / OWNER)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and what is in it. May be called twice."""
        if self._descriptor >= 0:
            _remove(self.path)
            os.close(self._descriptor)
            self._descriptor = -1


def remove_abandoned(place: Path) -> None:
    """Remove the folders of this user in `place` whose owner has ended."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            _remove_if_abandoned(folder)
        except OSError:  # somebody else's, or gone meanwhile
            continue


def _remove_if_abandoned(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    descriptor = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    # The locked file last: without it, the next start would not finish what is broken off here.
    with suppress(OSError):  # removed by somebody else
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != OWNER:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
