"""One file of a journal: bytes appended, and forced to the disk."""

from __future__ import annotations

import os
from pathlib import Path

from contracts.atomic_files import READABLE, sync


class PartFile:
    """A new file that only grows; what an ``mcap.writer.Writer`` writes to.

    Unbuffered: what the writer has flushed is the kernel's, and survives this process.

    Raises
    ------
    OSError
        If it is there already, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far."""
        self.n_kept = 0
        """Bytes up to the last `sync`: whole records."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor: int | None = os.open(path, flags, READABLE)
        sync(path.parent)  # its name must survive a power cut as its content does

    def write(self, data: bytes) -> int:
        """Append bytes; all of them, or `OSError`."""
        rest = memoryview(data)
        while rest:
            n_written = os.write(self._fd(), rest)
            self.size += n_written
            rest = rest[n_written:]
        return len(data)

    def tell(self) -> int:
        """Return the size."""
        return self.size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def sync(self) -> None:
        """Wait until what was written is on the disk; call it between two records."""
        os.fdatasync(self._fd())
        self.n_kept = self.size

    def drop_unfinished(self) -> None:
        """Cut off what was written after the last `sync`: a part of a record."""
        os.ftruncate(self._fd(), self.n_kept)
        self.size = self.n_kept

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _fd(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        return self._descriptor
