"""The frames of clips, narrated: the most that the language model and the words can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.errors import UserError
from contracts.manifest import Manifest
from encoder_training.frames.movies import find_movies
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.clips.narrations import ClipNarrations
from evaluation.clips.schedule import Presentation
from evaluation.narrations.narrators import narrate_frames


def narrate_files(
    narrations: ClipNarrations,
    schedule: Sequence[Presentation],
    folder: Path,
    manifest: Manifest,
    model: str,
) -> None:
    """Narrate the middle frame of each clip, and add it to each of its showings.

    `folder` holds for each file of the schedule one of the same stem that
    `encoder_training.frames.movies` opens.

    Raises
    ------
    UserError
        If a clip is missing, two clips have the same stem, or clips differ in size.
    """
    files = sorted({one.file for one in schedule})
    stems = [Path(file).stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UserError(
            f"with --frames each clip must have a stem of its own, and {stems.count(twice[0])} "
            f"files have the stem {twice[0]!r}. Rename them in the experiment and the schedule."
        )
    movies = find_movies(folder, stems)
    sizes = {(movie.height, movie.width) for movie in movies.values()}
    if len(sizes) > 1:
        raise UserError(f"the clips in {folder} must have one size, got {sorted(sizes)}.")
    middle = {stem: movie.n_frames // 2 for stem, movie in movies.items()}
    frames = (movies[stem].frames(middle[stem], middle[stem] + 1)[0] for stem in stems)
    text_of = dict(zip(files, narrate_frames(frames, manifest, model), strict=True))
    for one in schedule:
        narrations.add(TRUE_PATCHES, None, one.presentation, text_of[one.file])
