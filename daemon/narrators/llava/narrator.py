"""A frozen LLaVA that describes patches. Runs in the worker process, never on the fast loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError
from contracts.manifest import Manifest
from contracts.narration import Provenance, Status, Utterance
from daemon.narrators.devices import torch_device, weights_dtype
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.llava.loading import ModelSource, load_config, load_weights
from daemon.narrators.llava.memory import explain_out_of_memory
from daemon.narrators.llava.shape import read_shape
from daemon.narrators.patches import PatchPrompt, split_prompt
from daemon.narrators.protocol import WARM_UP_TOKENS, EndedRow, PartialRow
from daemon.narrators.whole_words import whole_words

if TYPE_CHECKING:
    import torch

    from daemon.narrators.llava.engine import DecodingRow, Engine
    from daemon.narrators.llava.tokens import Transcript


class LlavaNarrator:
    """Narrate with LLaVA, by greedy decoding of all rows together.

    Parameters
    ----------
    max_new_tokens : int
        A longer sentence is cut and marked as truncated.
    dtype : {"auto", "float32", "float16", "bfloat16"}
        Of the weights; ``auto`` is bfloat16 on a GPU and float32 on a CPU, which takes no other.
    revision : str
        Commit of a model on the hub; empty takes the newest.
    threads : int, optional
        Of torch in this process; None leaves torch's choice.
    deadline_s : float, optional
        Seconds from `begin` after which a sentence is cut at a word; None cuts none.
    joins : bool
        Whether a window may begin while another is being narrated.

    Raises
    ------
    UserError
        If the model cannot be loaded, does not fit the bundle, the prompt or the device's memory,
        or has an architecture that the decoder does not support.
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
        deadline_s: float | None = None,
        max_rows: int = 16,
        joins: bool = False,
    ) -> None:
        source = ModelSource(str(model), revision or "main")
        import torch

        self._finder = EvidenceFinder.from_bundle(manifest)
        self._grid = manifest.patch_grid
        self._max_new_tokens = max_new_tokens
        self._deadline_s = deadline_s
        self._joins = joins
        self._rows: dict[DecodingRow, tuple[PatchEmbedding, Transcript | None]] = {}
        if threads is not None:
            torch.set_num_threads(threads)
        config, self._tokenizer = load_config(source, manifest)
        device = torch_device(device)
        weights = weights_dtype(dtype, device)
        with explain_out_of_memory(str(model), device=device, max_rows=max_rows):
            self._engine = self._load(source, config, prompt, weights, device, max_rows)
            self._warm_up()
        self.provenance = Provenance(
            bundle=manifest.sha256,
            backend="llava",
            model=str(model),
            prompt=prompt,
            revision=revision,
        )

    @property
    def n_rows(self) -> int:
        """Rows that are active or waiting."""
        return self._engine.n_rows

    def has_room(self, n: int) -> bool:
        """Return whether the narrator is idle, or n rows may join those that are active."""
        return self._engine.n_rows == 0 or (self._joins and self._engine.n_free >= n)

    def begin(
        self,
        batch_id: int,
        embeddings: Sequence[PatchEmbedding],
        *,
        with_partials: bool = False,
    ) -> None:
        """Begin a window; its rows join those that are active.

        Raises
        ------
        MisuseError
            If an embedding has another patch grid.
        """
        from daemon.narrators.llava.tokens import Transcript

        wrong = [e.grid for e in embeddings if e.grid != self._grid]
        if wrong:
            raise MisuseError(f"patches must be of {self._grid}, got {wrong[0]}")
        rows = self._engine.begin(batch_id, [embedding.patches for embedding in embeddings])
        self._rows |= {
            row: (embedding, Transcript(self._tokenizer) if with_partials else None)
            for row, embedding in zip(rows, embeddings, strict=True)
        }

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """Read prompts of waiting rows, or add one token to every active row.

        The numbers of tokens that it returns include the end token.
        """
        events: list[PartialRow | EndedRow] = []
        for row in self._engine.step():
            embedding, transcript = self._rows[row]
            if row.end:
                del self._rows[row]
                utterance = self._utterance(row, embedding)
                events.append(EndedRow(row.batch_id, row.index, utterance))
            elif transcript and (text := transcript.add(row.tokens[-1])):
                events.append(PartialRow(row.batch_id, row.index, text, len(row.tokens)))
        return events

    def cancel(self, batch_id: int) -> None:
        """Drop a window's rows."""
        self._engine.cancel(batch_id)
        self._rows = {row: state for row, state in self._rows.items() if row.batch_id != batch_id}

    def close(self) -> None:
        """Drop every window."""
        for batch_id in {row.batch_id for row in self._rows}:
            self.cancel(batch_id)

    def _load(
        self,
        source: ModelSource,
        config: Any,
        prompt: str,
        dtype: torch.dtype,
        device: str,
        max_rows: int,
    ) -> Engine:
        import torch

        from daemon.narrators.llava.decoder import LlamaDecoder
        from daemon.narrators.llava.engine import Decoder, Engine
        from daemon.narrators.llava.fixed_sizes import FixedSizes
        from daemon.narrators.llava.onnx_decoder import OnnxDecoder, takes
        from daemon.narrators.llava.tokens import GreedyChoice

        n_text = sum(map(len, split_prompt(self._tokenizer, prompt, config.image_token_id)))
        prompt_length = n_text + self._grid.n_patches
        n_positions = prompt_length + self._max_new_tokens
        shape = read_shape(config.text_config, n_positions=n_positions)
        model = load_weights(source, config)
        embed = PatchPrompt(model, self._tokenizer, prompt, device=device, dtype=dtype).embed
        parts = model.model.language_model, model.lm_head, shape
        decoder: Decoder
        if device == "cpu" and takes(shape):
            decoder = OnnxDecoder(
                *parts,
                max_rows=max_rows,
                n_positions=n_positions,
                threads=torch.get_num_threads(),
            )
        else:
            plain = LlamaDecoder(
                *parts,
                dtype=dtype,
                device=device,
                max_rows=max_rows,
                n_positions=_rounded_up(n_positions),
            )
            decoder = plain if device == "cpu" else FixedSizes(plain)
        return Engine(
            decoder,
            embed,
            GreedyChoice(model.generation_config, device),
            prompt_length=prompt_length,
            max_new_tokens=self._max_new_tokens,
            deadline_s=self._deadline_s,
        )

    def _warm_up(self) -> None:
        # Narrate an empty grid: the first calls allocate memory and choose kernels, and take long.
        import torch

        from daemon.narrators.llava.engine import EndReason

        grid = np.zeros((self._grid.n_patches, self._grid.dim), np.float32)
        (row,) = self._engine.begin(-1, [grid])
        for _ in range(min(WARM_UP_TOKENS, self._max_new_tokens)):
            self._engine.step()
        if row.end == EndReason.NO_MEMORY:
            raise torch.OutOfMemoryError
        self._engine.cancel(-1)

    def _utterance(self, row: DecodingRow, embedding: PatchEmbedding) -> Utterance:
        from daemon.narrators.llava.engine import EndReason

        text = self._tokenizer.decode(row.tokens, skip_special_tokens=True).strip()
        status, reason = Status.OK, ""
        match row.end:
            case EndReason.NO_NUMBERS:
                text = ""
                reason = "the model's scores are not numbers; use dtype float32 or bfloat16"
            case EndReason.NO_MEMORY:
                text = ""
                reason = "the memory of the device does not hold one sentence; use a smaller model"
            case EndReason.AT_DEADLINE:
                text = whole_words(text)
                reason = f"cut at the deadline of {self._deadline_s:g} s"
            case EndReason.AT_LIMIT:
                reason = f"cut at {self._max_new_tokens} tokens"
        if not text:
            status, reason = Status.FAILED, reason or "the model ended without a word"
        elif reason:
            status = Status.TRUNCATED
        logprobs = [logprob for logprob in row.logprobs if math.isfinite(logprob)]
        has_score = bool(logprobs) and len(logprobs) == len(row.logprobs)
        return Utterance(
            text=text,
            status=status,
            reason=reason,
            mean_logprob=math.fsum(logprobs) / len(logprobs) if has_score else None,
            n_tokens=len(row.tokens),
            evidence=self._finder.nearest([embedding])[0] if self._finder else None,
            start_host_ns=row.start_host_ns,
            first_token_host_ns=row.first_token_host_ns,
            last_token_host_ns=row.last_token_host_ns,
        )


def _rounded_up(n_positions: int) -> int:
    """Return a length for which attention on a GPU needs no padding of its mask."""
    return -(-n_positions // 8) * 8
