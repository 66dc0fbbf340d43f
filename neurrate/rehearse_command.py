"""``neurrate rehearse``: the whole way from voltages to narrations, in a simulated world."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from contracts.atomic_files import check_folder_writable, check_writable
from contracts.errors import UserError
from contracts.temporary_folder import TemporaryFolder
from neurrate.arguments import JsonOption, Seed, command_text
from neurrate.tables import print_table, write_json

PAGE, PICTURE = "rehearsal.html", "rehearsal.png"


def rehearse(
    *,
    quick: bool = False,
    out: Path | None = None,
    keep: Path | None = None,
    json: JsonOption = None,
    seed: Seed = 0,
) -> None:
    """Rehearse a day at a rig, without animal or rig, and score every step of it.

    A simulated animal watches movies. Its spikes are planted in raw voltages; an emulated SpikeGLX
    records them; the online sorter is calibrated on the first minutes and an encoder trained on
    them; the rest is sorted and narrated while it is recorded. Narrations are compared with what
    was shown, beside those from perfect spikes and from an offline sorting. Takes about 12 minutes
    of processor time.

    Examples
    --------
        neurrate rehearse --out rehearsal/
        neurrate rehearse --quick --json rehearsal.json

    Parameters
    ----------
    quick
        A few units and scenes: shows that everything works, and no score worth quoting.
    out
        Folder for rehearsal.html with pictures and tables.
    keep
        New folder in which everything is made, 3 GB; a temporary one if omitted.
    json
        Write every number to this file, as JSON.
    seed
        Of everything that is drawn.

    Raises
    ------
    UserError
        If the folder to keep things in is there already.
    """
    from daemon.service.logs import configure_logging
    from encoder_training.pictures import check_matplotlib
    from encoder_training.train_run import check_libraries
    from evaluation.rehearsal.page import write_rehearsal_page
    from evaluation.rehearsal.run import RehearsalSession
    from evaluation.rehearsal.world import FULL, QUICK

    configure_logging()
    check_writable(json)
    check_matplotlib()
    check_libraries()
    if out is not None:
        check_folder_writable(out)
    if keep is not None and keep.exists():
        raise UserError(f"{keep} is there already. Name a new folder to keep things in.")
    if keep is not None:
        check_folder_writable(keep)
    command = command_text("rehearse", *(["--quick"] if quick else []), seed=seed)
    with ExitStack() as stack:
        folder = keep or stack.enter_context(TemporaryFolder("neurrate-rehearse-"))
        folder.mkdir(parents=True, exist_ok=True)
        sizes = QUICK if quick else FULL
        rehearsal = RehearsalSession(folder, sizes, seed=seed, command=command).run()
    for title, rows in (
        ("Scores over unseen scenes of a simulated animal", rehearsal.score_rows()),
        ("What each step loses", rehearsal.loss_rows()),
        ("Sorting against the planted spikes", rehearsal.sorting_rows()),
        ("How late", rehearsal.latency_rows()),
    ):
        print_table(title, rows)
    if quick:
        print(
            "Everything ran. A few units and scenes give no score worth quoting: leave --quick out."
        )
    write_json(json, rehearsal.to_json())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_rehearsal_page(out / PAGE, rehearsal, picture_path=out / PICTURE)
        print(f"wrote {out / PAGE}", file=sys.stderr)
