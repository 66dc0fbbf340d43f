"""Models of transformers, in a folder or on the Hugging Face hub: what they are called."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import UserError

SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})/?$")
"""A folder in the cache of the Hugging Face hub: the model's id and its commit."""


def check_folder(name: str) -> None:
    """Refuse a path that is no folder before it is looked up on the hub.

    Raises
    ------
    UserError
        With what to do.
    """
    # transformers would query the hub for such a path for half a minute. Ids of the models
    # that are taken here have an owner and one slash.
    is_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") != 1
    if is_path and not Path(name).is_dir():
        raise UserError(
            f"the model must be a folder or the id of a model on the Hugging Face hub, and "
            f"{name!r} is no folder, seen from {Path.cwd()}. Give a folder that is there."
        )


def model_name(model: str, config: Any) -> tuple[str, str]:
    """Return a model's id and its commit, for the manifest: never a path of this machine.

    The id of a folder is its name, or the hub's id if it is in the hub's cache. An unknown
    commit is empty.
    """
    if not Path(model).is_dir():
        return model, str(getattr(config, "_commit_hash", None) or "")
    folder = Path(model).resolve()
    snapshot = SNAPSHOT.search(folder.as_posix())
    if snapshot:
        return snapshot[1].replace("--", "/"), snapshot[2]
    return folder.name, ""


def short_name(model: str) -> str:
    """Return how people call a model: the name of its folder without the path, or its id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or its name, with a full stop."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from drawing a bar, and from listing weights and attempts to connect."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    level, hub_level = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if was_on:
            transformers_logging.enable_progress_bar()
