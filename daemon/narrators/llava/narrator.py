"""A frozen LLaVA that says what the patches show. Lives in the worker, never on the fast loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError, UserError
from contracts.manifest import Manifest
from contracts.narration import Evidence, Provenance, Status, Utterance
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.fit import check_fit
from daemon.narrators.patches import PatchPrompt
from daemon.narrators.protocol import Ended

WARM_UP_TOKENS = 2
"""The first token reads the prompt, the second goes on from the cache: each way once."""


class LlavaNarrator:
    """Narrate with LLaVA, greedily, a batch at a time.

    Parameters
    ----------
    model : str or Path
        A folder, or the id of a model on the Hugging Face hub.
    manifest : Manifest
        Of the bundle that the patches come from; the model must be of the shape it was made for.
    prompt : str
        With ``<image>`` exactly once, as the settings make sure.
    max_new_tokens : int
        A sentence that is longer is cut and marked as truncated.
    dtype : {"auto", "float32", "float16", "bfloat16"}
        ``auto`` is float16 on a GPU, as in the paper, and float32 on a CPU.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``. ``auto`` takes a GPU if there is one.
    revision : str
        Commit of a model on the hub; empty takes the newest.
    threads : int, optional
        Of torch in this process; None leaves torch's choice.

    Raises
    ------
    UserError
        If the model cannot be loaded, or does not fit the bundle or the prompt.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        manifest: Manifest,
        prompt: str,
        max_new_tokens: int,
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        device: str = "auto",
        revision: str = "",
        threads: int | None = None,
    ) -> None:
        _check_folder(str(model))
        import torch

        self._finder = EvidenceFinder.from_bundle(manifest)
        self._grid = manifest.patch_grid
        self._waiting: list[tuple[int, Sequence[PatchEmbedding], int]] = []
        if threads is not None:
            torch.set_num_threads(threads)
        target = _device(device)
        self._model, self._tokenizer = _load(
            str(model), revision or "main", manifest, _dtype(dtype, target)
        )
        self._model.to(target)
        self._prompt = PatchPrompt(self._model, self._tokenizer, prompt)
        self._max_new_tokens = max_new_tokens
        self._end_ids = _end_ids(self._model)
        self._provenance = Provenance(
            bundle=manifest.sha256,
            backend="llava",
            model=str(model),
            prompt=prompt,
            revision=revision,
        )
        self._warm_up()

    @property
    def provenance(self) -> Provenance:
        """What goes into every narration."""
        return self._provenance

    @property
    def n_rows(self) -> int:
        """Rows that wait for their turn; none is under way between two steps."""
        return sum(len(embeddings) for _, embeddings, _ in self._waiting)

    def has_room(self, n: int) -> bool:
        """Return whether nothing waits."""
        return not self._waiting

    def begin(
        self,
        batch_id: int,
        embeddings: Sequence[PatchEmbedding],
        *,
        with_partials: bool = False,
    ) -> None:
        """Take up a window.

        Parameters
        ----------
        batch_id : int
        embeddings : sequence of PatchEmbedding
            Of the bundle's patch grid.
        with_partials : bool

        Raises
        ------
        MisuseError
            If an embedding has another patch grid.
        """
        wrong = [each.grid for each in embeddings if each.grid != self._grid]
        if wrong:
            raise MisuseError(f"patches must be of {self._grid}, got {wrong[0]}")
        self._waiting.append((batch_id, embeddings, time.monotonic_ns()))

    def step(self) -> Sequence[Ended]:
        """Say one sentence about each embedding of a window.

        Returns
        -------
        ended : sequence of Ended
            Tokens are counted with the end token.
        """
        if not self._waiting:
            return []
        batch_id, embeddings, start_host_ns = self._waiting.pop(0)
        patches = np.stack([embedding.patches for embedding in embeddings])
        rows, token_host_ns = self._generate(patches, self._max_new_tokens)
        evidence: Sequence[Evidence | None] = (
            self._finder.nearest(embeddings) if self._finder else [None] * len(embeddings)
        )
        return [
            Ended(batch_id, at, self._utterance(row, found, start_host_ns, token_host_ns))
            for at, (row, found) in enumerate(zip(rows, evidence, strict=True))
        ]

    def cancel(self, batch_id: int) -> None:
        """Drop a window."""
        self._waiting = [one for one in self._waiting if one[0] != batch_id]

    def _warm_up(self) -> None:
        """Narrate an empty grid: the first call finds memory and kernels, and takes long."""
        nothing = np.zeros((1, self._grid.n_patches, self._grid.dim), np.float32)
        self._generate(nothing, min(WARM_UP_TOKENS, self._max_new_tokens))

    def _generate(
        self, patches: NDArray[np.float32], max_new_tokens: int
    ) -> tuple[list[_Row], list[int]]:
        import torch

        stamps = _token_stamps()
        with torch.inference_mode():
            prompts = self._prompt.embed(patches)
            generated = self._model.generate(
                inputs_embeds=prompts,
                attention_mask=torch.ones(
                    prompts.shape[:2], dtype=torch.long, device=prompts.device
                ),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                streamer=stamps,
                output_logits=True,
                return_dict_in_generate=True,
            )
            tokens = generated.sequences
            logprobs = torch.stack(
                [
                    logits.float().log_softmax(dim=-1).gather(1, said[:, None])[:, 0]
                    for logits, said in zip(generated.logits, tokens.T, strict=True)
                ],
                dim=1,
            )
        rows = [
            _cut_at_end(ids, row_logprobs, self._end_ids)
            for ids, row_logprobs in zip(tokens.tolist(), logprobs.tolist(), strict=True)
        ]
        return rows, stamps.host_ns

    def _utterance(
        self, row: _Row, evidence: Evidence | None, start_host_ns: int, token_host_ns: list[int]
    ) -> Utterance:
        n_tokens = len(row.token_ids)
        text = self._tokenizer.decode(row.token_ids, skip_special_tokens=True).strip()
        mean_logprob = math.fsum(row.logprobs) / n_tokens
        status, reason = Status.OK, ""
        if not math.isfinite(mean_logprob):
            text, status = "", Status.FAILED
            reason = "the model's scores are not numbers; use dtype float32 or bfloat16"
        elif not text:
            status, reason = Status.FAILED, "the model ended without a word"
        elif not row.ended:
            status, reason = Status.TRUNCATED, f"cut at {self._max_new_tokens} tokens"
        return Utterance(
            text=text,
            status=status,
            reason=reason,
            mean_logprob=mean_logprob if math.isfinite(mean_logprob) else None,
            n_tokens=n_tokens,
            evidence=evidence,
            start_host_ns=start_host_ns,
            first_token_host_ns=token_host_ns[0],
            last_token_host_ns=token_host_ns[n_tokens - 1],
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """What one window got: up to its end token, without the padding of a longer neighbour."""

    token_ids: list[int]
    logprobs: list[float]
    ended: bool


def _cut_at_end(token_ids: list[int], logprobs: list[float], end_ids: frozenset[int]) -> _Row:
    for step, token_id in enumerate(token_ids):
        if token_id in end_ids:
            return _Row(token_ids[: step + 1], logprobs[: step + 1], ended=True)
    return _Row(token_ids, logprobs, ended=False)


def _token_stamps() -> Any:
    # The base class is in transformers, which is imported only where a model is loaded.
    from transformers.generation.streamers import BaseStreamer

    class TokenStamps(BaseStreamer):  # type: ignore[misc]  # transformers is not followed
        """Host times at which the steps of a batch were known on the host."""

        def __init__(self) -> None:
            self.host_ns: list[int] = []

        def put(self, value: Any) -> None:
            if value.ndim == 1:  # the prompt comes first, with two dimensions
                self.host_ns.append(time.monotonic_ns())

        def end(self) -> None:
            """Nothing is held back."""

    return TokenStamps()


def _device(device: str) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device.startswith("cuda") and not has_cuda:
        raise UserError(
            f"narrator.device is {device!r} and torch {torch.__version__} sees no NVIDIA GPU. "
            "Use cpu or auto."
        )
    return device


def _dtype(dtype: str, device: str) -> Any:
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    return getattr(torch, dtype)


def _end_ids(model: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or [])


def _check_folder(name: str) -> None:
    # The hub would be asked for such a path again and again, for half a minute.
    is_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1
    if is_path and not Path(name).is_dir():
        raise UserError(
            f"the language model must be the folder of a LLaVA or the id of one on the Hugging "
            f"Face hub, and {name!r} is no such folder, seen from {Path.cwd()}. Set narrator.model "
            "to a folder that is there."
        )


def _load(name: str, revision: str, manifest: Manifest, dtype: Any) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer, LlavaForConditionalGeneration

    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        check_fit(name, config, manifest)
        with _no_progress_bar():
            model = LlavaForConditionalGeneration.from_pretrained(
                name, revision=revision, dtype=dtype
            )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the language model must be the folder of a LLaVA or the id of one on the Hugging "
            f"Face hub, and {name!r} cannot be loaded: {error}\nDownload it first, with hf "
            "download, or set narrator.model to a folder that is there."
        ) from error
    # The patches stand in for what it would have seen; its weights need not fill the memory.
    del model.model.vision_tower
    return model.eval(), tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()
