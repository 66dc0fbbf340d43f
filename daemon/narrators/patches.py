"""Patch grids into the place of ``<image>`` in a prompt, as embeddings of the language model.

This is what a LLaVA does with an image after its vision tower: project each patch, and put the
result between the embeddings of the words before and after.

References
----------
NEURRATOR, arXiv 2606.18667, hands the predicted grid to the frozen model in place of the vision
tower's; Liu et al., arXiv 2304.08485, for the projector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from daemon.settings import IMAGE_TOKEN

if TYPE_CHECKING:
    from torch import Tensor


class PatchPrompt:
    """One prompt, ready for any patches.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        Its projector and its word embeddings are used.
    tokenizer : PreTrainedTokenizer
        Of the same model.
    prompt : str
        With ``<image>`` exactly once, as the settings make sure.

    Raises
    ------
    UserError
        If the tokenizer does not know it as one token.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str) -> None:
        import torch

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

    def embed(self, grids: NDArray[np.float32]) -> Tensor:
        """Put each grid of patches into the prompt.

        Parameters
        ----------
        grids : array, shape (n, n_patches, dim), float32
            One or more.

        Returns
        -------
        prompts : tensor, shape (n, n_tokens, width), the model's dtype and device
            All of one length, so that a batch needs no padding.
        """
        import torch

        patches = torch.from_numpy(grids).to(self._before.device, self._before.dtype)
        n = len(grids)
        return torch.cat(
            [
                self._before.expand(n, -1, -1),
                self._projector(patches),
                self._after.expand(n, -1, -1),
            ],
            dim=1,
        )
