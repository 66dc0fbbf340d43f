"""Captions made by a model that reads pictures, into a file that is gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contracts.errors import MisuseError, UserError
from encoder_training.data_set.prepared import FrameTable
from encoder_training.devices import resolve_device
from encoder_training.frames.captions import read_captions
from encoder_training.frames.hub import check_folder, first_line, model_name, quiet
from encoder_training.frames.movies import Movie, read_frames

QUESTION = "Describe this scene in one sentence."
LLAVA_PROMPT = f"USER: <image>\n{QUESTION}\nASSISTANT:"
"""The prompt of NEURRATOR (arXiv 2606.18667), which the daemon gives as well."""

MAX_NEW_TOKENS = 60
"""A sentence takes about 20; the daemon's setting."""

FRAMES_AT_ONCE = 8


class Describer(Protocol):
    """What captions frames: a `Captioner`, or something small in tests."""

    name: str

    def describe(self, frames: NDArray[np.uint8]) -> list[str]:
        """Return one caption for each frame."""
        ...


def load_processor(model: str, *, revision: str = "") -> Any:
    """Load what prepares a captioner's pictures; asked early, it says whether there is a model.

    Parameters
    ----------
    model : str
        Folder of the model, or its id on the Hugging Face hub.
    revision : str
        Commit of a model on the hub; empty takes the newest.

    Returns
    -------
    processor
        Of transformers.

    Raises
    ------
    UserError
        If it cannot be loaded.
    """
    check_folder(model)
    from transformers import AutoProcessor

    with _loading(model):
        # By name: without torchvision the default warns that it takes this one.
        return AutoProcessor.from_pretrained(model, backend="pil", revision=revision or "main")


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """Turn what libraries raise over a model into a sentence.

    Raises
    ------
    UserError
        That sentence.
    """
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(
            "the captioner must be a model of transformers that turns pictures into text, in a "
            f"folder or on the Hugging Face hub, and {model!r} cannot be loaded as one: "
            f"{first_line(error)} Give for instance Salesforce/blip-image-captioning-base, or the "
            "folder of a LLaVA."
        ) from error


