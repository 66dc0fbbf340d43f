"""What the verbs of ``neurrate bench`` share: what is played, and how they begin and end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from contracts.atomic_files import check_folder_writable, check_writable
from contracts.errors import UserError
from evaluation.latency.inputs import FOLDER, TrialInputs, material
from evaluation.plain_progress import say
from neurrate.arguments import SetOption

FORMATS = (".png", ".svg", ".pdf")

VERSION = 1
"""Of the JSON. Raised when a key changes meaning or goes."""

UNFINISHED = 130
"""128 + SIGINT, as the other verbs that make something end with."""


@Parameter(name="*")
@dataclass(frozen=True)
class BenchOptions:
    """What is played, through what, and where the results go."""

    recording: str | None = None
    """NWB file or URL, or the folder of a sorting. The simulated animal's if omitted, which is made
    once."""
    bundle: Path | None = None
    "Encoder; that of the simulated animal if omitted."
    model: str | None = None
    "Folder or hub id of the language model; that of the bundle if omitted."
    populations: str | None = None
    "What to narrate, separated by commas; eight of the simulated animal if omitted."
    backend: str | None = None
    "Of the narrator (narrator.backend)."
    config: Path | None = None
    """TOML file for the daemon. Without one, and without --set triggers.rules=FILE, concept probes
    of the bundle are listened to by sixteen rules."""
    set_: SetOption = ()
    "A setting of the daemon, as key=value; may be given several times."
    folder: Path = FOLDER
    "Where what is made once is kept."
    picture: Path | None = None
    "Write a picture to this file; its ending says which format."
    json: Annotated[Path | None, Parameter(name="--json")] = None
    "Write every number to this file, as JSON; a soak writes a line each second."

    def check(self) -> None:
        """Refuse before the long work what would fail after it.

        Raises
        ------
        UserError
            If a file cannot be written, or the picture's name does not say which format.
        """
        check_writable(self.json)
        check_writable(self.picture)
        check_folder_writable(self.folder)
        if self.picture is None:
            return
        if self.picture.suffix not in FORMATS:
            raise UserError(
                f"--picture {self.picture} must end with one of {', '.join(FORMATS)}, which says "
                "the format."
            )
        from encoder_training.pictures import check_matplotlib

        check_matplotlib()

    def material(self, *, seconds: float) -> TrialInputs:
        """Make what was not given.

        Parameters
        ----------
        seconds : float
            Session seconds that the recording must have, where it is made.
        """
        return material(
            self.folder,
            recording=self.recording,
            bundle=self.bundle,
            model=self.model,
            populations=self._names(),
            seconds=seconds,
        )

    def settings(self, played: TrialInputs) -> tuple[str, ...]:
        """Return what is for the daemon, as after ``--set``; what was given comes last and wins."""
        backend = () if self.backend is None else (f"narrator.backend={self.backend}",)
        is_ours = self.config is None and played.rules is not None
        rules = (f"triggers.rules={played.rules}",) if is_ours else ()
        return (*rules, *backend, *self.set_)

    def _names(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in (self.populations or "").split(",") if name.strip())
        if self.populations is not None and not names:
            raise UserError("--populations must name at least one, such as all or VISp.")
        return names


@contextmanager
def bar(title: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Show how far a run is, on standard error: a bar on a terminal, else a line each minute.

    Parameters
    ----------
    title : str
    seconds : float
        Of the whole.

    Yields
    ------
    on_second : callable
        To be told how many seconds have passed.
    """
    from tqdm import tqdm

    say(f"bench: {title}, {seconds:.0f} s")
    minutes = 0
    with tqdm(
        desc=title,
        total=round(seconds, 1),
        disable=None,
        leave=False,
        bar_format="{desc}: {bar} {n:.0f} of {total:.0f} s",
    ) as shown:

        def on_second(second: float) -> None:
            nonlocal minutes
            shown.update(min(second, seconds) - shown.n)
            if second >= 60 * (minutes + 1):
                minutes = int(second // 60)
                say(f"bench: {title}, {60 * minutes} of {seconds:.0f} s")

        yield on_second


def give_up() -> None:
    """Leave at once, at a second Ctrl-C, but not without the children and the folder.

    Raises
    ------
    KeyboardInterrupt
        Always.
    """
    raise KeyboardInterrupt


def say_stopped() -> int:
    """Say that it was stopped; return the exit code for that."""
    print("neurrate: stopped before the end.", file=sys.stderr)
    return UNFINISHED
