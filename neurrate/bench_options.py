"""Options that the verbs of ``neurrate bench`` share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from contracts.atomic_files import check_folder_writable, check_writable
from contracts.errors import UserError
from daemon.service.settings_loader import named_populations
from evaluation.latency.inputs import FOLDER, TrialInputs, prepare_inputs
from neurrate.arguments import SetOption

FORMATS = (".png", ".svg", ".pdf")


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
    """TOML file for the daemon. Without one, and without --set triggers.rules=FILE, sixteen rules
    trigger on concept probes of the bundle."""
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

    def inputs(self, *, seconds: float) -> TrialInputs:
        """Make what was not given, and choose the daemon's settings.

        A recording that is made has at least so many session seconds.

        Raises
        ------
        UserError
            If no population is named.
        """
        populations = named_populations(self.populations or "")
        if self.populations is not None and not populations:
            raise UserError("--populations must name at least one, such as all or VISp.")
        inputs = prepare_inputs(
            self.folder,
            recording=self.recording,
            bundle=self.bundle,
            model=self.model,
            populations=populations,
            seconds=seconds,
        )
        backend = () if self.backend is None else (f"narrator.backend={self.backend}",)
        has_rules = self.config is None and inputs.rules is not None
        rules = (f"triggers.rules={inputs.rules}",) if has_rules else ()
        # The last of one key wins: what was given on the command line.
        return replace(inputs, config=self.config, settings=(*rules, *backend, *self.set_))
