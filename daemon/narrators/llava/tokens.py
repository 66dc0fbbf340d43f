"""From scores to tokens to text: which token comes next, and the whole words so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon.narrators.whole_words import whole_words

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_NOT_FOLLOWED = (
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
"""Rules of a ``generation_config.json`` that change greedy decoding and are not followed here."""


class GreedyChoice:
    """The most likely next token, by the rules that the model's makers gave it.

    Of ``generation_config.json`` it follows what changes greedy decoding: ``eos_token_id``,
    ``min_new_tokens`` and ``repetition_penalty``, as ``generate`` does for a prompt of embeddings:
    the penalty is for tokens of the sentence so far, and not for those of the prompt. Others are
    logged.
    """

    def __init__(self, generation_config: Any, device: str) -> None:
        import torch

        end_ids = generation_config.eos_token_id
        self.end_ids = frozenset([end_ids] if isinstance(end_ids, int) else end_ids or [])
        self._end_columns = torch.tensor(sorted(self.end_ids), dtype=torch.long, device=device)
        self._min_tokens = generation_config.min_new_tokens or 0
        self._penalty = generation_config.repetition_penalty or 1.0
        ignored = [name for name in _NOT_FOLLOWED if getattr(generation_config, name, None)]
        if ignored:
            logger.warning("rules of the model not followed", extra={"rules": ", ".join(ignored)})

    def pick(
        self, scores: Tensor, previous: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[float]]:
        """Choose a token for each row; return the tokens, and their log-probabilities.

        `scores` are (n, n_words), float32; `previous` has the tokens of each row so far. The
        log-probabilities are those before the rules, and NaN where the scores are.
        """
        import torch

        tokens = self._apply_rules(scores, previous).argmax(dim=-1, keepdim=True)
        logprobs = scores.log_softmax(dim=-1).gather(1, tokens)
        # One copy from the device, not two; float64 holds every token id exactly.
        both = torch.cat((tokens.double(), logprobs.double()), dim=1).tolist()
        return [int(token) for token, _ in both], [logprob for _, logprob in both]

    def _apply_rules(self, scores: Tensor, previous: Sequence[Sequence[int]]) -> Tensor:
        import torch

        is_early = [len(tokens) < self._min_tokens for tokens in previous]
        if self._penalty == 1.0 and not any(is_early):
            return scores
        ruled = scores.clone()
        for row, (tokens, early) in enumerate(zip(previous, is_early, strict=True)):
            if self._penalty != 1.0 and tokens:
                columns = torch.tensor(sorted(set(tokens)), device=scores.device)
                used = ruled[row, columns]
                ruled[row, columns] = torch.where(
                    used < 0, used * self._penalty, used / self._penalty
                )
            if early:
                ruled[row, self._end_columns] = float("-inf")
        return ruled


class Transcript:
    """The text of a row, token by token, at a cost that does not grow with its length.

    A tokenizer without a fast backend gives no text before the end.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._text = ""

    def add(self, token: int) -> str:
        """Append a token, and return all whole words so far."""
        if self._backend is not None:
            self._text += self._stream.step(self._backend, token) or ""
        return whole_words(self._text)