class Captioner:
    """A model of transformers that turns a picture into text: a BLIP, a BLIP-2, a LLaVA.

    A LLaVA is given the paper's prompt, another model that converses the same question in its own
    form, and a model that only captions nothing but the picture.

    Parameters
    ----------
    model : str
        Folder of the model, or its id on the Hugging Face hub.
    device : str
        ``auto``, ``cpu``, in float32, or ``cuda``, in float16.
    revision : str
        Commit of a model on the hub; empty takes the newest.

    Attributes
    ----------
    name : str
        Id or folder name of the model and its commit, if known.

    Raises
    ------
    UserError
        If it is no such model, or cannot be loaded.
    """

    def __init__(self, model: str, *, device: str = "cpu", revision: str = "") -> None:
        device = resolve_device(device)
        import torch
        from transformers import AutoModelForImageTextToText

        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        self._processor = load_processor(model, revision=revision)
        with _loading(model):
            loaded = AutoModelForImageTextToText.from_pretrained(
                model, dtype=dtype, revision=revision or "main"
            )
        self._model = loaded.to(device).eval()
        self._device, self._dtype = device, dtype
        self._prompt = _prompt(loaded.config.model_type, self._processor)
        model_id, commit = model_name(model, loaded.config)
        self.name = f"{model_id}@{revision or commit}".removesuffix("@")

    def describe(self, frames: NDArray[np.uint8]) -> list[str]:
        """Say what frames show, greedily, as one batch.

        Parameters
        ----------
        frames : array, shape (n, height, width[, 3]), uint8

        Returns
        -------
        captions : list of str
            May be empty where the model has nothing to say.
        """
        import torch
        from PIL import Image

        pictures = [Image.fromarray(frame).convert("RGB") for frame in frames]
        words = {"text": [self._prompt] * len(pictures)} if self._prompt else {}
        given = self._processor(images=pictures, return_tensors="pt", **words)
        given = given.to(self._device, self._dtype)  # integers stay what they are
        with torch.inference_mode():
            said = self._model.generate(
                **given, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS
            )
        prompt = given.get("input_ids")
        if prompt is not None and torch.equal(said[:, : prompt.shape[1]], prompt):
            said = said[:, prompt.shape[1] :]
        texts = self._processor.batch_decode(said, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def fill_captions(
    path: Path,
    frames: FrameTable,
    movies: Mapping[str, Movie],
    captioner: Describer,
    *,
    every: int = 1,
    batch_size: int = FRAMES_AT_ONCE,
) -> None:
    """Caption frames and append the lines to a file, from where an earlier call was cut off.

    `match_captions` with ``nearest=True`` gives the frames between their nearest neighbour's.

    Parameters
    ----------
    path : Path
        Lines of JSON with ``movie``, ``number``, ``caption`` and ``by``, the captioner's name.
    frames : FrameTable
        The frames; captions that it may have are not used.
    movies : mapping of str to Movie
        By the names in `frames`.
    captioner : Describer
        A `Captioner`.
    every : int
        Of the frames of each movie, the first and each `every`-th after it are captioned. Use 1
        for stimuli whose frames are pictures of their own, such as natural scenes.
    batch_size : int
        Pictures at once.

    Raises
    ------
    UserError
        If the file holds captions by another model, or cannot be written.
    MisuseError
        If `every` is not 1 or more.
    """
    if every < 1:
        raise MisuseError(f"every must be 1 or more, got {every}")
    done = _done(path, captioner.name)
    rows = _chosen(frames, every)
    left = [row for row in rows if _key(frames, row) not in done]
    bar = tqdm(
        total=len(rows),
        initial=len(rows) - len(left),
        desc="captions",
        unit="frame",
        disable=None,
        file=sys.stderr,
    )
    try:
        with bar, path.open("a", encoding="utf-8") as file:
            for batch in _batches(frames, left, batch_size):
                name = frames.movies[frames.movie[batch[0]]]
                numbers = frames.number[batch]
                said = captioner.describe(read_frames(movies[name], numbers))
                for number, text in zip(numbers.tolist(), said, strict=True):
                    line = {"movie": name, "number": number, "caption": text, "by": captioner.name}
                    file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
                bar.update(len(batch))
    except OSError as error:
        raise UserError(
            f"the captions cannot be written to {path}: {error.strerror}. Make room, or choose "
            "another folder."
        ) from error


def _chosen(frames: FrameTable, every: int) -> list[int]:
    # Movie by movie, in the order of their numbers.
    rows: list[int] = []
    for index in range(len(frames.movies)):
        of_movie = np.flatnonzero(frames.movie == index)
        rows += of_movie[np.argsort(frames.number[of_movie], kind="stable")][::every].tolist()
    return rows


def _batches(frames: FrameTable, rows: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    # Of one movie each, so of one size.
    if not rows:
        return []
    order = np.array(rows, dtype=np.int64)
    edges = [0, *(np.flatnonzero(np.diff(frames.movie[order])) + 1).tolist(), len(order)]
    return [
        order[first : min(first + batch_size, stop)]
        for start, stop in pairwise(edges)
        for first in range(start, stop, batch_size)
    ]


def _key(frames: FrameTable, row: int) -> tuple[str, int]:
    return frames.movies[frames.movie[row]], int(frames.number[row])


def _done(path: Path, name: str) -> set[tuple[str, int]]:
    # Whole lines that this captioner wrote before. A line cut short by a kill is cut off.
    if not path.exists() or not path.stat().st_size:
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    if not whole:
        return set()
    by = {json.loads(line).get("by", "a person") for line in whole.splitlines() if line.strip()}
    if by - {name}:
        raise UserError(
            f"{path} has captions by {', '.join(sorted(by - {name}))}, and those of {name} would "
            "stand among them. Use the same captioner as then, or remove the file."
        )
    return {(each.movie, each.number) for each in read_captions(path)}


def _prompt(model_type: str, processor: Any) -> str:
    """Return what stands beside the picture; empty for a model that captions without words."""
    if model_type == "llava":
        return LLAVA_PROMPT
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        prompt: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return prompt
    return ""
