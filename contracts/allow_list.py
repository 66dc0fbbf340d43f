"""The list of keys that may connect: a folder of public keys, looked at again as it changes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from contracts.keys import (
    ALLOWED,
    PUBLIC_SUFFIX,
    KeyPair,
    load_pair,
    parse_key_file,
    secret_path,
)
from contracts.secret_file import check_folder

logger = logging.getLogger(__name__)


class AllowList:
    """The public keys in the ``.key`` files of a folder.

    A folder that is not there has none. One that cannot be read leaves the list as it was.

    Raises
    ------
    UserError
        If other users can write to the folder, and so let themselves in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[bytes, str] = {}
        self._state: object = None
        check_folder(folder, what="the list of the keys that may connect")
        self.refresh()
        if not self._names:
            logger.warning("no key may connect", extra={"folder": str(folder)})

    def __contains__(self, public: bytes) -> bool:
        return public in self._names

    def __len__(self) -> int:
        return len(self._names)

    def refresh(self) -> bool:
        """Look at the folder; return whether the list has changed. Takes some 20 us."""
        try:
            state = _state_of(self.folder)
        except OSError as error:
            if self._state != str(error):  # once
                self._state = str(error)
                logger.warning("list of keys cannot be read", extra={"reason": str(error)})
            return False
        if state == self._state:
            return False
        self._state = state
        before, self._names = self._names, self._read(state)
        return before.keys() != self._names.keys()

    def _read(self, state: tuple[tuple[str, int, int, int], ...]) -> dict[bytes, str]:
        names = {}
        for name, *_ in state:
            try:
                public = parse_key_file(self.folder / name)["public-key"]
            except (OSError, ValueError, KeyError):
                path = str(self.folder / name)
                logger.warning("no key in a file of the list", extra={"file": path})
            else:
                names[public] = name.removesuffix(PUBLIC_SUFFIX)
        return names


def _state_of(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes with the files of a folder: name, time, inode and size of each."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.name, (about := entry.stat()).st_mtime_ns, about.st_ino, about.st_size)
                for entry in entries
                if entry.name.endswith(PUBLIC_SUFFIX)
            ]
    except FileNotFoundError:
        return ()
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What it takes to listen: a pair of one's own, and the list of those who may connect."""

    own: KeyPair
    allowed: AllowList


def load_server_keys(own: str, *, setting: str) -> ServerKeys:
    """Read a pair, and the list beside it.

    Raises
    ------
    UserError
        If the pair cannot be had, or others can write to the list.
    """
    pair = load_pair(own, setting=setting)
    return ServerKeys(pair, AllowList(secret_path(own).parent / ALLOWED))
