"""Objects of an HDF5 file by name; links are followed one at a time, so that errors can name them.

h5py reports a link whose target is gone as a name that does not exist. And where HDF5 reads through
a Python file object, as over http(s), it uses that object for every file: an external link would
lead back into the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import h5py

from contracts.errors import UserError

MAX_LINKS = 16
"""Links that HDF5 follows in a row (H5Pset_nlinks)."""

LIBRARY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError)
"""What h5py raises where an object cannot be opened or read, or a reference not be resolved."""

CAUSES = {
    "errno = 11": (
        "another program has the file open for writing",
        "Wait until it has closed it, or give a copy.",
    ),
    "unable to lock file": (
        "the file system cannot lock files",
        "If nobody writes to the file, set HDF5_USE_FILE_LOCKING=FALSE in the environment.",
    ),
    "already open for write": (
        "a program is writing to the file, or ended without closing it",
        "Wait until it has closed it; if it has ended, run 'h5clear -s' on a copy.",
    ),
    "multi driver": (
        "it is one part of a file that HDF5 split into several",
        "Join them with h5repack.",
    ),
    "truncated": ("the file is cut short", "Copy or download it again."),
}
"""Phrase in an HDF5 error: what it means, and what to do."""

ELSEWHERE = {
    "can't open file": "which is not there. Copy that file beside this one.",
    "doesn't exist": "which has nothing of that name. Is it the file that was linked?",
    "component not found": "which has nothing of that name. Is it the file that was linked?",
    "signature not found": "which is no HDF5 file.",
    "Is a directory": "which is a folder.",
}
"""Phrase in an HDF5 error about the target of a link into another file: what it means."""


class UnreadableError(UserError):
    """A column, table or link cannot be read."""


def follow(start: h5py.Group, path: str, n_links: int = 0) -> h5py.Group | h5py.Dataset | None:
    """Return the object at a path below a group, None if nothing has that name.

    Raises
    ------
    UnreadableError
        If the name leads through a link to something that is not there or may not be followed.
    """
    node: h5py.Group | h5py.Dataset | None = start
    for name in path.split("/"):
        if name in {"", "."}:
            continue
        if not isinstance(node, h5py.Group):
            return None
        node = _child(node, name, n_links)
    return node


def is_local(file: h5py.File) -> bool:
    """Return whether HDF5 opened the file by its name, not through a Python file object."""
    return bool(file.driver != "fileobj")


def target_of(holder: h5py.Dataset, reference: object) -> h5py.Group | h5py.Dataset | None:
    """Return the object that a reference stored with a data set refers to, None if it is gone.

    References are resolved in the file of that data set.
    """
    if not isinstance(reference, h5py.Reference) or not reference:
        return None
    try:
        return holder.file[reference]
    except LIBRARY_ERRORS:
        return None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn errors of h5py into one that names the object.

    Raises
    ------
    UnreadableError
        If the block raises one of `LIBRARY_ERRORS`.
    """
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise UnreadableError(
            f"{name} cannot be read: {library_text(error)}. The file may be damaged; copy or "
            "download it again."
        ) from error


def library_text(error: Exception) -> str:
    """Return the message of HDF5 without the phrases that h5py puts around it."""
    text = str(error).strip("'\"")
    return text[text.find("(") + 1 : text.rfind(")")] if text.endswith(")") else text


def explained(text: str) -> str:
    """Return what an HDF5 error about a file means and what to do; empty if that is not known."""
    found = (
        f"{means}: {text}. {remedy}" for part, (means, remedy) in CAUSES.items() if part in text
    )
    return next(found, "")


def _child(group: h5py.Group, name: str, n_links: int) -> h5py.Group | h5py.Dataset | None:
    where = f"{group.name}/{name}".strip("/")
    try:
        link = group.get(name, getlink=True)
    except TypeError as error:  # a user-defined link (H5Lregister)
        raise UnreadableError(f"{where} is a link of a kind that h5py does not know") from error
    if link is None:
        return None
    if isinstance(link, h5py.SoftLink):
        path = os.fsdecode(link.path)  # h5py gives bytes for what is not UTF-8
        base = group.file["/"] if path.startswith("/") else group
        target = follow(base, path, n_links + 1) if n_links < MAX_LINKS else None
        if target is None:
            raise UnreadableError(f"{where} is a link to {path}, which is not in the file")
        return target
    if isinstance(link, h5py.ExternalLink) and not is_local(group.file):
        raise UnreadableError(
            f"{where} is a link into another file, {link.filename}, which cannot be followed over "
            "http(s). Download both into one folder and give the path."
        )
    try:
        return group[name]
    except LIBRARY_ERRORS as error:
        reason = library_text(error)
        if isinstance(link, h5py.ExternalLink):
            means = (text for phrase, text in ELSEWHERE.items() if phrase in reason)
            cause = next(means, f"which cannot be opened: {explained(reason) or reason}")
            raise UnreadableError(
                f"{where} is a link to {link.path} in {link.filename}, {cause}"
            ) from error
        raise UnreadableError(
            f"{where} cannot be opened ({reason}); the file may be damaged"
        ) from error
