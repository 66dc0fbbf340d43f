"""From tokens to text: which token comes next, and what has been said in whole words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon.narrators.words import whole_words

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_UNREAD = (
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "min_length",
    "stop_strings",
    "exponential_decay_length_penalty",
)
"""Rules of a ``generation_config.json`` that change greedy words and are not followed here."""


class Choice:
    """The most likely next token, by the rules that the model's makers gave it.

    Of ``generation_config.json`` it follows what changes greedy words: ``eos_token_id``,
    ``min_new_tokens`` and ``repetition_penalty``, as ``generate`` does for a prompt of embeddings:
    the penalty is for words that the row has said, and not for those of the prompt. Others are
    logged.

    Parameters
    ----------
    generation_config : GenerationConfig
    device : str
    """

    def __init__(self, generation_config: Any, device: str) -> None:
        import torch

        found = generation_config.eos_token_id
        self.end_ids = frozenset([found] if isinstance(found, int) else found or [])
        self._end_columns = torch.tensor(sorted(self.end_ids), dtype=torch.long, device=device)
        self._min_tokens = generation_config.min_new_tokens or 0
        self._penalty = generation_config.repetition_penalty or 1.0
        unread = [name for name in _UNREAD if getattr(generation_config, name, None)]
        if unread:
            logger.warning("rules of the model not followed", extra={"rules": ", ".join(unread)})

    def pick(self, scores: Tensor, said: Sequence[Sequence[int]]) -> tuple[list[int], list[float]]:
        """Choose a token for each row.

        Parameters
        ----------
        scores : tensor, shape (n, n_words), float32
        said : sequence of sequence of int
            What each row has said before.

        Returns
        -------
        tokens : list of int
        logprobs : list of float
            Before the rules; not a number if the scores are none.
        """
        import torch

        tokens = self._ruled(scores, said).argmax(dim=-1, keepdim=True)
        logprobs = scores.log_softmax(dim=-1).gather(1, tokens)
        # One copy from the device; float64 holds every token's number.
        both = torch.cat((tokens.double(), logprobs.double()), dim=1).tolist()
        return [int(token) for token, _ in both], [logprob for _, logprob in both]

    def _ruled(self, scores: Tensor, said: Sequence[Sequence[int]]) -> Tensor:
        import torch

        is_early = [len(tokens) < self._min_tokens for tokens in said]
        if self._penalty == 1.0 and not any(is_early):
            return scores
        ruled = scores.clone()
        for row, (tokens, early) in enumerate(zip(said, is_early, strict=True)):
            if self._penalty != 1.0 and tokens:
                columns = torch.tensor(sorted(set(tokens)), device=scores.device)
                seen = ruled[row, columns]
                ruled[row, columns] = torch.where(
                    seen < 0, seen * self._penalty, seen / self._penalty
                )
            if early:
                ruled[row, self._end_columns] = float("-inf")
        return ruled


class Transcript:
    """What a row has said, token by token, at a cost that does not grow with its length.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizer
        One without a fast backend gives no text before the end.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._text = ""

    def add(self, token: int) -> str:
        """Take one more token, and return all whole words so far."""
        if self._backend is not None:
            self._text += self._stream.step(self._backend, token) or ""
        return whole_words(self._text)
