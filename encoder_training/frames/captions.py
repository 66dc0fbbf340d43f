"""Captions of frames, from files: who wrote them does not matter here.

Two forms are read: lines of JSON with ``movie``, ``number`` (or ``frame``) and ``caption`` (or
``captions``, of which the first is taken), and CSV with the same names in its first line. The
name of a file ``MOVIE_facts.jsonl``, as beside a simulated recording, names the movie.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from encoder_training.data_set.prepared import FrameTable

FACTS_ENDING = "_facts.jsonl"
CAPTION_FILES = ("captions.jsonl", "captions.csv")
"""Looked for in a folder, beside the files of facts."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a frame shows, in a sentence."""

    movie: str
    number: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """The captions of a table of frames."""

    captions: tuple[str, ...]  # One for each frame; empty where there is none
    # (n_missing,): rows of the frames without a caption of their own or of a neighbour
    missing: NDArray[np.int64]
    notes: tuple[str, ...]


def read_captions(path: Path) -> list[Caption]:
    """Read captions.

    `path` is a file of lines of JSON or of CSV, or a folder with ``captions.jsonl``,
    ``captions.csv`` or files ``MOVIE_facts.jsonl``.

    Raises
    ------
    UserError
        If there is no such file, or a line is none of a caption.
    """
    captions: list[Caption] = []
    for file in _files(path):
        movie = file.name.removesuffix(FACTS_ENDING) if file.name.endswith(FACTS_ENDING) else ""
        try:
            read = _csv_lines if file.suffix.lower() == ".csv" else _json_lines
            captions += [_caption(fields, movie, f"{file}, line {n}") for n, fields in read(file)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"the captions in {file} must be text in UTF-8, and cannot be read: {error}. Give "
                "a file of lines of JSON or of CSV."
            ) from error
    if not captions:
        raise UserError(f"{path} has no captions: it is empty. Give a file with some, or none.")
    return captions


def match_captions(
    captions: Sequence[Caption], frames: FrameTable, *, nearest: bool = False
) -> Matched:
    """Give each frame its caption.

    With `nearest`, a frame without a caption takes that of the nearest frame of its movie that
    has one, the earlier of two, even across a cut. Not for stimuli whose frames are unrelated,
    such as natural scenes.

    Raises
    ------
    UserError
        If no frame has a caption.
    """
    of_movie: dict[str, dict[int, str]] = {name: {} for name in frames.movies}
    unknown: dict[str, int] = {}
    twice: list[str] = []
    for caption in captions:
        of_number = of_movie.get(caption.movie)
        if of_number is None:
            unknown[caption.movie] = unknown.get(caption.movie, 0) + 1
        elif of_number.setdefault(caption.number, caption.text) != caption.text:
            twice.append(f"{caption.movie} {caption.number}")
    if nearest:
        of_movie = {
            name: _spread(of_number, frames.number[frames.movie == index].tolist())
            for index, (name, of_number) in enumerate(of_movie.items())
        }
    texts = tuple(
        of_movie[frames.movies[movie]].get(number, "")
        for movie, number in zip(frames.movie.tolist(), frames.number.tolist(), strict=True)
    )
    missing = np.array([row for row, text in enumerate(texts) if not text], dtype=np.int64)
    if len(missing) == len(texts):
        raise UserError(
            f"the captions fit none of {len(texts)} frames: they are of "
            f"{listed(sorted({caption.movie for caption in captions})) or 'no movie'}, the frames "
            f"of {listed(frames.movies)}. Name the movies as the recording does."
        )
    return Matched(texts, missing, tuple(_notes(frames, missing, twice, unknown)))


def _notes(
    frames: FrameTable, missing: NDArray[np.int64], twice: list[str], unknown: Mapping[str, int]
) -> Iterator[str]:
    if len(missing):
        labels = [frames.label(row) for row in missing.tolist()]
        yield (
            f"{len(missing)} of {len(frames.number)} frames have no caption: {listed(labels)}. "
            "Concepts and evidence are made without them."
        )
    if twice:
        yield (
            f"{len(twice)} further captions say something else of a frame that has one: "
            f"{listed(twice)}. The first of each was taken."
        )
    if unknown:
        movies = [f"{name} ({n})" for name, n in sorted(unknown.items())]
        yield f"captions of movies that are not among the frames: {listed(movies)}."


def _spread(of_number: Mapping[int, str], numbers: Iterable[int]) -> dict[int, str]:
    """Give each number the text of the nearest that has one, the earlier of two."""
    own = np.array(sorted(number for number, text in of_number.items() if text), dtype=np.int64)
    if not len(own):
        return {}
    wanted = np.array(list(numbers), dtype=np.int64)
    after = np.clip(np.searchsorted(own, wanted), 0, len(own) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(wanted - own[before]) <= np.abs(own[after] - wanted)
    chosen = own[np.where(is_before, before, after)]
    return {w: of_number[c] for w, c in zip(wanted.tolist(), chosen.tolist(), strict=True)}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"the captions must be a file or a folder, and {path} is not there.")
    files = [path / name for name in CAPTION_FILES if (path / name).is_file()]
    files = files or sorted(path.glob(f"*{FACTS_ENDING}"))
    if not files:
        raise UserError(
            f"a folder of captions must hold {', '.join(CAPTION_FILES)} or files "
            f"MOVIE{FACTS_ENDING}, and {path} has none of them. Give the file itself."
        )
    return files


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise _wrong(f"{path}, line {number}", line.strip()[:80]) from error
            if not isinstance(fields, dict):
                raise _wrong(f"{path}, line {number}", line.strip()[:80])
            yield number, fields


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)


def _caption(fields: Mapping[str, Any], movie: str, where: str) -> Caption:
    number = fields.get("number", fields.get("frame"))
    text = fields.get("caption")
    several = fields.get("captions")
    if text is None and isinstance(several, list) and several:
        text = several[0]
    name = fields.get("movie", movie)
    try:
        whole = int(str(number))
    except ValueError:
        whole = -1
    if whole < 0 or not isinstance(text, str) or not isinstance(name, str) or not name:
        raise _wrong(where, json.dumps(dict(fields), default=str)[:80])
    return Caption(name, whole, " ".join(text.split()))


def _wrong(where: str, value: str) -> UserError:
    return UserError(
        "a caption needs movie, number (or frame, from 0) and caption, as in "
        '{"movie": "natural_movie_one", "number": 17, "caption": "A car turns left."}; '
        f"got {value} in {where}. Correct this line."
    )
