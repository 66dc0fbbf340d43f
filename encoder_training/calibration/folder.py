"""The folder of a calibration: begun, resumed stage by stage, finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from contracts.atomic_files import write_json
from contracts.errors import UserError, listed
from stream_sources.online_sorter.calibrated_options import FACTS

FORMAT_VERSION = 1
Stage = Literal["sort", "curate", "online", "write", "report"]
STAGES: tuple[Stage, ...] = ("sort", "curate", "online", "write", "report")
"""In their order; each needs what the ones before have written."""

Option = str | float | int | None


@dataclass(slots=True)
class CalibrationFolder:
    """Which stages are finished. Made by `begin_calibration`.

    ``calibration.json`` is written anew after each stage, so that the folder states no more than
    what is on the disk.
    """

    path: Path
    options: Mapping[str, Option]
    command: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # By finished stage

    def is_finished(self, stage: Stage) -> bool:
        """Whether a stage was finished, here or by an earlier command."""
        return stage in self.results

    @property
    def is_complete(self) -> bool:
        """Whether every stage is finished."""
        return all(stage in self.results for stage in STAGES)

    def finish(self, stage: Stage, **result: Any) -> None:
        """Record that a stage is finished, with what it found."""
        self.results[stage] = result
        self.save()

    def save(self) -> None:
        """Write ``calibration.json``."""
        document = {
            "format_version": FORMAT_VERSION,
            "options": dict(self.options),
            "finished": self.results,
            "command": self.command,
        }
        write_json(self.path / FACTS, document)


def begun_calibration(path: Path, options: Mapping[str, Option]) -> CalibrationFolder | None:
    """Return the calibration that was begun in a folder with these options; None if none was.

    One that has finished no stage is none: nothing of it would be used.

    Raises
    ------
    UserError
        If there is something else, or a calibration of other options, with what differs.
    """
    facts = path / FACTS
    if facts.is_file():
        document = _read(facts)
        if not document["finished"]:
            return None
        _check_same(path, options, document["options"])
        return CalibrationFolder(path, options, str(document["command"]), document["finished"])
    entries = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    entries = [name for name in entries if not name.startswith(".")]
    if entries:
        raise UserError(
            f"a calibration needs a folder of its own, and {path} holds {listed(entries)}. Choose "
            "another."
        )
    return None


def begin_calibration(
    path: Path, options: Mapping[str, Option], *, command: str
) -> CalibrationFolder:
    """Make the folder of a calibration."""
    path.mkdir(parents=True, exist_ok=True)
    folder = CalibrationFolder(path, options, command)
    folder.save()
    return folder


def _read(facts: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{facts}: it is no JSON: {error}. Choose a new folder.") from error
    if document.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{facts}: this program reads version {FORMAT_VERSION}, and the file has "
            f"{document.get('format_version')!r}. Choose a new folder."
        )
    return document


def _check_same(path: Path, now: Mapping[str, Option], before: Mapping[str, object]) -> None:
    differ = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if differ:
        raise UserError(
            f"{path} was begun with other options: {'; '.join(differ)}. Give the same again to go "
            "on, or choose another folder. An offline sorting that is finished can be used again: "
            f"--sorting {path / 'offline'}."
        )
