"""The losses of the evidence encoder.

The anchors learn by cross-entropy, the regression by the squared error of the coordinates and the
cosine of a few patches; how far each is believed is fitted after each pass, on validation windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above
from torch.nn import functional as F  # noqa: TID253 - as above

from encoder_training.data_set.training_set import thinned
from encoder_training.evidence.fitting import EvidenceFit, blocks
from encoder_training.evidence.network import EvidenceEncoder, without_idle_anchors
from encoder_training.evidence.trust import fit_trust
from encoder_training.losses import patch_cosine
from encoder_training.masking import masked_z
from encoder_training.model import EncoderNetwork
from encoder_training.options import TrainingOptions

if TYPE_CHECKING:
    from encoder_training.objectives import Targets

MAX_PATCHES = 64
"""Patches of a window whose cosine is part of the loss, drawn anew for each batch."""

MOST_TRUSTED = 400
"""Validation windows that fit how far the two estimates are believed, at most."""

TRIALS = 4
"""Random populations of each of these windows."""


class EvidenceObjective:
    """Name the anchor, and regress the coordinates of the frame."""

    keeps_last = True
    """Validation windows decide how far to believe the two; they do not choose the pass as well."""

    def __init__(self, fit: EvidenceFit, targets: Targets, options: TrainingOptions) -> None:
        self._data, self._targets = targets.data, targets
        device = torch.device(options.device)
        self._network = fit.network.to(device)
        self._folds = [fold.to(device) for fold in fit.folds]
        self._fold_of = fit.fold_of
        places = fit.space.coordinates
        self._places = torch.from_numpy(places).to(device)
        self._basis = torch.from_numpy(fit.space.basis).to(device)
        self._middle = (torch.from_numpy(fit.space.patch_mean).to(device) - targets.mean) / (
            targets.std
        )
        train_frames = np.unique(self._data.frame[fit.split.train])
        self._variance = float(np.square(places[train_frames]).sum(axis=1).mean()) + 1e-12
        self._validation = np.tile(thinned(fit.split.validation, MOST_TRUSTED), TRIALS)
        drawn = fit.masks.draw(len(self._validation), np.random.default_rng(options.seed))
        self._drawn = torch.from_numpy(drawn).float().to(device)
        self._unit_mean = torch.from_numpy(fit.scaling.mean).to(device)
        self._unit_std = torch.from_numpy(fit.scaling.std).to(device)

    @property
    def network(self) -> EvidenceEncoder:
        """The encoder, which gives raw patches."""
        return self._network

    def loss(self, z: Tensor, mask: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return cross-entropy, relative squared error and half one minus the cosine, a scalar."""
        network, frame = self._network, self._data.frame[rows]
        x = network.features(z)
        poisson = torch.empty(len(x), network.sizes.n_anchors, device=x.device)
        label = np.empty(len(x), dtype=np.int64)
        for number in np.unique(self._fold_of[rows]):
            fold, mine = self._folds[number], np.flatnonzero(self._fold_of[rows] == number)
            logits = network.poisson(x[mine], mask[mine], fold.gain, fold.offset)
            poisson[mine] = logits.masked_fill(fold.unseen, -1e9)
            label[mine] = fold.nearest[frame[mine]]
        evidence = network.evidence(x, mask, poisson)
        true = self._places[torch.from_numpy(frame).to(x.device)]
        error = (evidence.regressed - true).square().sum(dim=-1).mean() / self._variance
        named = F.cross_entropy(evidence.logits, torch.from_numpy(label).to(x.device))
        return named + error + 0.5 * (1 - self._cosine(evidence.regressed, true))

    def patches(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted patches, on the scale that is learned."""
        raw: Tensor = self._network(z, mask)
        return (raw - self._targets.mean) / self._targets.std

    @torch.no_grad()
    def fit_on_validation(self) -> None:
        """Fit how far anchors and regression are believed.

        Windows are read block by block: at 2,000 units, all of them would take 256 MB.
        """
        evidence = []
        for some in blocks(len(self._validation)):
            counts = torch.from_numpy(self._data.counts_of(self._validation[some]))
            mask = self._drawn[some]
            z = masked_z(counts.to(mask.device).float(), self._unit_mean, self._unit_std, mask)
            evidence.append(self._network.evidence_of(z, mask))
        fit_trust(self._network, evidence, self._data.frame[self._validation], self._places)

    def encoder(self, state: dict[str, Tensor]) -> EncoderNetwork:
        """Return the encoder of some weights, without anchors where they have no weight."""
        encoder = EvidenceEncoder(self._network.spec, self._network.sizes)
        encoder.load_state_dict(state)
        return without_idle_anchors(encoder).eval()

    def _cosine(self, latents: Tensor, true: Tensor) -> Tensor:
        """Return the mean cosine of a few patches; what no component holds is left out."""
        n_patches, dim = self._middle.shape
        some = torch.randperm(n_patches)[:MAX_PATCHES].to(latents.device)
        basis = self._basis.view(n_patches, dim, -1)[some]
        grids = [
            torch.einsum("nl,pdl->npd", places, basis) + self._middle[some]
            for places in (latents, true)
        ]
        return patch_cosine(grids[0], grids[1]).mean()
