"""Puts patch grids in place of ``<image>`` in a prompt, as embeddings of the language model.

This is what a LLaVA does with an image after its vision tower: project each patch, and put the
result between the embeddings of the tokens before and after.

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
from daemon.service.settings import IMAGE_TOKEN

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def split_prompt(tokenizer: Any, prompt: str, image_id: int) -> tuple[list[int], list[int]]:
    """Return the tokens before the patches, and those after them.

    The settings check that the prompt has ``<image>`` once.

    Raises
    ------
    UserError
        If the tokenizer does not read ``<image>`` as that one token.
    """
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if ids.count(image_id) != 1:
        raise UserError(
            f"the tokenizer must read {IMAGE_TOKEN} in the prompt as token {image_id} once, "
            f"it does {ids.count(image_id)} times. The tokenizer and the model in the folder "
            "are not of one LLaVA."
        )
    at = ids.index(image_id)
    return ids[:at], ids[at + 1 :]


class PatchPrompt:
    """One prompt, into which patches are put.

    Prompts and projector, which is moved there, are of `device` and `dtype`; None keeps the
    model's.

    Raises
    ------
    UserError
        If the tokenizer does not read ``<image>`` as one token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        import torch

        before, after = split_prompt(tokenizer, prompt, model.config.image_token_id)
        words = model.get_input_embeddings().weight
        device, dtype = device or model.device, dtype or model.dtype
        self._projector = model.model.multi_modal_projector.to(device, dtype)
        with torch.inference_mode():
            self._before, self._after = (
                words[torch.tensor([ids], dtype=torch.long)].to(device, dtype)
                for ids in (before, after)
            )

    def embed(self, grids: NDArray[np.float32]) -> Tensor:
        """Put each grid, (n, n_patches, dim), into the prompt; return (n, n_tokens, width).

        All are of one length, so that a batch needs no padding.
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
