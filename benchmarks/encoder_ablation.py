"""What each component of the evidence encoder is worth: trained without it, and scored.

    python -m benchmarks.encoder_ablation DATA [DATA ...] --threads 1 --markdown ablation.md
    python -m benchmarks.encoder_ablation fold_0/data fold_1/data --lag-ms 500
    python -m benchmarks.encoder_ablation data/ --size small --rows whole "without anchors"

DATA are folders of ``neurrate prepare``. The encoder is trained on each as ``neurrate train`` does
it, once for each row; what is left out is taken from its fit before training begins. The last rows
are the paper's encoder, and the baselines of the report, fitted to each population alone. Test
windows of all data sets are scored together, by the scores of docs/training-report.md.

"-" and "+" stand beside a score that is lower or higher than the whole encoder's: the 95 % interval
of the difference is without 0. Groups of the same number in several data sets are drawn together:
folds of a recording show the same seconds again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - this module trains
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.record import markdown
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import Scaling, Split, measure_scaling, thinned
from encoder_training.evaluation.baselines import FITS, BaselineData, BaselineDecoder
from encoder_training.evaluation.baselines.training_data import MAX_VALIDATION
from encoder_training.evaluation.bootstrap import Draws, draw_groups, interval
from encoder_training.evaluation.masked_encoder import MaskedEncoder, populations
from encoder_training.evaluation.movie_runs import bootstrap_groups
from encoder_training.evaluation.results import METRICS
from encoder_training.evaluation.scoring import EvaluationSet
from encoder_training.evidence.anchors import nearest
from encoder_training.evidence.fitting import EvidenceFit, FoldEvidence
from encoder_training.evidence.objective import EvidenceObjective
from encoder_training.evidence.poisson import PARTS
from encoder_training.lag import choose_lag, parse_lags
from encoder_training.model import EncoderSpec
from encoder_training.objectives import Objective, Targets, make_objective
from encoder_training.options import TrainingOptions
from encoder_training.training import train_encoder

WHOLE, PAPER = "whole", "paper's encoder"
CONTROLS = ("shuffled", "silent")
SCORES = ("top1", "within_1s", "cosine", "skill")
FEWEST_UNITS = 8
"""Of an area or a cell type in the table."""

MOST_WINDOWS = 1_000
"""Test windows of a data set, evenly thinned."""

Sums = dict[str, NDArray[np.float64]]
"""What each score is the mean of, window by window; of "skill" the squared error, and that of the
mean patches as "mean"."""

Drawn = dict[str, NDArray[np.float64]]
"""Each score, of the data and then of every draw."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """How the fit of an encoder is altered before training."""

    zeroed: tuple[str, ...] = ()  # Tensors of the network
    frozen: tuple[str, ...] = ()  # Parameters that are not learned
    cross_fits: bool = True  # Windows meet likelihoods that were made without their own fold
    fits_trust: bool = True
    possible_parts: tuple[int, ...] = PARTS

    def make(
        self,
        spec: EncoderSpec,
        targets: Targets,
        scaling: Scaling,
        split: Split,
        options: TrainingOptions,
        initial: object,
    ) -> EvidenceObjective:
        """Make the objective, in place of `make_objective`."""
        del initial
        given = (spec, targets.data, split, scaling, targets.scaling, options)
        fit = EvidenceFit(*given, possible_parts=self.possible_parts)
        self._alter(fit)
        return (EvidenceObjective if self.fits_trust else _EqualTrust)(fit, targets, options)

    @torch.no_grad()
    def _alter(self, fit: EvidenceFit) -> None:
        network = fit.network
        for name in self.zeroed:
            network.get_buffer(name).zero_()
        for name in self.frozen:
            network.get_parameter(name).requires_grad_(False)
        if not self.cross_fits:
            whole = FoldEvidence(
                network.poisson_gain,
                network.poisson_offset,
                torch.zeros(network.sizes.n_anchors, dtype=torch.bool),
                nearest(fit.space.coordinates, network.anchors.numpy()),
            )
            fit.folds = [whole] * len(fit.folds)


class _EqualTrust(EvidenceObjective):
    """Gives anchors and regression the same weight, whatever validation says."""

    @torch.no_grad()
    def fit_on_validation(self) -> None:
        self.network.trust.weight.zero_()
        self.network.trust.weight[:, 0] = 0.5


GAINS, LINEAR = ("unit_gain",), ("linear.weight",)
PERCEPTRON = ("regression.weight", "regression.bias")
"""Its last layer, and the linear term, are 0 at first."""

ANCHORS = ("poisson_gain", "poisson_offset", "log_prior", "anchors")
GAUSSIAN = ("gaussian_gain", "gaussian_precision")
ABLATIONS = {
    WHOLE: Ablation(),
    "without anchors": Ablation(zeroed=ANCHORS, frozen=LINEAR, cross_fits=False),
    "gains not learned": Ablation(frozen=GAINS),
    "without the linear term": Ablation(frozen=LINEAR),
    "neither gains nor linear": Ablation(frozen=GAINS + LINEAR),
    "without the Gaussian": Ablation(zeroed=GAUSSIAN),
    "without the perceptron": Ablation(frozen=PERCEPTRON),
    "anchors alone": Ablation(zeroed=GAUSSIAN, frozen=PERCEPTRON),
    "equal weights": Ablation(fits_trust=False),
    "not cross-fitted": Ablation(cross_fits=False),
    "one part of a window": Ablation(possible_parts=(1,)),
}


class TestWindows:
    """A data set, and what its test windows are scored by."""

    def __init__(self, folder: Path, lags_ns: tuple[int, ...], options: argparse.Namespace) -> None:
        prepared = load_prepared(folder)
        lag_ns = lags_ns[0]
        if len(lags_ns) > 1:
            lag_ns = choose_lag(prepared, lags_ns, seed=options.seed).lag_ns
        self.data, self.split = prepared.windows(lag_ns)
        rows = thinned(self.split.test, MOST_WINDOWS)
        self.set = EvaluationSet.of(prepared, self.data, self.split, rows)
        self.group, self.drawn = bootstrap_groups(self.data, rows, self.set.time)
        make = EncoderSpec if options.size == "paper" else getattr(EncoderSpec, options.size)
        self.spec: EncoderSpec = make(self.data.n_units, prepared.grid)
        units = self.data.population
        self.selections = populations(units, fewest=FEWEST_UNITS)
        self.selections |= {name: units.select(name) for name in CONTROLS}

    def sums(self, name: str, options: argparse.Namespace) -> dict[str, Sums]:
        """Score a row through each population."""
        return self._fitted(name) if name in FITS else self._trained(name, options)

    def _fitted(self, name: str) -> dict[str, Sums]:
        """Fit a baseline of the report to each population alone."""
        split, scaling = self.split, measure_scaling(self.data, self.split.train)
        given = (self.data, split.train, split.validation, scaling)
        return {
            population: self._sums(FITS[name](BaselineData(*given, selection.mask, self.set.space)))
            for population, selection in self.selections.items()
            if population not in CONTROLS
        }

    def _trained(self, name: str, options: argparse.Namespace) -> dict[str, Sums]:
        make: Callable[..., Objective] = make_objective
        training = TrainingOptions(seed=options.seed)
        if name != PAPER:
            make = ABLATIONS[name].make
            training = TrainingOptions.evidence(seed=options.seed)
        passes = options.training_epochs or training.training_epochs
        training = replace(training, training_epochs=passes)
        result = train_encoder(self.spec, self.data, training, parts=self.split, make=make)
        return {
            population: self._sums(MaskedEncoder(result.encoder, result.scaling, selection))
            for population, selection in self.selections.items()
        }

    def _sums(self, decoder: BaselineDecoder) -> Sums:
        test, scores = self.set, self.set.score(decoder, tqdm(disable=True))
        answer, top1 = scores.answer_by_patches, scores.ranks.top1
        if not test.decides_by_patches(decoder, thinned(self.split.validation, MAX_VALIDATION)):
            answer, top1 = scores.answer, (scores.answer == test.true).astype(np.float64)
        return {
            "top1": top1,
            "within_1s": test.time.is_near(answer, test.true).astype(np.float64),
            "cosine": scores.cosine,
            "skill": scores.error,
            "mean": test.mean_error(),
        }


def main(words: Sequence[str] | None = None) -> int:
    """Train and score every row, print the tables, and end with one JSON line."""
    options = _options(words)
    torch.set_num_threads(options.threads)
    lags_ns = parse_lags(options.lag_ms, "")
    tests = [TestWindows(folder, lags_ns, options) for folder in options.data]
    draws = draw_groups(np.concatenate([test.group for test in tests]), seed=options.seed)
    names = [name for name in tests[0].selections if all(name in t.selections for t in tests)]
    rows: dict[str, dict[str, Drawn]] = {}
    for row in options.rows:
        started = time.perf_counter()
        sums = [test.sums(row, options) for test in tests]
        rows[row] = {
            name: _scores([windows[name] for windows in sums], draws)
            for name in names
            if name in sums[0]
        }
        took_s = time.perf_counter() - started
        print(f"{row}: {took_s:.0f} s, scoring included", file=sys.stderr, flush=True)
        text = _text(rows, tests, n_groups=draws.n_groups)
        if options.markdown:  # after each row: a run takes long, and may be stopped
            options.markdown.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(rows, default=lambda drawn: float(drawn[0])))
    return 0


def _scores(sums: Sequence[Sums], draws: Draws) -> Drawn:
    """Return the scores of the test windows of all data sets, in every draw."""
    joined = {name: np.concatenate([windows[name] for windows in sums]) for name in sums[0]}
    scores = {name: draws.ratio(joined[name]) for name in SCORES if name != "skill"}
    return scores | {"skill": 1 - draws.ratio(joined["skill"], joined["mean"])}


def _text(rows: dict[str, dict[str, Drawn]], tests: Sequence[TestWindows], *, n_groups: int) -> str:
    """Return a table with intervals for all units, and one of each score for every population."""
    first = next(iter(rows))
    n_windows = sum(len(test.set.rows) for test in tests)
    n_frames = ", ".join(sorted({str(len(test.set.candidates)) for test in tests}))
    lines = [
        [name, *(str(interval(scores["all"][score])) for score in SCORES)]
        for name, scores in rows.items()
    ]
    tables = [
        f"{n_windows} test windows of {len(tests)} data sets, each of {n_frames} frames; intervals "
        f"from {n_groups} groups ({tests[0].drawn}).",
        "All units:\n\n" + markdown(["", *(METRICS[score] for score in SCORES)], lines),
    ]
    for score in SCORES:
        lines = [
            [
                name,
                *(
                    _cell(scores[k][score], rows[first][k][score]) if k in scores else ""
                    for k in rows[first]
                ),
            ]
            for name, scores in rows.items()
        ]
        units = tests[0].selections
        headers = [f"{k.split(':')[-1]} ({units[k].n_units})" for k in rows[first]]
        tables.append(f"{METRICS[score]}:\n\n" + markdown(["", *headers], lines))
    return "\n\n".join(tables) + "\n"


def _cell(values: NDArray[np.float64], whole: NDArray[np.float64]) -> str:
    difference = interval(values - whole)
    is_other = difference.is_known and difference.value and not difference.holds(0)
    sign = (" +" if difference.value > 0 else " -") if is_other else ""
    return f"{values[0]:.3f}{sign}"


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="folders of 'neurrate prepare'")
    every = [*ABLATIONS, PAPER, *FITS]
    parser.add_argument("--rows", nargs="+", choices=every, default=every)
    parser.add_argument("--size", choices=("paper", "small", "tiny"), default="paper")
    parser.add_argument("--lag-ms", type=float, help="chosen on validation windows if omitted")
    parser.add_argument("--training-epochs", type=int, help="those of the product if omitted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
