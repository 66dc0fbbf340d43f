"""A folder of keys: pairs of one's own, public keys of others, and those that may connect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts.atomic_files import write_text
from contracts.errors import UserError, listed
from contracts.keys import (
    ALLOWED,
    NAME,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    KeyPair,
    key_text,
    load_pair,
    load_public,
    parse_key_file,
)
from contracts.secret_file import check_folder
from peer_guard.curve import new_pair

FOLDER_MODE, SECRET_MODE = 0o700, 0o600


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key in the folder; `problem` is what is wrong with its file, or empty."""

    name: str
    kind: Literal["pair", "public", "allowed"]
    path: Path
    public: bytes = b""
    problem: str = ""


class KeyFolder:
    """What ``neurrate keys`` does, in one folder.

    Raises
    ------
    UserError
        If other users can write to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self.allowed = self.path / ALLOWED
        for folder in (self.path, self.allowed):
            check_folder(folder, what="which holds keys")

    def new(self, name: str) -> KeyPair:
        """Make a pair.

        Raises
        ------
        UserError
            If the name is none, or taken.
        """
        _check_name(name)
        secret, public = self.path / f"{name}{SECRET_SUFFIX}", self.path / f"{name}{PUBLIC_SUFFIX}"
        for path in (secret, public):
            if path.exists():
                raise UserError(
                    f"There is a key {path} already, and it is not overwritten: whoever knows it "
                    "would be locked out. Take another name, or remove it first."
                )
        self._make()
        pair = new_pair()
        # Never readable by others, not even while it is being written.
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key_text(pair.public, pair.secret))
            file.flush()
            os.fsync(file.fileno())
        write_text(public, key_text(pair.public))
        return pair

    def allow(self, key_file: Path, *, name: str = "", replace: bool = False) -> str:
        """Let the key in a file connect, and return the name under which it is on the list.

        Raises
        ------
        UserError
            If it is no public key, or another key has that name and should not be replaced.
        """
        public = load_public(str(key_file.absolute()), setting="KEYFILE")
        if "secret-key" in parse_key_file(key_file):
            raise UserError(
                f"{key_file} holds a secret key, which should never leave its machine. "
                f"Take the public half, NAME{PUBLIC_SUFFIX}."
            )
        name = name or key_file.name.removesuffix(PUBLIC_SUFFIX)
        _check_name(name)
        target = self.allowed / f"{name}{PUBLIC_SUFFIX}"
        if target.exists() and not replace and load_public(str(target), setting=name) != public:
            raise UserError(
                f"Another key is on the list as {name}. Add --replace, which takes it off, or "
                "--name NAME for this one."
            )
        self._make()
        write_text(target, key_text(public))
        return name

    def revoke(self, name: str) -> None:
        """Take a key off the list.

        Raises
        ------
        UserError
            If it is not on it.
        """
        try:
            (self.allowed / f"{name}{PUBLIC_SUFFIX}").unlink()
        except FileNotFoundError as error:
            names = [key.name for key in self.keys() if key.kind == "allowed"]
            found = f"It has {listed(names)}." if names else "It is empty."
            raise UserError(f"No key is on the list as {name}. {found}") from error

    def keys(self) -> Iterator[FoundKey]:
        """Yield pairs first, then public keys of others, then those that may connect."""
        secrets = sorted(self.path.glob(f"*{SECRET_SUFFIX}"))
        for path in secrets:
            yield _found(path, "pair", SECRET_SUFFIX)
        pairs = {path.name.removesuffix(SECRET_SUFFIX) for path in secrets}
        for path in sorted(self.path.glob(f"*{PUBLIC_SUFFIX}")):
            if path.name.removesuffix(PUBLIC_SUFFIX) not in pairs:
                yield _found(path, "public", PUBLIC_SUFFIX)
        for path in sorted(self.allowed.glob(f"*{PUBLIC_SUFFIX}")):
            yield _found(path, "allowed", PUBLIC_SUFFIX)

    def _make(self) -> None:
        self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self.allowed.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            f"A key's name has up to 64 letters, digits, dots, dashes and underscores, and begins "
            f"with a letter or digit; got {name!r:.80}."
        )


def _found(path: Path, kind: Literal["pair", "public", "allowed"], suffix: str) -> FoundKey:
    name = path.name.removesuffix(suffix)
    try:
        if kind == "pair":
            public = load_pair(str(path), setting=name).public
        else:
            public = load_public(str(path), setting=name)
    except UserError as error:
        return FoundKey(name, kind, path, problem=str(error))
    return FoundKey(name, kind, path, public)
