"""The folder that ``neurrate prepare`` fills: begun, resumed, finished, or begun anew."""

from __future__ import annotations

import json
from pathlib import Path

from contracts.atomic_files import write_json
from contracts.errors import UserError, listed
from encoder_training.data_set.prepare_captions import CAPTIONED
from encoder_training.data_set.prepared_facts import (
    COUNTS,
    FACTS,
    FRAMES,
    PATCHES,
    PRESENTATIONS,
    UNFINISHED,
    Option,
    load_facts,
)
from encoder_training.data_set.report import REPORT_FILES

OF_PATCHES = (PATCHES, f"{PATCHES}.partial", f"{PATCHES}.progress")


def is_finished(out: Path, requested: dict[str, Option]) -> bool:
    """Return whether the folder holds the finished data set that is requested.

    Raises
    ------
    UserError
        If it holds a data set of other options, with what differs, or one that cannot be read.
    """
    if not (out / FACTS).exists():
        return False
    facts = load_facts(out)
    _check_same(out, requested, {"RECORDING": facts.recording, **facts.options}, "prepared")
    return True


def open_folder(out: Path, requested: dict[str, Option], *, overwrite: bool) -> None:
    """Make the folder, or resume one that was begun with the same options.

    With `overwrite`, what an earlier call made is removed, except the patches: they are the
    long work, and may be the same.

    Raises
    ------
    UserError
        If there is something else, or work of other options was begun.
    """
    marker = out / UNFINISHED
    if overwrite and ((out / FACTS).exists() or marker.exists()):
        # The facts first: without them it is no data set.
        for name in (FACTS, COUNTS, PRESENTATIONS, FRAMES, *REPORT_FILES, CAPTIONED, UNFINISHED):
            (out / name).unlink(missing_ok=True)
    entries = sorted(path.name for path in out.iterdir()) if out.exists() else []
    entries = [name for name in entries if not name.startswith(".")]  # a write that was cut short
    if marker.exists():
        _check_same(out, requested, json.loads(marker.read_text(encoding="utf-8")), "begun")
    elif set(entries) - set(OF_PATCHES):
        raise UserError(
            f"a data set needs a folder of its own, and {out} holds {listed(entries)}. Choose "
            "another."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, requested)


def remove_patches(out: Path) -> None:
    """Remove the patches, whole or begun."""
    for name in OF_PATCHES:
        (out / name).unlink(missing_ok=True)


def _check_same(
    out: Path, requested: dict[str, Option], before: dict[str, Option], how: str
) -> None:
    differ = [
        f"{name} was {before.get(name)!r} and is {requested.get(name)!r}"
        for name in {**before, **requested}
        if before.get(name) != requested.get(name)
    ]
    if differ:
        raise UserError(
            f"{out} was {how} with other options: {'; '.join(differ)}. Give the same again to go "
            "on, choose another folder, or give --overwrite to start anew."
        )
