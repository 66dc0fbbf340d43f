"""Narrations on disk, by the content that they follow from; computed by processes where missing.

A narration is found again by the bundle, the data set, the narrator's settings, the set of units
and the window. A run that is stopped goes on where it was, and questions share what they ask.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from platform import node

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.manifest import Manifest, load_manifest
from contracts.population import Selection
from contracts.progress import ProgressBar
from daemon.service.settings import NarratorSettings
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import TrainingSet
from evaluation.caption_scores.narrating import Narrated, WindowNarrator
from evaluation.questions.ray_cluster import run_on_ray

STORE = "narrations.sqlite"
"""In a folder of results."""

Source = Selection | str
"""What a narration is made from: units, or `TRUE_PATCHES` or `MEAN_PATCHES`."""

N_ROWS, N_SOURCES = 16, 8
"""Windows and sources of one task: half a minute of a model of 7 billion weights on a GPU, which is
what a stop loses."""

CHANGES_WORDS = ("backend", "prompt", "max_new_tokens", "dtype")
"""Settings of the narrator that change what it writes, beside the model."""

TABLE = """CREATE TABLE IF NOT EXISTS narrations (
    key BLOB PRIMARY KEY, text TEXT NOT NULL, is_truncated INTEGER NOT NULL, confidence REAL
) WITHOUT ROWID"""


@contextmanager
def open_store(path: Path, table: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file with a table, given as the statement that makes it if it is not there.

    Raises
    ------
    UserError
        If the file cannot be read or written, also within the context.
    """
    try:
        with closing(sqlite3.connect(path, timeout=60)) as store:
            store.execute(table)
            yield store
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"narrations are kept in {path}, which cannot be used: {error}. Make room if the disk "
            "is full; otherwise move the file away, and they are made again."
        ) from error


@dataclass(frozen=True, slots=True)
class NarrationStore:
    """Narrations of one bundle on one data set.

    Parameters
    ----------
    path : Path
        SQLite file, made if it is not there; several programs may use it at once.
    workers : int or None
        Processes that narrate, each with a language model of its own; 1 is this process. None, with
        `ray`, for all that the cluster has.
    ray : str or None
        Address of a Ray cluster whose machines narrate, or ``local``; None for processes here.
    """

    path: Path
    bundle: Path
    dataset: Path
    settings: NarratorSettings
    workers: int | None
    ray: str | None = None

    def narrate(
        self, data: TrainingSet, rows: NDArray[np.int64], sources: Sequence[Source]
    ) -> dict[str, list[Narrated]]:
        """Return the narrations of windows, by the name of each source; the missing ones are made.

        `data` is the data set at the bundle's lag, `rows` are windows of it.
        """
        common = _common_key(load_manifest(self.bundle), self.dataset, self.settings)
        keys = {
            name_of(source): [_key(common, source, int(data.first_bin[row])) for row in rows]
            for source in sources
        }
        with open_store(self.path, TABLE) as store:
            known = _known(store, [key for of_source in keys.values() for key in of_source])
            missing = {
                name_of(source): [
                    at for at, key in enumerate(keys[name_of(source)]) if key not in known
                ]
                for source in sources
            }
            tasks = list(_tasks(sources, missing))
            for task, narrated in self._run(tasks, rows):
                new = {
                    keys[name][at]: one
                    for name, sentences in narrated.items()
                    for at, one in zip(task.at, sentences, strict=True)
                }
                with store:
                    store.executemany(
                        "INSERT OR REPLACE INTO narrations VALUES (?, ?, ?, ?)",
                        [(key, n.text, n.is_truncated, n.confidence) for key, n in new.items()],
                    )
                known |= new
        return {name: [known[key] for key in of_source] for name, of_source in keys.items()}

    def _run(
        self, tasks: Sequence[_Task], rows: NDArray[np.int64]
    ) -> Iterator[tuple[_Task, dict[str, list[Narrated]]]]:
        if not tasks:
            return
        from joblib import Parallel, delayed

        files = _Files.of(self.bundle, self.dataset, self.settings)
        calls = [delayed(_narrate)(files, task, rows[task.at]) for task in tasks]
        total = sum(len(task.at) * len(task.sources) for task in tasks)
        with ExitStack() as stack:
            if self.ray is None:
                n_jobs = min(self.workers or 1, len(tasks))
                stack.enter_context(_ending_processes(n_jobs))
                results = Parallel(n_jobs, return_as="generator_unordered")(calls)
            else:
                on_gpus = self.settings.device.startswith("cuda")
                results = run_on_ray(calls, self.ray, workers=self.workers, on_gpus=on_gpus)
            bar = stack.enter_context(ProgressBar(total=total, desc="narrating", unit="sentence"))
            for task, narrated in results:
                bar.update(len(task.at) * len(task.sources))
                yield task, narrated


