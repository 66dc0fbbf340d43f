"""An evidence encoder from closed forms, before anything is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above

from contracts.errors import UserError
from encoder_training.data_set.training_set import Scaling, Split, TrainingSet, thinned
from encoder_training.evaluation.frame_space import BLOCK_BYTES, FrameSpace, fit_frame_space
from encoder_training.evidence.anchors import choose_anchors
from encoder_training.evidence.gaussian import RIDGES, TEMPERS, GaussianModel, GaussianMoments
from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes, part_sums
from encoder_training.evidence.poisson import (
    PARTS,
    ChoosingWindows,
    PoissonSums,
    ShownAnchors,
    choose_parts,
    fewest,
    folds_of,
)
from encoder_training.losses import TargetScaling
from encoder_training.masking import PopulationMasks
from encoder_training.model import EncoderSpec
from encoder_training.options import TrainingOptions

N_GAUSSIAN = 64
"""Components that the Gaussian estimates, at most: 33 MB of precisions at 2,000 units."""

MAX_DIMS = 128
"""Of a patch's embedding, at most, that the last layer combines."""

MOST_CHOOSING = 1_000
"""Windows that choose the settings of a closed form, at most, evenly thinned."""

BLOCK_WINDOWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class FoldEvidence:
    """What windows of one fold meet in training: the Poisson evidence of the others."""

    gain: Tensor
    offset: Tensor
    unseen: Tensor  # (n_anchors,): bool, of anchors that no other fold shows
    nearest: NDArray[np.int64]  # (n_frames,): the nearest of the other anchors

    def to(self, device: torch.device) -> FoldEvidence:
        """Return it on a device."""
        return FoldEvidence(
            self.gain.to(device), self.offset.to(device), self.unseen.to(device), self.nearest
        )


def sizes_for(
    spec: EncoderSpec, *, n_bins: int, n_parts: int, n_anchors: int, n_latents: int
) -> EvidenceSizes:
    """Return all sizes of an encoder, from those that the data decide."""
    return EvidenceSizes(
        n_bins=n_bins,
        n_parts=n_parts,
        n_anchors=n_anchors,
        n_latents=n_latents,
        n_gaussian=min(N_GAUSSIAN, n_latents),
        n_dims=min(MAX_DIMS, spec.grid.dim),
        width=4 * spec.feed_forward // 3,
    )


class EvidenceFit:
    """Fits the closed forms to the training windows, and puts them into `network`.

    `possible_parts` are the numbers of parts of a window to choose from.

    Raises
    ------
    UserError
        If patches of training frames are no numbers, or all alike.

    Attributes
    ----------
    network : EvidenceEncoder
        On the CPU; gives raw patches.
    space : FrameSpace
        Principal components of the training frames, and the place of every frame in them.
    folds : list of FoldEvidence
    fold_of : array, shape (n_windows,), int64
        Fold of each training window of the data, -1 for others.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        data: TrainingSet,
        split: Split,
        scaling: Scaling,
        targets: TargetScaling,
        options: TrainingOptions,
        *,
        possible_parts: Sequence[int] = PARTS,
    ) -> None:
        self.data, self.split, self.scaling = data, split, scaling
        self.masks = PopulationMasks(data.population, options.masking)
        self._rng = np.random.default_rng(options.seed)
        frames = np.unique(data.frame[split.train])
        self.space = space_of(data, targets, frames)
        places = self.space.coordinates
        anchors, nearest = choose_anchors(places, frames, seed=options.seed)
        fold = folds_of(data.group[split.train])
        self.fold_of = np.full(data.n_windows, -1)
        self.fold_of[split.train] = fold
        anchor = nearest[data.frame[split.train]]
        shown = ShownAnchors(data, split.train, places, anchors, anchor, fold)
        sums = PoissonSums(shown)
        n_parts = choose_parts(shown, sums, scaling, self._choosing(), possible_parts)
        n_parts, gaussian = self._choose_gaussian([n for n in possible_parts if n >= n_parts])
        sizes = sizes_for(
            spec,
            n_bins=data.window.n_bins,
            n_parts=n_parts,
            n_anchors=len(anchors),
            n_latents=places.shape[1],
        )
        self.network = EvidenceEncoder(spec, sizes)
        self.network.anchors.copy_(torch.from_numpy(anchors))
        self.folds = self._set_poisson(shown, sums)
        self._set_gaussian(gaussian)
        set_read_out(self.network, self.space, frames)

    def _choosing(self) -> ChoosingWindows:
        rows = self.split.train
        at = thinned(np.arange(len(rows)), MOST_CHOOSING)
        z, mask = self._masked(rows[at])
        return ChoosingWindows(at, z.numpy(), mask.numpy())

    def _set_poisson(self, shown: ShownAnchors, sums: PoissonSums) -> list[FoldEvidence]:
        """Set the evidence of all folds, and return that without each fold."""
        network, n_parts = self.network, self.network.sizes.n_parts
        whole = sums.evidence(self.scaling, n_parts)
        n = sums.n.sum(axis=0)  # of windows
        with torch.no_grad():
            network.poisson_gain.copy_(torch.from_numpy(whole.gain))
            network.poisson_offset.copy_(torch.from_numpy(whole.offset))
            network.log_prior.copy_(torch.from_numpy(np.log(n / n.sum())))
        folds = []
        for fold in range(sums.n_folds):
            evidence = sums.evidence(self.scaling, n_parts, without=fold)
            folds.append(
                FoldEvidence(
                    torch.from_numpy(evidence.gain),
                    torch.from_numpy(evidence.offset),
                    torch.from_numpy(~evidence.is_seen),
                    shown.nearest_of(evidence.is_seen),
                )
            )
        return folds

    def _choose_gaussian(self, possible: Sequence[int]) -> tuple[int, GaussianModel]:
        """Return parts of a window and the model; the fewest that are as good as any.

        None is fewer than those of the Poisson evidence: the network has one choice for both.
        """
        possible = [n for n in possible if n <= self.data.window.n_bins]
        rows = thinned(self.split.validation, MOST_CHOOSING)
        z, mask = self._masked(rows)
        true = torch.from_numpy(self.space.coordinates[self.data.frame[rows], :N_GAUSSIAN])
        fitted = [
            min(self._fit_gaussian(n, z, mask, true), key=lambda pair: pair[0].mean())
            for n in possible
        ]
        chosen = fewest([errors for errors, _ in fitted])
        return possible[chosen], fitted[chosen][1]

    def _fit_gaussian(
        self, n_parts: int, z: Tensor, mask: Tensor, true: Tensor
    ) -> Iterator[tuple[NDArray[np.float64], GaussianModel]]:
        """Yield the squared error of each validation window, and the model, for each setting."""
        data, train = self.data, self.split.train
        sums = part_sums(data.window.n_bins, n_parts)
        places = self.space.coordinates[:, :N_GAUSSIAN]
        moments = GaussianMoments(n_parts * data.n_units, places.shape[1])
        for some in blocks(len(train)):
            x = (sums @ self._z(train[some])).flatten(1)
            moments.add(x.numpy(), places[data.frame[train[some]]])
        x = (sums @ z).flatten(1)
        for ridge in RIDGES:
            model = moments.model(data.n_units, ridge)
            for temper in TEMPERS:
                tempered = model.tempered(temper)
                error = np.concatenate(
                    [
                        (true[some] - tempered.mean(x[some], mask[some])).square().sum(dim=-1)
                        for some in blocks(len(true))
                    ]
                ).astype(np.float64)
                yield error, tempered

    def _set_gaussian(self, model: GaussianModel) -> None:
        self.network.gaussian_gain.copy_(torch.from_numpy(model.gain))
        self.network.gaussian_precision.copy_(torch.from_numpy(model.precision))
        self.network.gaussian_scale.copy_(torch.from_numpy(model.scale))

    def _masked(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return windows through random populations, and these."""
        mask = torch.from_numpy(self.masks.draw(len(rows), self._rng)).float()
        return self._z(rows) * mask.unsqueeze(1), mask

    def _z(self, rows: NDArray[np.int64]) -> Tensor:
        counts = torch.from_numpy(self.data.counts_of(rows)).float()
        return (counts - torch.from_numpy(self.scaling.mean)) / torch.from_numpy(self.scaling.std)


