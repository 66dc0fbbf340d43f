"""Sizes of the tiny LLaVA that sees. What is not written here is as in LLaVA-1.5."""

from contracts.embedding import PatchGrid

SIDE = 128
"""Side of the picture, pixels; the frame of 304 x 608 is squashed, so that nothing is cut off."""

PATCHES = 8
"""Patches along a side: each covers 38 x 76 pixels of the frame, a head or a wheel."""

VISION_WIDTH = 96
VISION_LAYERS = 5
"""LLaVA-1.5 reads the layer before the last (``vision_feature_layer`` -2): four that work, and
one that nothing reads and that is left as it was drawn."""

SEEING_GRID = PatchGrid(rows=PATCHES, cols=PATCHES, dim=VISION_WIDTH)
