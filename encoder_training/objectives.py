"""The objective of each variant of the encoder: its network, its loss and its patches."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID253 - as above
from torch.nn import functional as F  # noqa: TID253 - as above

from encoder_training.data_set.training_set import Scaling, Split, TrainingSet
from encoder_training.evidence.fitting import EvidenceFit
from encoder_training.evidence.objective import EvidenceObjective
from encoder_training.losses import (
    TargetScaling,
    contrastive_loss,
    fold_target_scaling,
    patch_loss,
    unfold_target_scaling,
)
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder


class Objective(Protocol):
    """A network, its loss, and how an encoder is made of it."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    @property
    def keeps_last(self) -> bool:
        """Whether the last pass is kept, and not the one with the best validation cosine."""

    def loss(self, z: Tensor, mask: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return the loss of some windows, a scalar.

        `z` and `mask` are those of `EncoderNetwork.forward`, `rows` are the windows' numbers.
        """

    def patches(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted patches, on the scale that is learned."""

    def fit_on_validation(self) -> None:
        """Fit what is fitted on validation windows, after a pass and before it is scored."""

    def encoder(self, state: dict[str, Tensor]) -> EncoderNetwork:
        """Return the encoder of some weights, which gives patches on their own scale."""


class Targets:
    """Patches on the scale on which they are learned.

    If `are_kept_there` is None, all of them stay on a GPU where they take less than half of the
    free memory: to gather 75 MB for each batch from a file and send them takes longer than to
    learn from them.
    """

    def __init__(
        self,
        data: TrainingSet,
        scaling: TargetScaling,
        device: torch.device,
        *,
        are_kept_there: bool | None = None,
    ) -> None:
        self.data, self.scaling = data, scaling
        self.mean = torch.from_numpy(scaling.mean).to(device)
        self.std = torch.from_numpy(scaling.std).to(device)
        self._device = device
        if are_kept_there is None:
            are_kept_there = (
                device.type == "cuda"
                and 2 * data.targets.nbytes < torch.cuda.mem_get_info(device)[0]
            )
        self._kept: Tensor | None = None
        if are_kept_there:
            self._kept = torch.from_numpy(np.array(data.targets)).to(device)

    def of_frames(self, frames: NDArray[np.int64]) -> Tensor:
        """Return the patches of frames, shape (n, n_patches, dim), float32."""
        if self._kept is not None:
            raw = self._kept[torch.from_numpy(frames).to(self._device)]
        else:  # halves travel, and become float32 on the other side
            raw = torch.from_numpy(self.data.targets[frames]).to(self._device)
        return (raw.float() - self.mean) / self.std

    def of_windows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the patches that windows describe, shape (n, n_patches, dim), float32."""
        return self.of_frames(self.data.frame[rows])


class PatchObjective:
    """Predict each patch.

    Begins with the weights of `initial`, which gives raw patches.
    """

    keeps_last = False

    def __init__(
        self,
        spec: EncoderSpec,
        targets: Targets,
        options: TrainingOptions,
        initial: PatchEncoder | None = None,
    ) -> None:
        self._targets, self._contrastive = targets, options.contrastive
        self._network = PatchEncoder(spec)
        if initial is not None:
            self._network.load_state_dict(initial.state_dict())
            unfold_target_scaling(self._network, targets.scaling)

    @property
    def network(self) -> nn.Module:
        """The encoder, on the scale that is learned."""
        return self._network

    def loss(self, z: Tensor, mask: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return half squared error and half cosine, and the InfoNCE if it is wanted."""
        output = self._network(z, mask).float()
        target = self._targets.of_windows(rows)
        loss = patch_loss(output, target)
        if self._contrastive:
            frame = torch.from_numpy(self._targets.data.frame[rows]).to(output.device)
            loss = loss + self._contrastive * contrastive_loss(output, target, frame)
        return loss

    def patches(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the output."""
        output: Tensor = self._network(z, mask).float()
        return output

    def fit_on_validation(self) -> None:
        """Do nothing."""

    def encoder(self, state: dict[str, Tensor]) -> EncoderNetwork:
        """Return the encoder, the scale folded into its output layer."""
        encoder = PatchEncoder(self._network.spec)
        encoder.load_state_dict(state)
        fold_target_scaling(encoder, self._targets.scaling)
        return encoder.eval()


class RetrievalObjective:
    """Name the training image."""

    keeps_last = False

    def __init__(self, spec: EncoderSpec, targets: Targets, train: NDArray[np.int64]) -> None:
        self._spec, self._targets = spec, targets
        self._images = np.unique(targets.data.frame[train])
        self._network = ImageClassifier(spec, len(self._images))

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self._network

    def loss(self, z: Tensor, mask: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return the cross-entropy."""
        del mask
        output = self._network(z).float()
        label = np.searchsorted(self._images, self._targets.data.frame[rows])
        return F.cross_entropy(output, torch.from_numpy(label).to(output.device))

    def patches(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the patches of the image with the highest output."""
        del mask
        output = self._network(z).float()
        return self._targets.of_frames(self._images[output.argmax(dim=-1).cpu().numpy()])

    def fit_on_validation(self) -> None:
        """Do nothing."""

    def encoder(self, state: dict[str, Tensor]) -> EncoderNetwork:
        """Return the classifier with the images' true patches."""
        classifier = ImageClassifier(self._spec, len(self._images))
        classifier.load_state_dict(state)
        table = torch.from_numpy(self._targets.data.targets[self._images])
        return RetrievalEncoder(self._spec, classifier, table).eval()


def make_objective(
    spec: EncoderSpec,
    targets: Targets,
    scaling: Scaling,
    parts: Split,
    options: TrainingOptions,
    initial: PatchEncoder | None,
) -> Objective:
    """Return the objective of a variant."""
    if options.variant == "evidence":
        fit = EvidenceFit(spec, targets.data, parts, scaling, targets.scaling, options)
        return EvidenceObjective(fit, targets, options)
    if options.variant == "retrieval":
        return RetrievalObjective(spec, targets, parts.train)
    return PatchObjective(spec, targets, options, initial)
