"""Patch embeddings have the shape that the language model expects."""

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.errors import MisuseError
from contracts.window import Window, WindowSpec

WINDOW = Window(WindowSpec(BinRate(120), 2, 1), 0, np.zeros((2, 3), np.uint16))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_a_grid_without_patches_is_refused(shape):
    """Rows, columns and numbers are one or more."""
    with pytest.raises(MisuseError, match="rows, cols and dim of 1 or more"):
        PatchGrid(*shape)


def test_llava_has_576_patches():
    """LLaVA-1.5's grid."""
    assert PatchGrid(24, 24, 1024).n_patches == 576


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4), (6,), (4, 6)])
def test_patches_of_another_shape_are_refused(shape):
    """The error names the shape that was expected and the one that came."""
    with pytest.raises(MisuseError) as caught:
        PatchEmbedding(WINDOW, "all", 3, PatchGrid(2, 3, 4), np.zeros(shape, np.float32))
    assert str(caught.value) == f"patches must have shape (6, 4), got {shape}"


def test_patches_that_fit_are_taken():
    """A row for each patch, row-major over the grid."""
    patches = np.zeros((6, 4), np.float32)
    assert PatchEmbedding(WINDOW, "all", 3, PatchGrid(2, 3, 4), patches).patches is patches
