"""Patch grids into the place of ``<image>`` in a prompt, as embeddings of the language model.

This is what a LLaVA does with an image after its vision tower: project each patch, and put the
result between the embeddings of the words before and after.

References
----------
NEURRATOR, arXiv 2606.18667, hands the predicted grid to the frozen model in place of the vision
tower's; Liu et al., arXiv 2304.08485, for the projector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.embedding import PatchEmbedding
from contracts.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_TOKEN = "<image>"
"""Where the patches go."""


class PatchPrompt:
    """One prompt, ready for any patches.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        Its projector and its word embeddings are used.
    tokenizer : PreTrainedTokenizer
        Of the same model.
    prompt : str
        With ``<image>`` exactly once.

    Raises
    ------
    UserError
        If the prompt has not, or the tokenizer does not know it as one token.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str) -> None:
        import torch

        check_prompt(prompt)
        image_id = model.config.image_token_id
        ids = tokenizer(prompt)["input_ids"]
        if ids.count(image_id) != 1:
            raise UserError(
                f"the tokenizer must read {IMAGE_TOKEN} in the prompt as token {image_id} once, "
                f"it does {ids.count(image_id)} times. The tokenizer and the model in the folder "
                "are not of one LLaVA."
            )
        at = ids.index(image_id)
        self._projector = model.model.multi_modal_projector
        words = model.get_input_embeddings()
        with torch.inference_mode():
            self._before = words(torch.tensor([ids[:at]], dtype=torch.long, device=model.device))
            self._after = words(
                torch.tensor([ids[at + 1 :]], dtype=torch.long, device=model.device)
            )

    def embed(self, embeddings: Sequence[PatchEmbedding]) -> Tensor:
        """Put each grid of patches into the prompt.

        Parameters
        ----------
        embeddings : sequence of PatchEmbedding
            One or more.

        Returns
        -------
        prompts : tensor, shape (n, n_tokens, width), the model's dtype and device
            All of one length, so that a batch needs no padding.
        """
        import torch

        stacked = np.stack([embedding.patches for embedding in embeddings])
        patches = torch.from_numpy(stacked).to(self._before.device, self._before.dtype)
        n = len(embeddings)
        return torch.cat(
            [
                self._before.expand(n, -1, -1),
                self._projector(patches),
                self._after.expand(n, -1, -1),
            ],
            dim=1,
        )


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that does not have one place for the patches.

    Raises
    ------
    UserError
        With what was found.
    """
    found = prompt.count(IMAGE_TOKEN)
    if found != 1:
        raise UserError(
            f"the prompt must contain {IMAGE_TOKEN} exactly once, found {found} times in {prompt!r}"
        )
