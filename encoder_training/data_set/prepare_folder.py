"""The folder that ``neurrate prepare`` fills: begun, gone on with, finished, or begun anew."""

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


def is_finished(out: Path, asked: dict[str, Option]) -> bool:
    """Return whether the folder holds the data set that is asked for, whole.

    Parameters
    ----------
    out : Path
    asked : dict
        Recording and options, by the names that the user knows.

    Raises
    ------
    UserError
        If it holds a data set of other options, with what differs, or one that cannot be read.
    """
    if not (out / FACTS).exists():
        return False
    facts = load_facts(out)
    _check_same(out, asked, {"RECORDING": facts.recording, **facts.options}, "prepared")
    return True


def open_folder(out: Path, asked: dict[str, Option], *, overwrite: bool) -> None:
    """Make the folder, or take up one that was begun with the same options; none is finished.

    Parameters
    ----------
    out : Path
    asked : dict
        Recording and options, by the names that the user knows.
    overwrite : bool
        Remove what an earlier call made, but for the patches: they are the long work, and may be
        the same.

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
    there = sorted(each.name for each in out.iterdir()) if out.exists() else []
    there = [name for name in there if not name.startswith(".")]  # a write that was cut short
    if marker.exists():
        _check_same(out, asked, json.loads(marker.read_text(encoding="utf-8")), "begun")
    elif set(there) - set(OF_PATCHES):
        raise UserError(
            f"a data set needs a folder of its own, and {out} holds {listed(there)}. Choose "
            "another."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, asked)


def remove_patches(out: Path) -> None:
    """Remove the patches, whole or begun."""
    for name in OF_PATCHES:
        (out / name).unlink(missing_ok=True)


def _check_same(out: Path, asked: dict[str, Option], before: dict[str, Option], how: str) -> None:
    differ = [
        f"{name} was {before.get(name)!r} and is {asked.get(name)!r}"
        for name in {**before, **asked}
        if before.get(name) != asked.get(name)
    ]
    if differ:
        raise UserError(
            f"{out} was {how} with other options: {'; '.join(differ)}. Give the same again to go "
            "on, choose another folder, or give --overwrite to start anew."
        )
