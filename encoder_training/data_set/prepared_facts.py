"""The manifest of a data set: ``dataset.json``. The format is ``docs/data-set.md``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import UserError
from contracts.manifest import LanguageModel, PatchGridModel, Sha256, UnitModel, WindowModel
from contracts.population import MAX_UNITS

FORMAT_VERSION: Final = 1
"""Raised when a program of the version before would misread a data set."""

FACTS = "dataset.json"
COUNTS = "counts.npy"
PRESENTATIONS = "presentations.safetensors"
PATCHES = "patches.safetensors"
FRAMES = "frames.jsonl"
CONTENT = (COUNTS, PRESENTATIONS, PATCHES, FRAMES)

MAX_FACTS_BYTES = 64 << 20
"""100,000 units take about 15 MB."""

UNFINISHED = "unfinished.json"
"""The options of a data set that is not whole; removed when it is."""

Option = str | int | float | bool | None | list[str]


class DatasetError(UserError):
    """A data set cannot be loaded. All problems found, in one error."""

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        self.path = str(folder)
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        what = f"{self.problems[0]}." if len(problems) == 1 else f"{len(problems)} problems:{lines}"
        super().__init__(f"data set {folder}: {what}")


class _StrictFacts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MovieModel(_StrictFacts):
    """One stimulus whose frames are targets."""

    name: str
    """As in the recording."""
    n_frames: int = Field(ge=1)
    """Frames that it has."""


class SessionModel(_StrictFacts):
    """A session whose units are in a pooled data set."""

    session_id: str = Field(min_length=1)
    """What its units' probes begin with."""
    recording: str
    """Name of the recording."""
    n_units: int = Field(ge=1)
    data_sha256: Sha256
    """Of its own data set."""


class DatasetModel(_StrictFacts):
    """The whole of ``dataset.json``."""

    format_version: int
    """`FORMAT_VERSION` of the program that wrote it."""
    recording: str
    """Name of the recording."""
    session_id: str = ""
    """The session's identifier in the recording."""
    window: WindowModel
    """Rate, bins and stride; its lag is where the search for the lag begins."""
    population: Annotated[list[UnitModel], Field(min_length=1, max_length=MAX_UNITS)]
    """The units, in the order of the columns of the counts."""
    sessions: list[SessionModel] = []
    """Of a pooled data set: whose the units are, session after session; the first one's times."""
    patch_grid: PatchGridModel
    language_model: LanguageModel
    """Whose vision tower made the patches."""
    movies: Annotated[list[MovieModel], Field(min_length=1)]
    options: dict[str, Option] = {}
    """Of the command line."""
    notes: list[str] = []
    """For the analyst."""
    sha256: dict[str, Sha256]
    """Of each other file."""
    data_sha256: Sha256
    """Of the data set; see `data_sha256_of`."""
    model_folder: str = ""
    """Whole path of the model, if it was a folder: where an export finds it on this computer."""
    command: str = ""
    """What made it."""


def content_of(model: DatasetModel, *, exclude: set[str] | None = None) -> dict[str, Any]:
    """Return what ``dataset.json`` holds; sessions only of a pooled data set."""
    unused = set() if model.sessions else {"sessions"}
    return model.model_dump(mode="json", exclude=unused | (exclude or set()))


def data_sha256_of(model: DatasetModel) -> str:
    """Return the sha256 that names the data set.

    Over the content: the files, the units, the window, the grid and the models; not over the
    command, the options and the model's path, which may name the same data in other words.
    """
    other = {"options", "notes", "data_sha256", "model_folder", "command"}
    content = content_of(model, exclude=other)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_facts(folder: Path) -> DatasetModel:
    """Read ``dataset.json`` alone.

    Raises
    ------
    DatasetError
        With every problem found in it.
    """
    path = folder / FACTS
    if not folder.is_dir():
        raise DatasetError(folder, ["there is no such folder. Make it with neurrate prepare"])
    if not path.is_file():
        what = (
            "it is not finished: give neurrate prepare the same command again, and it goes on"
            if any((folder / name).exists() for name in (*CONTENT, UNFINISHED))
            else f"it has no {FACTS}; is it a data set of 'neurrate prepare'"
        )
        raise DatasetError(folder, [what])
    if path.stat().st_size > MAX_FACTS_BYTES:
        raise DatasetError(folder, [f"{FACTS} is larger than {MAX_FACTS_BYTES:,} B"])
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetError(folder, [f"{FACTS} is not JSON: {error}"]) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(
            folder,
            [
                f"format_version is {version!r}, this build reads {FORMAT_VERSION}; prepare the "
                "data set again"
            ],
        )
    try:
        model = DatasetModel.model_validate(raw)
    except ValidationError as error:
        raise DatasetError(folder, [_sentence(detail) for detail in error.errors()]) from error
    if data_sha256_of(model) != model.data_sha256:
        raise DatasetError(
            folder, [f"data_sha256 is not that of the facts in {FACTS}; it was changed by hand"]
        )
    n_pooled = sum(session.n_units for session in model.sessions)
    if model.sessions and n_pooled != len(model.population):
        raise DatasetError(
            folder,
            [f"its sessions have {n_pooled} units, and the population {len(model.population)}"],
        )
    return model


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    value = "" if detail["type"] in {"missing", "value_error"} else f", got {detail['input']!r:.64}"
    return f"{where + ': ' if where else ''}{detail['msg']}{value}"
