"""Linear layers on a CPU: torch's own, and oneDNN's with packed weights."""

from __future__ import annotations

import pytest
import torch

from daemon.narrators.llava import linear
from daemon.narrators.llava.linear import Packed, make_linear


@pytest.fixture(params=["plain", "packed"])
def layout(request, monkeypatch):
    """Make even a small weight packed, or none."""
    monkeypatch.setattr(linear, "PACKED_FROM", 1 if request.param == "packed" else 1 << 62)
    return request.param


def some_weights(n_out=48, n_in=80):
    """Return weights and biases of usual size."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
    return weight, torch.randn(n_out, generator=generator)


def some_rows(n, n_in=80):
    """Return rows, of which one is large and one is all zeros."""
    rows = torch.randn(n, n_in, generator=torch.Generator().manual_seed(9))
    rows[0] *= 40
    rows[-1] = 0
    return rows


def make(weight, bias):
    return make_linear(weight, bias, torch.float32, "cpu")


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.usefixtures("layout")
def test_product_is_near_the_true_one(has_bias):
    """In both layouts, with and without a bias, for rows of any size."""
    weight, bias = some_weights()
    rows = some_rows(6)
    product = make(weight, bias if has_bias else None)(rows).double()
    true = rows.double() @ weight.double().T + (bias.double() if has_bias else 0)
    assert (product - true).norm() <= 1e-6 * true.norm()
    assert product[-1] == pytest.approx(bias.tolist() if has_bias else [0.0] * 48, abs=0.01)


@pytest.mark.usefixtures("layout")
def test_neighbours_change_nothing():
    """A row by itself gives what it gives among others."""
    product = make(some_weights()[0], None)
    rows = some_rows(5)
    alone = torch.cat([product(row[None]) for row in rows])
    assert torch.allclose(product(rows), alone, rtol=1e-5, atol=1e-5)


def test_each_weight_gets_the_layout_that_pays(monkeypatch):
    """Small weights stay torch's own, large ones are packed; without oneDNN none is."""
    weight, _ = some_weights()
    assert not isinstance(make(weight, None), Packed)
    monkeypatch.setattr(linear, "PACKED_FROM", weight.numel())
    assert isinstance(make(weight, None), Packed)
    monkeypatch.setattr(linear, "has_packed", lambda: False)
    assert not isinstance(make(weight, None), Packed)
