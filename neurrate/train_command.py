"""``neurrate train``: a data set becomes an encoder that has been judged."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from contracts.atomic_files import check_folder_writable
from contracts.errors import UserError
from neurrate.arguments import Count, Seed
from neurrate.tables import print_table

LagMs = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=10_000))]
Passes = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=100_000))]
AboveZero = Annotated[float, Parameter(validator=validators.Number(gt=0))]
Weight = Annotated[float, Parameter(validator=validators.Number(gte=0))]


def train(
    dataset: Path,
    run: Path,
    *,
    size: Literal["paper", "small", "tiny"] = "paper",
    variant: Literal["patches", "retrieval"] = "patches",
    lag_ms: LagMs | None = None,
    lags_ms: str = "",
    weights: Path | None = None,
    heads: Count = 8,
    training_epochs: Passes = 60,
    batch_size: Count = 64,
    learning_rate: AboveZero = 3e-4,
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
    """Train an encoder on a data set, and judge it against baselines on windows it never saw.

    The lag is chosen on validation data unless it is named. A checkpoint is written after each
    pass; the same command given again goes on where it was, and the weights are the same, bit for
    bit, as if it had never stopped. history.csv and curves.png grow with each pass; report.md is
    written at the end.

    Examples
    --------
        neurrate train data/ run/
        neurrate train data/ run/ --size small --lag-ms 100 --max-minutes 30
        neurrate train data/ run/ --variant retrieval
        neurrate train data/ run/ --concepts car,dog,tree
        neurrate train data/ judged/ --weights released.pt --training-epochs 0 --lag-ms 83

    Parameters
    ----------
    dataset
        Folder of 'neurrate prepare'.
    run
        Folder of the run.
    size
        Of the encoder: paper (12 million parameters at 2,000 units), small (2.4 million at 600
        units: a laptop trains it), tiny (for trials).
    variant
        patches: predict each patch of the frame; retrieval: name the training image and give its
        true patches.
    lag_ms
        A window describes the frame shown this long before its end, milliseconds.
    lags_ms
        Lags to choose from, separated by commas; 0, 33, 67, 100, 133, 167 and 200 if omitted.
    weights
        Checkpoint to begin with, whose sizes count: of the authors' released layout (.pt or
        .safetensors), or encoder.safetensors of a run. Its units must be those of the data set,
        in the same order.
    heads
        Attention heads of a released checkpoint, which its shapes do not tell.
    training_epochs
        Passes over the training windows, at most; it ends 12 passes after the best. 0 only judges
        the weights.
    batch_size
        Windows in one step.
    learning_rate
        The largest one; it rises at first and falls to 0.
    windows_per_epoch
        Windows in a pass, drawn anew each time; all if omitted.
    max_minutes
        Training ends by then, time before an interruption included. The same seed then no longer
        gives the same weights.
    precision
        Of products of matrices; auto is bfloat16 on a GPU and float32 on a CPU.
    device
        auto, cpu, cuda, cuda:1; auto is a GPU if there is one.
    threads
        Of torch on the CPU; its own choice if omitted. Another number may give other last digits.
    contrastive
        Weight of a contrastive loss on mean patches; 0 leaves it out.
    paper_loss
        Learn the patches as they are, as in the paper, and not each dimension on its own scale.
    concepts
        Words that probes are to tell, separated by commas, each in some captions and not in all;
        chosen from the captions if omitted.
    test_windows
        Test windows that judge, at most, evenly thinned; 2,000 if omitted. Fewer are faster.
    seed
        Of weights, order, masks, jitter and dropout.
    overwrite
        Start again where a run is.

    Raises
    ------
    UserError
        If options contradict each other.
    """
    # cuBLAS reads it once, when the first product is made; without it sums differ from run to run
    # (docs.nvidia.com, cuBLAS, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    check_folder_writable(run)
    lags_ns = lags_of(lag_ms, lags_ms)
    if training_epochs == 0 and weights is None:
        raise UserError("--training-epochs 0 only judges, so it needs --weights; got none.")

    import torch

    from encoder_training.devices import resolve_device
    from encoder_training.options import TrainingOptions
    from encoder_training.train_request import TrainRequest
    from encoder_training.train_run import check_libraries, train_run

    check_libraries()
    where = resolve_device(device)
    if precision == "auto":
        precision = "bfloat16" if where.startswith("cuda") else "float32"
    if variant == "retrieval" and (weights is not None or contrastive):
        raise UserError(
            "--variant retrieval has no released checkpoints and no contrastive loss; leave "
            "--weights and --contrastive out."
        )
    if threads is not None:
        torch.set_num_threads(threads)
    request = TrainRequest(
        dataset=dataset,
        folder=run,
        size=size,
        lags_ns=lags_ns,
        weights=weights,
        heads=heads,
        judges_only=training_epochs == 0,
        options=TrainingOptions(
            training_epochs=max(1, training_epochs),
            batch_size=batch_size,
            learning_rate=learning_rate,
            windows_per_epoch=windows_per_epoch,
            max_minutes=max_minutes,
            precision=precision,
            device=where,
            variant=variant,
            contrastive=contrastive,
            normalise=not paper_loss,
            seed=seed,
        ),
        concepts=concepts_of(concepts),
        test_windows=test_windows,
        command=shlex.join(["neurrate", *sys.argv[1:]]),
    )
    rows = train_run(request, overwrite=overwrite, say=_say)
    if rows:
        print_table("test windows, all units", rows)
        print(f"wrote {run}: read {run / 'report.md'}")


def lags_of(lag_ms: float | None, lags_ms: str) -> tuple[int, ...]:
    """Return the lags to choose from; one if it is named.

    Parameters
    ----------
    lag_ms : float or None
        The one.
    lags_ms : str
        Several, separated by commas; empty for the usual ones.

    Returns
    -------
    lags_ns : tuple of int, nanoseconds

    Raises
    ------
    UserError
        If both are given, or one is no number from 0 to 10,000.
    """
    if lag_ms is not None and lags_ms:
        raise UserError("give --lag-ms, the lag itself, or --lags-ms, a choice of lags; not both.")
    if lag_ms is not None:
        return (round(lag_ms * 1e6),)
    if not lags_ms:
        from encoder_training.lag import CANDIDATES_NS

        return CANDIDATES_NS
    lags = set()
    for text in lags_ms.split(","):
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 10_000:
            raise UserError(
                "--lags-ms takes milliseconds from 0 to 10,000, separated by commas, got "
                f"{text!r} in {lags_ms!r}. For example: --lags-ms 0,33,67,100"
            )
        lags.add(round(value * 1e6))
    return tuple(sorted(lags))


def concepts_of(text: str) -> tuple[str, ...] | None:
    """Return words that commas separate, each once, in lower case; None if there are none.

    >>> concepts_of("car, Dog,car")
    ('car', 'dog')
    """
    words = [each.strip().lower() for each in text.split(",")]
    return tuple(dict.fromkeys(each for each in words if each)) or None


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)  # above a bar, if there is one
    sys.stdout.flush()
