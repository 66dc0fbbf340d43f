"""``neurrate sessions``: several sessions taken together."""

from __future__ import annotations

from pathlib import Path

from contracts.atomic_files import check_folder_writable
from neurrate.arguments import Seed, command_text


def summarize(*results: Path, out: Path) -> None:
    """Average what 'neurrate evaluate' found in several sessions, with intervals over sessions.

    Reads the tables of each folder and writes means, figures and one page, report.html. Nothing is
    narrated. A session counts once: the interval is of other animals, not of other frames.

    Examples
    --------
        neurrate sessions summarize results_1/ results_2/ results_3/ --out together/

    Parameters
    ----------
    results
        Folders of 'neurrate evaluate', each of another session, evaluated with the same models on
        the same movies.
    out
        Folder to write.
    """
    from evaluation.questions.page import PAGE
    from evaluation.sessions.run import summarize as summarize_results

    check_folder_writable(out)
    command = command_text("sessions", "summarize", *results, out=out)
    answer = summarize_results(results, out.resolve(), command=command)
    print(answer.title, *answer.findings, sep="\n  ")
    print(f"wrote {out / PAGE}")


def pool(*datasets: Path, out: Path, exchange_repeats: bool = False, seed: Seed = 0) -> None:
    """Join data sets of several sessions by the frame that was shown: a pseudo-population.

    The result is a data set as any other, with the units of all and the times of the first.
    docs/data-set.md says what is joined, and what makes a window invalid.

    Examples
    --------
        neurrate sessions pool mouse1/ mouse2/ mouse3/ --out pooled/
        neurrate sessions pool mouse1/ --out exchanged/ --exchange-repeats --seed 4

    Parameters
    ----------
    datasets
        Folders of 'neurrate prepare', of the same frames, model, windows and split.
    out
        Folder to write.
    exchange_repeats
        Each unit takes the repeats of a frame in a random order of its own, as if no two had been
        recorded together. Allowed with one data set too.
    seed
        Of these orders.
    """
    from encoder_training.data_set.pool import PoolOptions, pool_data_sets

    check_folder_writable(out)
    command = command_text("sessions", "pool", *datasets, out=out, seed=seed)
    command += " --exchange-repeats" * exchange_repeats
    found = pool_data_sets(PoolOptions(datasets, out, exchange_repeats, seed, command))
    n_units = len(found.data.population)
    print(f"wrote {out}: {n_units:,} units, data set {found.data_sha256[:12]}")
    print(*(f"  {note}" for note in found.notes), sep="\n")
