"""What has been narrated of an experiment, on disk, so that a run that was stopped goes on.

A record is found again by what narrations follow from: the experiment, the spikes, the bundle, the
language model and the environment's settings of the daemon. If one of them is another, nothing is
used of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import h5py

from contracts.manifest import Manifest
from contracts.narration import Narration
from contracts.narration_wire import load, narration_of, pack_narration
from evaluation.clips.experiment import Experiment
from evaluation.questions.narration_store import file_stamps, open_store

TABLE = """CREATE TABLE IF NOT EXISTS clips (
    key TEXT, narrator TEXT, number INTEGER, content TEXT, PRIMARY KEY (key, narrator, number)
) WITHOUT ROWID"""

FRAMES, END = " frames", " end"
"""Names that no population has: the texts of frames, and that all spikes are narrated."""


def content_key(
    experiment: Experiment,
    recording: Path,
    manifest: Manifest,
    model: str,
    expressions: Mapping[str, str],
) -> str:
    """Return what narrations of a recording follow from, as one text.

    `model` is the folder or hub id of the language model; `expressions` are populations by name.
    """
    spikes = sha256()
    with h5py.File(recording) as file:
        for name in ("spike_times_index", "spike_times"):
            spikes.update(file[f"units/{name}"][:])
    content = {
        "experiment": experiment.table.model_dump(mode="json"),
        "spikes": spikes.hexdigest(),
        "bundle": manifest.model.model_dump(mode="json", exclude={"command"}),
        "model": [model, *file_stamps(Path(model))],
        "populations": [*expressions.items()],
        "settings": sorted(one for one in os.environ.items() if one[0].startswith("NEURRATE_")),
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeptNarrations:
    """The record of one `content_key` in a SQLite file, which may hold others."""

    path: Path
    key: str

    @property
    def has_others_alone(self) -> bool:
        """Whether something is kept, and nothing of this key."""
        with open_store(self.path, TABLE) as store:
            keys = {key for (key,) in store.execute("SELECT DISTINCT key FROM clips")}
        return bool(keys) and self.key not in keys

    @property
    def is_whole(self) -> bool:
        """Whether the spikes are narrated to their end."""
        return bool(self._contents(END))

    def narrations(self) -> dict[tuple[int, str], Narration]:
        """Return the narrations of spikes, by the number of the window and the population."""
        with open_store(self.path, TABLE) as store:
            rows = store.execute(
                "SELECT content FROM clips WHERE key = ? AND narrator NOT IN (?, ?)",
                (self.key, FRAMES, END),
            ).fetchall()
        found = [narration_of(load(content.encode())) for (content,) in rows]
        return {(one.window_seq, one.population): one for one in found}

    def keep(self, narrations: Sequence[Narration]) -> None:
        """Add narrations; those of the same window and population are replaced."""
        self._write(
            [(n.population, n.window_seq, pack_narration(n)[1].decode()) for n in narrations]
        )

    def end(self) -> None:
        """Note that every window is narrated."""
        self._write([(END, 0, "")])

    def frame_texts(self) -> list[str]:
        """Return the narrations of frames, in order."""
        return self._contents(FRAMES)

    def keep_frame_texts(self, first: int, texts: Sequence[str]) -> None:
        """Add the narrations of frames; `first` is the number of the first of them."""
        self._write([(FRAMES, number, text) for number, text in enumerate(texts, first)])

    def _contents(self, narrator: str) -> list[str]:
        with open_store(self.path, TABLE) as store:
            rows = store.execute(
                "SELECT content FROM clips WHERE key = ? AND narrator = ? ORDER BY number",
                (self.key, narrator),
            ).fetchall()
        return [content for (content,) in rows]

    def _write(self, rows: Sequence[tuple[str, int, str]]) -> None:
        if not rows:
            return
        with open_store(self.path, TABLE) as store, store:
            store.executemany(
                "INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)",
                [(self.key, *row) for row in rows],
            )