@dataclass(frozen=True, slots=True)
class _Files:
    """What a narrator is made of, as paths that hold on every machine."""

    bundle: Path
    dataset: Path
    settings: NarratorSettings
    common: str  # Of the machine that keeps the narrations

    @classmethod
    def of(cls, bundle: Path, dataset: Path, settings: NarratorSettings) -> _Files:
        if settings.model is not None and Path(settings.model).is_dir():
            settings = settings.model_copy(update={"model": str(Path(settings.model).resolve())})
        common = _common_key(load_manifest(bundle), dataset, settings)
        return cls(bundle.resolve(), dataset.resolve(), settings, common)


@dataclass(frozen=True, slots=True)
class _Task:
    sources: tuple[Source, ...]
    at: list[int]  # Which of the windows


def _tasks(sources: Sequence[Source], missing: dict[str, list[int]]) -> Iterator[_Task]:
    def lacking(source: Source) -> list[int]:
        return missing[name_of(source)]

    for at, alike in groupby(sorted(sources, key=lacking), key=lacking):
        of_group = tuple(alike)
        for first_source in range(0, len(of_group), N_SOURCES):
            for first in range(0, len(at), N_ROWS):
                yield _Task(
                    of_group[first_source : first_source + N_SOURCES], at[first : first + N_ROWS]
                )


def _narrate(
    files: _Files, task: _Task, rows: NDArray[np.int64]
) -> tuple[_Task, dict[str, list[Narrated]]]:
    """Do one task, in any process of any machine."""
    selections = [source for source in task.sources if isinstance(source, Selection)]
    frames = [source for source in task.sources if isinstance(source, str)]
    narrator = _narrator(files)
    return task, narrator.narrate(rows, selections, from_frames=frames)


@lru_cache(maxsize=1)
def _narrator(files: _Files) -> WindowNarrator:
    """Load a narrator once for each process.

    Raises
    ------
    UserError
        If another machine does not have the same files.
    """
    manifest = load_manifest(files.bundle)
    if _common_key(manifest, files.dataset, files.settings) != files.common:
        raise UserError(
            f"every machine must have the same bundle, data set and language model at the same "
            f"paths, and on {node()} one of {files.bundle}, {files.dataset} and the model's files "
            "is another. Keep them in a folder that the machines share."
        )
    prepared = load_prepared(files.dataset)
    data, _ = prepared.windows(manifest.window_spec.lag_ns)
    return WindowNarrator(data, prepared.frames, manifest, files.settings)


@contextmanager
def _ending_processes(n_jobs: int) -> Iterator[None]:
    """End the processes of joblib, which otherwise keep their language models for minutes."""
    try:
        yield
    finally:
        _narrator.cache_clear()
        if n_jobs > 1:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _known(store: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Narrated]:
    known = {}
    for key in keys:
        row = store.execute(
            "SELECT text, is_truncated, confidence FROM narrations WHERE key = ?", (key,)
        ).fetchone()
        if row is not None:
            known[key] = Narrated(row[0], bool(row[1]), row[2])
    return known


def _common_key(manifest: Manifest, dataset: Path, settings: NarratorSettings) -> str:
    from encoder_training.data_set.prepared_facts import load_facts

    model = settings.model or manifest.model.language_model.model_id
    content = {
        "bundle": manifest.sha256,
        "dataset": load_facts(dataset).data_sha256,
        "model": [model, *file_stamps(Path(model))],
        **{name: getattr(settings, name) for name in CHANGES_WORDS},
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of the files of a folder; a model is too large to be hashed."""
    if not folder.is_dir():
        return []
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _key(common: str, source: Source, first_bin: int) -> bytes:
    units = source.encode() if isinstance(source, str) else np.packbits(source.mask).tobytes()
    kind = "frames" if isinstance(source, str) else source.kind
    return sha256(f"{common} {kind} {first_bin} ".encode() + units).digest()[:16]


def name_of(source: Source) -> str:
    """Return what a table calls it."""
    return source if isinstance(source, str) else source.name
