"""``neurrate train``: a data set becomes a trained and evaluated encoder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from contracts.errors import UserError
from neurrate.arguments import Count, LagMs, Seed, command_text
from neurrate.tables import print_table

Passes = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=100_000))]
AboveZero = Annotated[float, Parameter(validator=validators.Number(gt=0))]
Weight = Annotated[float, Parameter(validator=validators.Number(gte=0))]


def train(
    dataset: Path,
    run: Path,
    *,
    size: Literal["paper", "small", "tiny"] = "paper",
    architecture: Literal["evidence", "neurrator"] | None = None,
    variant: Literal["patches", "retrieval"] | None = None,
    lag_ms: LagMs | None = None,
    lags_ms: str = "",
    weights: Path | None = None,
    heads: Count = 8,
    zscore: Path | None = None,
    training_epochs: Passes | None = None,
    batch_size: Count = 64,
    learning_rate: AboveZero | None = None,
    windows_per_epoch: Count | None = None,
    max_minutes: AboveZero | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    threads: Count | None = None,
    contrastive: Weight = 0.0,
    paper_loss: bool = False,
    concepts: str = "",
    test_windows: Count | None = None,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Train an encoder on a data set, and evaluate it against baselines on held-out windows.

    The lag is chosen on validation data unless it is named. A checkpoint is written after each
    pass; the same command given again resumes there, and the weights are the same, bit for bit, as
    if it had never stopped. history.csv and curves.png grow with each pass; report.md is
    written at the end.

    Examples
    --------
        neurrate train data/ run/
        neurrate train data/ run/ --size small --lag-ms 100 --max-minutes 30
        neurrate train data/ run/ --architecture neurrator --variant retrieval
        neurrate train data/ run/ --concepts car,dog,tree
        neurrate train data/ evaluated/ --weights released.pt --training-epochs 0 --lag-ms 83

    Parameters
    ----------
    dataset
        Folder of 'neurrate prepare'.
    run
        Folder of the run.
    size
        Of the encoder: paper, small (a laptop trains it), tiny (for trials). The paper's encoder
        has 12 million parameters at 2,000 units, and 2.4 million at 600 units in small.
    architecture
        evidence: each unit adds evidence, so that any set of units is read well, a single area or
        a few units too; neurrator: the paper's. evidence if omitted, neurrator with --variant,
        --contrastive or --paper-loss; --weights tell it themselves, and must be of the one named.
    variant
        Of the paper's encoder. patches: predict each patch of the frame; retrieval: classify the
        training image and give its true patches. patches if omitted; weights tell it themselves.
    lag_ms
        A window describes the frame shown this long before its end, milliseconds.
    lags_ms
        Lags to choose from, separated by commas; 0, 33, 67, 100, 133, 167 and 200 if omitted.
    weights
        Checkpoint to begin with, whose sizes count: of the authors' released layout (.pt or
        .safetensors), or encoder.safetensors of a run. Its units must be those of the data set,
        in the same order. Retrieval and evidence encoders can only be evaluated, with
        --training-epochs 0; the outputs of a released retrieval checkpoint are the data set's
        training frames, by movie and number.
    heads
        Attention heads of a released checkpoint, which its shapes do not tell.
    zscore
        Statistics that the counts of the weights were z-scored by: an .npz file with zscore_mean
        and zscore_std. If omitted, neural_STIMULUS_SESSION.npz beside a checkpoint
        neurrator_patches_STIMULUS_SESSION.pt; where that is not there, they are measured on the
        training windows.
    training_epochs
        Passes over the training windows. 20 if omitted; of the paper's encoder 60 at most, and it
        ends 12 passes after the best. 0 only evaluates the weights.
    batch_size
        Windows in one step.
    learning_rate
        The largest one; it rises at first and falls to 0. 1e-3 if omitted, of the paper's encoder
        3e-4.
    windows_per_epoch
        Windows in a pass, drawn anew each time; all if omitted.
    max_minutes
        Training ends by then, time before an interruption included. The same seed then no longer
        gives the same weights.
    precision
        Of products of matrices. The evidence encoder is trained in float32; for the paper's, auto
        is bfloat16 on a GPU that has it, else float32.
    device
        auto, cpu, cuda, cuda:1; auto is a GPU if there is one.
    threads
        Of torch on the CPU; its own choice if omitted. Another number may give other last digits.
    contrastive
        Weight of a contrastive loss on mean patches; 0 leaves it out.
    paper_loss
        Learn the patches as they are, as in the paper, and not each dimension on its own scale.
    concepts
        Words to fit probes for, separated by commas, each in some captions and not in all;
        chosen from the captions if omitted.
    test_windows
        Most test windows to evaluate on, evenly thinned; 2,000 if omitted. Fewer are faster.
    seed
        Of weights, order, masks, jitter and dropout.
    overwrite
        Start again where a run is.

    Raises
    ------
    UserError
        If options contradict each other.
    """
    if training_epochs == 0 and weights is None:
        raise UserError("--training-epochs 0 only evaluates, so it needs --weights; got none.")
    if zscore is not None and weights is None:
        raise UserError("--zscore gives the statistics of --weights; got none.")
    of_paper = {
        "--variant": variant is not None,
        "--weights": weights is not None and architecture != "evidence",
        "--contrastive": contrastive > 0,
        "--paper-loss": paper_loss,
    }
    given = [name for name, is_given in of_paper.items() if is_given]
    if architecture == "evidence" and given:
        raise UserError(
            f"{' and '.join(given)} go with --architecture neurrator, the paper's encoder. Leave "
            "out the one or the other."
        )
    is_paper = architecture == "neurrator" or bool(given)
    if precision == "bfloat16" and not is_paper:
        raise UserError(
            "--precision bfloat16 goes with --architecture neurrator: log likelihoods need "
            "float32. Leave out --precision, or train the paper's encoder."
        )
    variant = variant or "patches"
    if variant == "retrieval" and contrastive:
        raise UserError("--variant retrieval has no contrastive loss; leave --contrastive out.")
    if variant == "retrieval" and weights is not None and training_epochs != 0:
        raise UserError(
            "--variant retrieval cannot be trained from --weights on. Evaluate them with "
            "--training-epochs 0, or leave --weights out."
        )
    from encoder_training.devices import resolve_device, resolve_precision
    from encoder_training.lag import parse_lags
    from encoder_training.options import TrainingOptions
    from encoder_training.probes.concepts import parse_concepts
    from encoder_training.train_run import TrainRequest, train_run

    device = resolve_device(device)
    defaults = TrainingOptions() if is_paper else TrainingOptions.evidence()
    request = TrainRequest(
        dataset=dataset,
        folder=run,
        size=size,
        lags_ns=parse_lags(lag_ms, lags_ms),
        weights=weights,
        heads=heads,
        zscore=zscore,
        evaluates_only=training_epochs == 0,
        options=replace(
            defaults,
            training_epochs=max(
                1, defaults.training_epochs if training_epochs is None else training_epochs
            ),
            batch_size=batch_size,
            learning_rate=learning_rate or defaults.learning_rate,
            windows_per_epoch=windows_per_epoch,
            max_minutes=max_minutes,
            precision=resolve_precision(precision, device) if is_paper else "float32",
            device=device,
            variant=variant if is_paper else "evidence",
            contrastive=contrastive,
            normalise=not paper_loss,
            seed=seed,
        ),
        concepts=parse_concepts(concepts),
        test_windows=test_windows,
        n_threads=threads,
        command=command_text(*sys.argv[1:]),
    )
    rows = train_run(request, overwrite=overwrite, notify=_print_above_bars)
    if rows:
        print_table("test windows, all units", rows)
        print(f"wrote {run}: read {run / 'report.md'}")


def _print_above_bars(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
