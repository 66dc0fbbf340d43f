"""The same frames narrated in three ways, for `bench_narrator`.

"plain" is how the model's authors call it, as does the public code of the method: one frame at a
time through processor, vision tower and ``generate``. "generate, batched" calls ``generate`` with
the patches of all frames at once, which is what the daemon has. "ours" is the daemon's whole
narrator, with time stamps and text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch  # noqa: TID253 - a contender
from numpy.typing import NDArray
from PIL import Image

from benchmarks.narrator_models import SHIPPED, SHIPPED_GRID, shipped_manifest
from benchmarks.record import stop
from contracts.embedding import PatchEmbedding
from contracts.window import Window
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.patches import PatchPrompt
from daemon.narrators.protocol import EndedRow
from daemon.service.settings import PAPER_PROMPT
from simulation.scenes.render import render
from simulation.scenes.scene import random_scene

MAX_NEW_TOKENS = 60
FIRST_SCENE = 50_000

TimedTexts = tuple[list[str], list[int]]
"""Texts, and the nanoseconds from the start of the window to the end of each."""


class CpuContenders:
    """The shipped tiny LLaVA in float32, called in three ways.

    `contenders` maps a name to a callable of the turn and the number of populations.
    """

    def __init__(self, threads: int) -> None:
        from transformers import LlavaForConditionalGeneration

        from encoder_training.frames.captioner import load_processor

        self._processor = load_processor(str(SHIPPED))
        self._model = LlavaForConditionalGeneration.from_pretrained(
            SHIPPED, dtype=torch.float32
        ).eval()
        manifest = shipped_manifest()
        self._narrator = LlavaNarrator(
            SHIPPED,
            manifest=manifest,
            prompt=PAPER_PROMPT,
            max_new_tokens=MAX_NEW_TOKENS,
            dtype="float32",
            device="cpu",
            threads=threads,
        )
        spec = manifest.window_spec
        self._window = Window(spec, 0, np.zeros((spec.n_bins, 1), np.uint16))
        self._prompt = PatchPrompt(self._model, self._processor.tokenizer, PAPER_PROMPT)
        self._turn = (-1, 0)
        self._pictures: list[Image.Image] = []
        self._patches: NDArray[np.float32] = np.empty(0, np.float32)
        self.contenders: dict[str, Callable[[int, int], TimedTexts]] = {
            "plain": self._plain,
            "generate, batched": self._batched,
            "ours": self._ours,
        }

    def agree(self, texts_by: Mapping[str, Sequence[str]]) -> None:
        """Stop the benchmark if the contenders' texts differ."""
        plain = texts_by["plain"]
        for name, texts in texts_by.items():
            n_other = sum(one != two for one, two in zip(texts, plain, strict=True))
            if n_other * 8 > len(texts):  # one in eight: two tokens may be nearly equally likely
                stop(f"{name} differs from plain for {n_other} of {len(texts)} frames")

    def _plain(self, turn: int, n: int) -> TimedTexts:
        self._set_turn(turn, n)
        texts, took = [], []
        started_ns = time.perf_counter_ns()
        for picture in self._pictures:
            inputs = self._processor(images=picture, text=PAPER_PROMPT, return_tensors="pt")
            tokens = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            new = tokens[0, inputs["input_ids"].shape[1] :]
            texts.append(self._processor.decode(new, skip_special_tokens=True).strip())
            took.append(time.perf_counter_ns() - started_ns)
        return texts, took

    def _batched(self, turn: int, n: int) -> TimedTexts:
        self._set_turn(turn, n)
        started_ns = time.perf_counter_ns()
        prompts = self._prompt.embed(self._patches)
        tokens = self._model.generate(
            inputs_embeds=prompts,
            attention_mask=torch.ones(prompts.shape[:2], dtype=torch.long),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        decoded = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in decoded], [time.perf_counter_ns() - started_ns] * n

    def _ours(self, turn: int, n: int) -> TimedTexts:
        self._set_turn(turn, n)
        embeddings = [
            PatchEmbedding(self._window, str(index), 1, SHIPPED_GRID, patches)
            for index, patches in enumerate(self._patches)
        ]
        texts, took = [""] * n, list[int]()
        started_ns = time.perf_counter_ns()
        self._narrator.begin(0, embeddings)
        while len(took) < n:
            for event in self._narrator.step():
                if isinstance(event, EndedRow):
                    texts[event.row] = event.utterance.text
                    took.append(time.perf_counter_ns() - started_ns)
        return texts, took

    def _set_turn(self, turn: int, n: int) -> None:
        """Render the turn's frames and compute their patch embeddings, once a turn."""
        if self._turn == (turn, n):
            return
        self._turn = (turn, n)
        scenes = [random_scene(FIRST_SCENE + 100 * turn + index) for index in range(n)]
        frames = [render(scene, 15, 16)[0] for scene in scenes]
        self._pictures = [Image.fromarray(frame).convert("RGB") for frame in frames]
        inputs = self._processor(
            images=self._pictures, text=[PAPER_PROMPT] * n, return_tensors="pt"
        )
        tower = self._model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        self._patches = tower.hidden_states[-2][:, 1:].numpy()
