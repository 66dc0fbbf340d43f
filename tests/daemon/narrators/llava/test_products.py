"""Products of matrices in each number format, and the decoder that is made of them."""

from __future__ import annotations

import pytest
import torch

from daemon.narrators.llava import products
from daemon.narrators.llava.decoder import head_format
from daemon.narrators.llava.products import Int8, Packed, Plain, make_product
from tests.daemon.narrators.llava.small_models import (
    PROMPT_LENGTH,
    decoder_of,
    small_model,
    some_grids,
)

MAX_ERROR = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 5e-3, "int8": 2e-2}
"""Length of the difference over length: bfloat16 has 8 bits, int8 nearly as many a row."""


def some_weights(n_out=48, n_in=80):
    """Return weights and biases of usual size."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
    return weight, torch.randn(n_out, generator=generator)


def some_rows(n, n_in=80):
    """Return rows, of which one is large and one is nothing."""
    rows = torch.randn(n, n_in, generator=torch.Generator().manual_seed(9))
    rows[0] *= 40
    rows[-1] = 0
    return rows


@pytest.mark.parametrize("number_format", MAX_ERROR)
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
def test_product_is_near_the_true_one(number_format, has_bias):
    """In every format, with and without a bias, for rows of any size."""
    weight, bias = some_weights()
    product = make_product(weight, bias if has_bias else None, number_format, "cpu")
    rows = some_rows(6)
    dtype = torch.float16 if number_format == "float16" else torch.float32
    found = product(rows.to(dtype)).double()
    true = rows.double() @ weight.double().T + (bias.double() if has_bias else 0)
    assert (found - true).norm() <= MAX_ERROR[number_format] * true.norm()
    assert found[-1] == pytest.approx(bias.tolist() if has_bias else [0.0] * 48, abs=0.01)


@pytest.mark.parametrize("number_format", ["float32", "bfloat16", "int8"])
def test_neighbours_change_nothing(number_format, monkeypatch):
    """A row by itself gives what it gives among others; int8 has a scale for each row."""
    monkeypatch.setattr(products, "PACKED_FROM", 1)
    weight, _ = some_weights()
    product = make_product(weight, None, number_format, "cpu")
    rows = some_rows(5)
    alone = torch.cat([product(row[None]) for row in rows])
    assert torch.allclose(product(rows), alone, rtol=1e-5, atol=1e-5)


def test_each_weight_gets_the_layout_that_pays(monkeypatch):
    """Small float32 weights stay torch's own, large ones are packed; without oneDNN none is."""
    weight, _ = some_weights()
    assert isinstance(make_product(weight, None, "float32", "cpu"), Plain)
    assert isinstance(make_product(weight, None, "bfloat16", "cpu"), Packed)
    assert isinstance(make_product(weight, None, "int8", "cpu"), Int8)
    monkeypatch.setattr(products, "PACKED_FROM", weight.numel())
    assert isinstance(make_product(weight, None, "float32", "cpu"), Packed)
    monkeypatch.setattr(products, "has_packed", lambda: False)
    assert isinstance(make_product(weight, None, "float32", "cpu"), Plain)
    assert isinstance(make_product(weight, None, "bfloat16", "cpu"), Plain)


@pytest.mark.parametrize(
    ("number_format", "device", "expected"),
    [
        ("float32", "cpu", "float32"),
        ("bfloat16", "cpu", "float32"),
        ("int8", "cpu", "int8"),
        ("bfloat16", "cuda", "bfloat16"),
    ],
)
def test_vocabulary_keeps_its_digits(number_format, device, expected):
    """Scores of 8 bits would often be level, and the first word of them be said."""
    assert head_format(number_format, device) == expected


@pytest.mark.parametrize("number_format", ["bfloat16", "int8"])
def test_decoder_is_near_in_every_format(number_format):
    """Prompt and step give scores near to float32's; what comes out is float32."""
    model, grids = small_model("llama, biases"), some_grids(3)
    prompts = torch.stack([torch.from_numpy(grid) for grid in grids])
    scores = []
    for each in ("float32", number_format):
        decoder = decoder_of(model, max_rows=3, number_format=each)
        with torch.inference_mode():
            first = decoder.prefill(prompts, 0)
            second = decoder.step([5, 6, 7], [PROMPT_LENGTH] * 3, 0)
        scores.append(torch.cat((first, second)))
    true, found = scores
    assert found.dtype == torch.float32
    assert (found - true).norm() <= 8 * MAX_ERROR[number_format] * true.norm()
