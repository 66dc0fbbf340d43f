"""``neurrate evaluate``: the questions of the method's paper, with their controls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from contracts.atomic_files import check_folder_writable
from neurrate.arguments import Seed, Threads, command_text
from neurrate.key_options import PLAIN, ConnectOptions

Windows = Annotated[int, Parameter(validator=validators.Number(gte=20, lte=5_000))]
"""Twenty or more: with fewer alignments no p-value can be 0.05 or less."""


def evaluate(
    question: Literal[
        "fidelity",
        "scaling",
        "regions-and-types",
        "sparse-features",
        "single-units",
        "pooling",
        "false-positives",
        "all",
    ],
    bundle: Path,
    dataset: Path,
    *,
    out: Path,
    windows: Windows = 400,
    facts: Path | None = None,
    journal: Path | None = None,
    subscribe: str | None = None,
    run: Path | None = None,
    images: Path | None = None,
    model: str | None = None,
    sentence_model: str | None = None,
    device: str = "auto",
    workers: Threads | None = None,
    ray: str | None = None,
    seed: Seed = 0,
    access: ConnectOptions = PLAIN,
) -> None:
    """Answer a question of the method's paper about a bundle, with controls and what chance gives.

    Narrates held-out windows and writes tables (CSV), figures (PNG and SVG) and one page,
    report.html. Narrations are kept in the folder: another question, or the same command after a
    stop, makes only those that are missing. docs/evaluate.md says how to read the figures.

    Examples
    --------
        neurrate evaluate fidelity bundle/ data/ --out results/
        neurrate evaluate all bundle/ data/ --out results/ --windows 1000 --facts session_movies/
        neurrate evaluate all bundle/ data/ --out results/ --ray 10.0.0.1:6379
        neurrate evaluate fidelity bundle/ data/ --out live/ --journal journal/
        neurrate evaluate fidelity bundle/ data/ --out live/ --subscribe tcp://127.0.0.1:5571
        neurrate evaluate scaling bundle/ data/ --out results/ --run run/
        neurrate evaluate sparse-features bundle/ data/ --out results/ --images photographs/

    Parameters
    ----------
    question
        fidelity: are narrations about the frame that was shown? scaling: how does this grow with
        the number of units? regions-and-types: which narrations are alike? sparse-features: what
        does a population decode that others do not? single-units: what does each say alone?
        pooling: what is it worth that units were recorded together? false-positives: is an effect
        seen where there is none? all: every question.
    bundle
        Folder of 'neurrate export'.
    dataset
        Folder of 'neurrate prepare' that the encoder was trained on, with captions. For a bundle
        that names none, as that of 'neurrate bundle simulated', one of the same units.
    out
        Folder of results.
    windows
        Held-out windows to narrate, evenly thinned.
    facts
        Folder with MOVIE_facts.jsonl of each movie, as 'neurrate simulate session' writes it.
    journal
        Evaluate what a daemon narrated: folder of 'neurrate record'. For fidelity, on
        the windows of the data set that were narrated.
    subscribe
        The same of a running daemon at this address, recorded to OUT/journal until it says that
        the replay has ended.
    run
        Folder of 'neurrate train' that the bundle was exported from. With it scaling also trains
        an encoder for each subset of all units, with the run's options.
    images
        Folder of images (PNG, JPEG), also in folders below it. With it sparse-features learns its
        features from these in place of the frames of the training windows.
    model
        Folder or hub id of the language model; that of the bundle if omitted.
    sentence_model
        Folder or hub id of the sentence model; the packaged all-MiniLM-L6-v2 if omitted.
    device
        Where the language model runs: auto, cpu, cuda, cuda:1; auto is a GPU if there is one.
    workers
        Processes that narrate, each with a language model; all processors, or one on a GPU; all
        of the cluster with --ray.
    ray
        Narrate on the Ray cluster of which this machine is a node: its address, as 'ray start'
        prints it, or local for one that is started here. --device is then cpu, or cuda, which takes
        a GPU of the cluster for each worker.
    seed
        Of everything that is drawn.
    """
    from encoder_training.devices import resolve_device
    from evaluation.questions.inputs import EvaluateRequest
    from evaluation.questions.page import PAGE
    from evaluation.questions.recording import record_replay
    from evaluation.questions.run import JOURNAL, QUESTIONS, check_before_recording
    from evaluation.questions.run import evaluate as answer_questions

    check_folder_writable(out)
    if ray is None:
        device = resolve_device(device)
        workers = workers or (len(os.sched_getaffinity(0)) if device == "cpu" else 1)
    elif device == "auto":
        device = "cpu"  # as the cluster's machines may differ
    questions = list(QUESTIONS) if question == "all" else [question]
    options: Any = {"windows": windows, "facts": facts, "run": run}
    options |= {"images": images, "model": model, "sentence_model": sentence_model}

    def request_of(journal: Path | None) -> EvaluateRequest:
        words = command_text(
            "evaluate", question, bundle, dataset, out=out, journal=journal, **options, seed=seed
        )
        return EvaluateRequest(
            bundle, dataset, out.resolve(), device=device, workers=workers, ray=ray, seed=seed,
            command=words, journal=journal, **options,
        )  # fmt: skip

    if subscribe is not None:
        [keys] = access.keys_for([subscribe])
        check_before_recording(request_of(journal), questions)
        journal = record_replay(subscribe, keys, out / JOURNAL)
    for answer in answer_questions(request_of(journal), questions):
        print(answer.title, *answer.findings, sep="\n  ")
    print(f"wrote {out / PAGE}")
