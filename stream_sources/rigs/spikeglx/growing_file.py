"""A file of int16 samples that is read while another program writes it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError

BYTES = 2  # of a number


class GrowingFile:
    """Reads whole samples, each once, as they come.

    Nothing is read from a file that became shorter, was replaced or was written anew: what it holds
    is then not what follows. The last of these is seen because the newest sample that was read is
    read again, and compared, with what comes after it.

    Raises
    ------
    RecordingError
        If it cannot be opened.
    """

    def __init__(self, path: Path, n_columns: int) -> None:
        self.n_samples = 0  # read so far
        self._path = path
        self._n_columns = n_columns
        self._newest = b""
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise RecordingError(str(path), f"it cannot be read: {error.strerror}") from error
        self._largest = self.n_bytes  # also of what is not read yet

    @property
    def n_bytes(self) -> int:
        """Its size now."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def read(self, max_samples: int) -> NDArray[np.int16]:
        """Return what has come, shape (n_samples, n_columns); a sample in part waits.

        Raises
        ------
        RecordingError
            If the file was cut, replaced or written anew.
        """
        row_bytes = self._n_columns * BYTES
        n_read_bytes = self.n_samples * row_bytes
        self._check_same()
        n_samples = min((self.n_bytes - n_read_bytes) // row_bytes, max_samples)
        if n_samples <= 0:
            return np.empty((0, self._n_columns), np.int16)
        begin = n_read_bytes - len(self._newest)
        self._file.seek(begin)
        content = self._file.read(n_read_bytes - begin + n_samples * row_bytes)
        if not content.startswith(self._newest):
            raise RecordingError(
                str(self._path),
                f"sample {self.n_samples - 1} is another one than before: the file was written "
                "anew. Start the source again",
            )
        content = content[len(self._newest) :]
        content = content[: len(content) // row_bytes * row_bytes]  # a read may give less
        if content:
            self.n_samples += len(content) // row_bytes
            self._newest = content[-row_bytes:]
        return np.frombuffer(content, dtype="<i2").reshape(-1, self._n_columns)

    def skip_to_newest(self, n_samples: int) -> int:
        """Pass over all but the newest whole samples; return how many were passed over."""
        n_waiting = self.n_bytes // (self._n_columns * BYTES) - self.n_samples
        n_skipped = max(0, n_waiting - n_samples)
        if n_skipped:
            self.n_samples += n_skipped
            self._newest = b""
        return n_skipped

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_same(self) -> None:
        ours = os.fstat(self._file.fileno())
        try:
            is_same = os.path.samestat(ours, self._path.stat())
        except FileNotFoundError as error:
            problem = "the file is gone: it was removed, or its disk is no longer connected"
            raise RecordingError(str(self._path), problem) from error
        if not is_same:
            problem = "another file has taken its place. Start the source again"
            raise RecordingError(str(self._path), problem)
        if ours.st_size < self._largest:
            raise RecordingError(
                str(self._path),
                f"the file became shorter: it had {self._largest:,} bytes, and has "
                f"{ours.st_size:,}. Start the source again",
            )
        self._largest = ours.st_size