def space_of(data: TrainingSet, targets: TargetScaling, frames: NDArray[np.int64]) -> FrameSpace:
    """Find the principal components of the training frames.

    Raises
    ------
    UserError
        If their patches are no numbers, or all alike.
    """
    if not np.isfinite(targets.patch_mean).all():
        raise UserError(
            "the patches of training frames must be numbers, and some are not. Prepare the "
            "data set again."
        )
    space = fit_frame_space(data.targets, targets, frames)
    if not space.coordinates.shape[1]:
        raise UserError(
            "training frames must differ in their patches; those of the data set are all equal, "
            f"of {len(frames)}. Prepare it with a movie that changes, or with more of it."
        )
    return space


@torch.no_grad()
def set_read_out(network: EvidenceEncoder, space: FrameSpace, frames: NDArray[np.int64]) -> None:
    """Let the last layers give raw patches from coordinates.

    Of an embedding with more than `MAX_DIMS` dimensions, those directions are kept along which the
    components, weighted by how far the training frames spread along them, are longest.
    """
    n_patches, dim = space.patch_mean.shape
    std = np.where(np.isfinite(space.std), space.std, 0)
    basis = space.basis.reshape(n_patches, dim, -1)
    deviation = space.coordinates[frames].std(axis=0)
    # At the paper's size the basis takes 600 MB, and so would each copy of it.
    step = max(1, BLOCK_BYTES // (4 * dim * basis.shape[-1]))
    some_patches = [slice(first, first + step) for first in range(0, n_patches, step)]
    longest = np.zeros((dim, dim), dtype=np.float32)
    for some in some_patches:
        spread = basis[some] * std[:, None] * deviation
        longest += np.einsum("pdl,pel->de", spread, spread, optimize=True)
    directions = np.linalg.eigh(longest)[1][:, ::-1][:, : network.sizes.n_dims]
    directions = np.ascontiguousarray(directions, dtype=np.float32)
    weight = network.to_dims.weight.view(n_patches, directions.shape[1], -1)
    for some in some_patches:
        raw = basis[some] * std[:, None]
        to_dims = np.einsum("de,pdl->pel", directions, raw, optimize=True)
        weight[some] = torch.from_numpy(np.ascontiguousarray(to_dims))
    network.to_patch.weight.copy_(torch.from_numpy(directions))
    network.patch_mean.copy_(torch.from_numpy(space.patch_mean))


def blocks(n: int) -> Iterator[slice]:
    """Cut n windows into blocks."""
    return (slice(first, first + BLOCK_WINDOWS) for first in range(0, n, BLOCK_WINDOWS))
