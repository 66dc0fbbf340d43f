"""The retrieval variant: classify which training image was seen, and give its true patches.

The same convolutions and the same transformer over time as `PatchEncoder`; then one linear score
for each token of the window, whose softmax pools the tokens, a layer normalization, and a linear
layer with one output for each training image. It learns by cross-entropy. What it gives is the
patches of the image with the highest output, as the vision tower made them, so that the language
model never sees patches off its manifold. It can give no image but the training images.

References
----------
NEURRATOR, arXiv 2606.18667, the retrieval variant.
"""

from __future__ import annotations

from typing import Self

# This module is the network itself; whoever imports it is about to need torch.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from encoder_training.model import (
    EncoderNetwork,
    EncoderSpec,
    MultiKernelConv,
    make_input_projection,
    make_transformer,
)


class ImageClassifier(nn.Module):
    """Windows of z-scored counts to one number for each training image."""

    def __init__(self, spec: EncoderSpec, n_images: int) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(spec.input_dropout)
        self.multi_conv = MultiKernelConv(spec)
        self.input_proj = make_input_projection(spec)
        self.transformer = make_transformer(spec, spec.time_layers)
        self.pool = nn.Linear(spec.width, 1)
        self.out_proj = nn.Sequential(nn.LayerNorm(spec.width), nn.Linear(spec.width, n_images))

    def forward(self, z: Tensor) -> Tensor:
        """Score each training image.

        `z` is float32 of shape (n, n_bins, n_units), standard deviations. Returns float32 of shape
        (n, n_images).
        """
        time_tokens = self.transformer(self.input_proj(self.multi_conv(self.input_dropout(z))))
        weight = torch.softmax(self.pool(time_tokens), dim=1)
        logits: Tensor = self.out_proj((weight * time_tokens).sum(dim=1))
        return logits


class RetrievalEncoder(EncoderNetwork):
    """The patches of the most probable training image."""

    table: Tensor

    def __init__(self, spec: EncoderSpec, classifier: ImageClassifier, table: Tensor) -> None:
        super().__init__(spec)
        self.classifier = classifier
        self.register_buffer("table", table)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Look the patches up; shapes as for `EncoderNetwork.forward`."""
        del mask  # as in `PatchEncoder`
        logits = self.classifier(z.to(self.classifier.pool.weight.dtype))
        return self.table[logits.argmax(dim=-1)].float()

    def to_precision(self, dtype: torch.dtype) -> Self:
        """Convert all but the table: it is float16 as the vision tower gave it."""
        self.classifier.to(dtype)
        return self
