"""Keys of CURVE, and the files that hold them. No cryptography here.

A pair is two files in the format of ZeroMQ's own tools (ZPL), which any libzmq program reads:
``NAME.key`` with the public key, to be given to others, and ``NAME.key_secret`` with both. A secret
that other users can read is refused. Whoever listens lets in the keys whose ``NAME.key`` lies in
the folder ``allowed`` beside its own (`contracts.allow_list`).

References
----------
Z85, https://rfc.zeromq.org/spec/32/; ZPL, https://rfc.zeromq.org/spec/4/
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import UserError
from contracts.secret_file import check_secret

KEY_BYTES = 32
"""Of Curve25519, either half of a pair."""

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"
"""As ``zmq.auth.create_certificates`` names them."""

ALLOWED = "allowed"
"""The folder beside one's own pair with the public keys that may connect."""

MAX_FILE_BYTES = 65_536

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_DIGITS = {letter: digit for digit, letter in enumerate(_Z85)}
_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]*)"\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret half, 32 bytes each; the secret is not shown."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What it takes to connect: a pair of one's own, and the public key of whoever listens."""

    own: KeyPair
    server: bytes


def to_z85(data: bytes) -> str:
    """Write bytes, a multiple of four, in 85 printable characters.

    >>> to_z85(bytes.fromhex("864fd26fb559f75b"))
    'HelloWorld'
    """
    words = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
    powers = [85**power for power in (4, 3, 2, 1, 0)]
    return "".join(_Z85[word // power % 85] for word in words for power in powers)


def from_z85(text: str) -> bytes:
    """Read what `to_z85` writes.

    Raises
    ------
    ValueError
        If it is none.
    """
    if len(text) % 5 or not set(text) <= set(_Z85):
        raise ValueError("no Z85")
    data = b""
    for at in range(0, len(text), 5):
        word = 0
        for letter in text[at : at + 5]:
            word = word * 85 + _DIGITS[letter]
        if word >> 32:
            raise ValueError("no Z85")
        data += word.to_bytes(4, "big")
    return data


def keys_folder() -> Path:
    """Return ``$XDG_CONFIG_HOME/neurrate/keys``, by default ``~/.config/neurrate/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "neurrate" / "keys"


def secret_path(own: str) -> Path:
    """Return the file of a pair that is named, or whose path is given."""
    return _path(own, SECRET_SUFFIX)


def load_pair(own: str, *, setting: str) -> KeyPair:
    """Read the pair of a name in the usual folder, or of a path.

    Raises
    ------
    UserError
        If it is not there, others can read it, or it holds no pair.
    """
    path = secret_path(own)
    found = _read(path, setting, f"'neurrate keys new {path.name.partition('.')[0]}' makes one.")
    check_secret(path, setting=setting)
    public, secret = found.get("public-key", b""), found.get("secret-key", b"")
    if not secret or not public:
        raise UserError(
            f"{path} must hold a public and a secret key of 40 characters each ({setting}). "
            "'neurrate keys new NAME' makes a pair."
        )
    return KeyPair(public, secret)


def load_public(key: str, *, setting: str) -> bytes:
    """Read the public key of a name in the usual folder, or of a path.

    Raises
    ------
    UserError
        If it is not there, or holds no key.
    """
    path = _path(key, PUBLIC_SUFFIX)
    remedy = f"Copy {path.name} from the machine that has the pair: it is no secret."
    public = _read(path, setting, remedy).get("public-key", b"")
    if not public:
        raise UserError(f"{path} must hold a public key of 40 characters ({setting}). {remedy}")
    return public


def load_keys_of_servers(
    own: str | None, servers: Sequence[str], addresses: Sequence[str], *, settings: tuple[str, str]
) -> list[ClientKeys | None]:
    """Return what it takes to connect to each address; None where there are no keys.

    `servers` are public keys in the order of the addresses, or one for all of them; ``none`` for an
    address without. `settings` name `own` and `servers` in errors.

    Raises
    ------
    UserError
        If a key cannot be had, or they are not as many as the addresses.
    """
    if not servers:
        return [None] * len(addresses)
    if own is None:
        raise UserError(
            f"{settings[1]} needs {settings[0]} too, the pair of keys that this side has. "
            "'neurrate keys new NAME' makes one."
        )
    if len(servers) not in {1, len(addresses)}:
        raise UserError(
            f"{settings[1]} takes one key for all addresses or one for each of the "
            f"{len(addresses)}, got {len(servers)}. Write none for an address without."
        )
    pair = load_pair(own, setting=settings[0])
    found = [
        None if one == "none" else ClientKeys(pair, load_public(one, setting=settings[1]))
        for one in servers
    ]
    return found * len(addresses) if len(found) == 1 else found


def key_text(public: bytes, secret: bytes = b"") -> str:
    """Return a file's content."""
    about = "secret: it stays on this machine" if secret else "public: give it to whom you connect"
    lines = [
        f"# A key of ZeroMQ's CURVE, {about}.",
        "curve",
        f'    public-key = "{to_z85(public)}"',
    ]
    if secret:
        lines.append(f'    secret-key = "{to_z85(secret)}"')
    return "\n".join((*lines, ""))


def parse_key_file(path: Path) -> dict[str, bytes]:
    """Return the keys that a file holds, by what they are called in it.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If what stands there is no key.
    """
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES).decode()
    keys = {name: from_z85(value) for name, value in _LINE.findall(text)}
    if any(len(key) != KEY_BYTES for key in keys.values()):
        raise ValueError("no key")
    return keys


def _path(key: str, suffix: str) -> Path:
    if "/" in key or key.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
        return Path(key).expanduser()
    return keys_folder() / f"{key}{suffix}"


def _read(path: Path, setting: str, remedy: str) -> dict[str, bytes]:
    try:
        return parse_key_file(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no key {path} ({setting}). {remedy}") from error
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UserError(f"Cannot read the key {path}: {reason} ({setting}).") from error
    except ValueError as error:
        raise UserError(f"{path} is no file of a key ({setting}). {remedy}") from error
