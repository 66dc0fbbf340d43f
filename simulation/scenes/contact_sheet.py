"""Scenes as pictures: on a page with their captions, for people, or each as a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simulation.captions import caption
from simulation.scenes.render import render
from simulation.scenes.scene import HEIGHT, SCENE_FRAMES, WIDTH, Scene

COLUMNS = 4
TILE_WIDTH = 380
"""Pixels; a frame is shrunk to this."""

LINE = 15
MARGIN = 8
CHARS = 58
"""Of a line of caption under a tile."""


def contact_sheet(scenes: Sequence[Scene], picture: Path) -> None:
    """Draw the middle frame of each scene, four in a row, and write the page as PNG."""
    tile_height = TILE_WIDTH * HEIGHT // WIDTH
    step_x, step_y = TILE_WIDTH + MARGIN, tile_height + 2 * LINE + MARGIN
    rows = -(-len(scenes) // COLUMNS)
    page = Image.new("L", (COLUMNS * step_x + MARGIN, rows * step_y + MARGIN), 255)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=12)
    for number, scene in enumerate(scenes):
        x = MARGIN + number % COLUMNS * step_x
        y = MARGIN + number // COLUMNS * step_y
        page.paste(_tile(_middle(scene)), (x, y))
        for line, text in enumerate(_lines(caption(scene.facts, scene.seed))):
            pen.text((x, y + tile_height + 2 + LINE * line), text, fill=0, font=font)
    page.save(picture, optimize=True)


def write_images(scenes: Iterable[Scene], folder: Path) -> None:
    """Write the middle frame of each scene into a folder: ``scene_0.png``, ``scene_1.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(_middle(scene)).save(folder / f"scene_{number}.png")


def _middle(scene: Scene) -> NDArray[np.uint8]:
    frame: NDArray[np.uint8] = render(scene, SCENE_FRAMES // 2, SCENE_FRAMES // 2 + 1)[0]
    return frame


def _tile(frame: NDArray[np.uint8]) -> Image.Image:
    size = (TILE_WIDTH, TILE_WIDTH * HEIGHT // WIDTH)
    return Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)


def _lines(text: str) -> list[str]:
    """Break a sentence into lines that fit under a tile."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > CHARS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:2]
