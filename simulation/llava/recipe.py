"""The whole recipe: pictures, vision tower, language model; weights and log in one folder.

A part that is done is kept in the folder ``work`` beside the model and is not done again, so that
a training that was interrupted resumes where it stopped.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contracts.errors import UserError
from simulation.seeds import LLAVA_TRAINING, LLAVA_VALIDATION

log = logging.getLogger(__name__)

TOWER_LOG = "tower.csv"
LANGUAGE_LOG = "language.csv"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the weights depend on."""

    scenes: int = 16_000
    frames_per_scene: int = 2
    validation_scenes: int = 500
    tower_steps: int = 2_400  # batches of 128 pictures
    language_steps: int = 2_000  # batches of 64 pictures
    seed: int = 0


def train_llava(out: Path, recipe: Recipe) -> None:
    """Train a tiny LLaVA and write its folder; ``out/work`` holds what is done until the end.

    Raises
    ------
    UserError
        If the folder holds a model, or work of another recipe.
    """
    import torch

    from simulation.llava.language import features_of, train_language
    from simulation.llava.model import new_model, new_tokenizer, save
    from simulation.llava.pictures import draw_pictures
    from simulation.llava.schedule import StepBudget
    from simulation.llava.tower import train_tower

    work = _work_folder(out, recipe)
    tokenizer = new_tokenizer()
    model = new_model(tokenizer, seed=recipe.seed)
    training = draw_pictures(
        LLAVA_TRAINING, recipe.scenes, frames_per_scene=recipe.frames_per_scene
    )
    validation = draw_pictures(LLAVA_VALIDATION, recipe.validation_scenes)
    tower, weights = model.model.vision_tower, work / "tower.safetensors"
    if not weights.is_file():
        rows: list[Any] = []
        train_tower(
            tower,
            training,
            validation,
            StepBudget(recipe.tower_steps),
            seed=recipe.seed,
            on_row=lambda row: _note(rows, row, work / TOWER_LOG),
        )
        _save_tensors(tower.state_dict(), weights)
    _load_tensors(tower, weights)
    # What the daemon loads is in float16: the language model learns from those very patches.
    tower.to(torch.float16).float()
    rows = []
    train_language(
        model,
        tokenizer,
        (features_of(tower, training), training.facts),
        (features_of(tower, validation), validation.facts),
        StepBudget(recipe.language_steps),
        seed=recipe.seed,
        on_row=lambda row: _note(rows, row, work / LANGUAGE_LOG),
    )
    save(out, model, tokenizer)
    for name in (TOWER_LOG, LANGUAGE_LOG, "recipe.json"):
        (work / name).replace(out / name)
    shutil.rmtree(work)


def plot_curves(folder: Path, picture: Path) -> None:
    """Draw the log that `train_llava` wrote, as PNG or SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    parts = (
        ("vision tower", TOWER_LOG, ("subject", "count", "heading", "distance", "light")),
        ("language", LANGUAGE_LOG, ("kinds", "all_facts")),
    )
    for axis, (title, name, columns) in zip(axes, parts, strict=True):
        rows = _read(folder / name)
        for column in columns:
            axis.plot([row["step"] for row in rows], [row[column] for row in rows], label=column)
        axis.set(title=title, xlabel="step", ylabel="share right, unseen scenes", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _work_folder(out: Path, recipe: Recipe) -> Path:
    if (out / "model.safetensors").exists():
        raise UserError(f"{out} holds a model already. Choose a new folder.")
    work = out / "work"
    noted = work / "recipe.json"
    text = json.dumps(asdict(recipe), indent=2) + "\n"
    if noted.is_file() and noted.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{work} holds the work of another recipe: {noted.read_text(encoding='utf-8')}. "
            "Choose another folder, or remove that one to begin anew."
        )
    work.mkdir(parents=True, exist_ok=True)
    noted.write_text(text, encoding="utf-8")
    return work


def _note(rows: list[Any], row: Any, path: Path) -> None:
    rows.append(row)
    values = asdict(row)
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    _write(path, [asdict(row) for row in rows])


def _write(path: Path, rows: Sequence[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


def _read(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _save_tensors(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


def _load_tensors(module: Any, path: Path) -> None:
    from safetensors.torch import load_file

    module.load_state_dict(load_file(path))
