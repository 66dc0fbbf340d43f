"""Random populations: each kind as defined, as often as set, and masked as in serving."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError
from contracts.population import Population, Unit
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.training_set import Scaling
from encoder_training.masking import MaskingOptions, PopulationMasks, masked_z
from encoder_training.model import EncoderNetwork, EncoderSpec

NOTHING = MaskingOptions(0, 0, 0, 0, 0, 0, 1, unit_dropout=0.1)
AREAS = ("LGd", "VISp", "VISl", "CA1")


def population(n_units: int = 80) -> Population:
    """Return units of four areas, some without one, and two cell types."""
    return Population(
        [
            Unit(
                str(k),
                area=AREAS[k % 4] if k % 10 else "",
                cell_type={0: "PV", 1: "SST"}.get(k % 7, ""),
            )
            for k in range(n_units)
        ]
    )


def only(kind: str) -> MaskingOptions:
    """Return options that draw one kind."""
    return replace(NOTHING, **({"nobody": 0} | {kind: 1}))


def drawn(kind: str, n: int = 400) -> np.ndarray:
    """Draw masks of one kind."""
    return PopulationMasks(population(), only(kind)).draw(n, np.random.default_rng(0))


def held(label: str, attribute: str = "area") -> tuple[bool, ...]:
    """Return which units carry a label."""
    return tuple(getattr(unit, attribute) == label for unit in population().units)


def test_one_area_and_one_cell_type_are_those_of_serving():
    """Each mask is that of a selection by that name, and all of them come up."""
    areas = {tuple(mask) for mask in drawn("one_area").tolist()}
    assert areas == {tuple(population().select(name).mask.tolist()) for name in AREAS}
    cell_types = {tuple(mask) for mask in drawn("one_cell_type").tolist()}
    assert cell_types == {held("PV", "cell_type"), held("SST", "cell_type")}


def test_lesions_and_choices_of_areas():
    """All but one area keeps units without an area; several areas are two or three whole ones."""
    lesions = {tuple(mask) for mask in drawn("all_but_one_area").tolist()}
    assert lesions == {tuple(not selected for selected in held(name)) for name in AREAS}
    members = np.array([held(name) for name in AREAS])
    for mask in drawn("several_areas"):
        inside = [bool(mask[area].all()) for area in members]
        assert sum(inside) in {2, 3}
        assert np.array_equal(mask, members[inside].any(axis=0))


def test_everyone_but_for_dropout_and_nobody():
    """A tenth of the units is left out of `everyone`; `nobody` is no one."""
    assert drawn("everyone").mean() == pytest.approx(0.9, abs=0.01)
    assert not drawn("nobody").any()


def test_handfuls_are_log_uniform():
    """From three units to all, as many below the geometric mean as above, each unit alike."""
    masks = drawn("fraction", 4_000)
    sizes = masks.sum(axis=1)
    assert (sizes.min(), sizes.max()) == (3, 80)
    assert np.mean(sizes < np.sqrt(3 * 81)) == pytest.approx(0.5, abs=0.05)
    assert masks.mean(axis=0).std() < 0.02


def test_weights_are_kept():
    """Kinds come up as often as their weights say."""
    options = replace(NOTHING, nobody=3, one_area=1)
    masks = PopulationMasks(population(), options).draw(4_000, np.random.default_rng(0))
    assert masks.any(axis=1).mean() == pytest.approx(0.25, abs=0.03)


def test_draws_repeat():
    """The same generator state draws the same masks."""
    masks = PopulationMasks(population(), MaskingOptions())
    first, again = (masks.draw(64, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (64, 80)


def test_populations_without_labels_draw_what_they_can():
    """Without areas and cell types only everyone, handfuls and nobody are left."""
    bare = Population([Unit(str(k)) for k in range(40)])
    masks = PopulationMasks(bare, MaskingOptions()).draw(500, np.random.default_rng(0))
    assert masks.any(axis=1).mean() > 0.85
    with pytest.raises(MisuseError, match="no population can be drawn"):
        PopulationMasks(bare, only("one_area"))


def test_impossible_weights_are_refused():
    """Weights below 0, all at 0, or a dropout of everyone are our own mistake."""
    zeros = dict.fromkeys([field.name for field in fields(MaskingOptions)], 0.0)
    for changes in ({"one_area": -1}, zeros, {"unit_dropout": 1}):
        with pytest.raises(MisuseError, match="weights"):
            replace(MaskingOptions(), **changes)


class ZScores(EncoderNetwork):
    """Gives back what an encoder is given."""

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the z-scores, shape (n, n_bins, n_units)."""
        del mask
        return z


def test_masks_match_serving_bit_for_bit():
    """The network is trained on the very numbers that the exported graph gives it."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 2, 80).astype(np.float32)
    std = rng.uniform(0.05, 2, 80).astype(np.float32)
    counts = torch.from_numpy(rng.poisson(1.5, (50, 20, 80)).astype(np.uint8))
    mask = PopulationMasks(population(), MaskingOptions()).draw(50, rng)
    served = CountEncoder(ZScores(EncoderSpec.tiny(80, PatchGrid(1, 1, 1))), Scaling(mean, std))
    selected = torch.from_numpy(mask).float()
    expected = served(counts.float(), selected)
    found = masked_z(counts.float(), torch.from_numpy(mean), torch.from_numpy(std), selected)
    assert torch.equal(found, expected)
    assert torch.all(found[~torch.from_numpy(mask)[:, None].expand(-1, 20, -1)] == 0)
