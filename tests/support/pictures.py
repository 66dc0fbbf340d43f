"""Reports without their pictures: drawing them takes half the time of a small training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def no_drawing() -> Iterator[None]:
    """Let matplotlib save empty files."""

    def touch(_figure: Any, path: Path, **_options: Any) -> None:
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", touch)
        yield
