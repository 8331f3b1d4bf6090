"""Layers fitted to a task or to a condition: they start as the identity, and do what they say afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.conditioning import Adapter, FiLM, TaskEmbedding


def shaken(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("x", [torch.randn(4, 3), torch.randn(4, 5, 3)], ids=["vectors", "sequences"])
class TestWhateverTheDimensions:
    def test_all_start_as_the_identity(self, x: torch.Tensor) -> None:
        assert torch.equal(FiLM(3)(x), x)
        assert torch.equal(FiLM(3, 2)(x, torch.randn(4, 2)), x)
        assert torch.equal(Adapter(3, 2)(x), x)

    def test_film_scales_and_shifts(self, x: torch.Tensor) -> None:
        film = shaken(FiLM(3))
        assert torch.allclose(film(x), x * film.gamma + film.beta)

    def test_film_does_as_the_condition_says(self, x: torch.Tensor) -> None:
        film, condition = shaken(FiLM(3, 2)), torch.randn(4, 2)
        output = film(x, condition)
        for i in range(4):
            gamma = film.gamma + film.weight[:3] @ condition[i]
            beta = film.beta + film.weight[3:] @ condition[i]
            assert torch.allclose(output[i], x[i] * gamma + beta, atol=1e-5)

    def test_an_adapter_adds_what_its_bottleneck_makes(self, x: torch.Tensor) -> None:
        adapter = shaken(Adapter(3, 2))
        within = functional.gelu(x @ adapter.down_weight.T + adapter.down_bias)
        assert torch.allclose(adapter(x), x + within @ adapter.up_weight.T + adapter.up_bias, atol=1e-5)


def test_the_first_step_moves_what_starts_at_zero() -> None:
    film, adapter, x = FiLM(3, 2), Adapter(3, 2), torch.randn(4, 3)
    (film(x, torch.randn(4, 2)).square().sum() + adapter(x).square().sum()).backward()
    assert film.weight is not None
    for parameter in (film.gamma, film.beta, film.weight, adapter.up_weight, adapter.up_bias):
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).all())


def test_an_adapter_of_a_frozen_layer_learns_what_the_layer_lacks() -> None:
    torch.manual_seed(0)
    trunk, adapter = nn.Linear(3, 3).requires_grad_(False), Adapter(3, 8)
    x = torch.randn(64, 3)
    target = x.abs()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.02)
    before = float(functional.mse_loss(trunk(x), target))
    for _ in range(150):
        optimizer.zero_grad()
        functional.mse_loss(adapter(trunk(x)), target).backward()
        optimizer.step()
    assert float(functional.mse_loss(adapter(trunk(x)).detach(), target)) < before / 10
    assert all(parameter.grad is None for parameter in trunk.parameters())


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.zeros(4, 7, dtype=torch.int64)])
def test_a_task_embedding_is_one_vector_for_every_example(x: torch.Tensor) -> None:
    module = TaskEmbedding(5)
    vectors = module(x)
    assert vectors.shape == (4, 5)
    assert all(torch.equal(vector, module.weight) for vector in vectors)
    vectors.sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.tolist() == [4.0] * 5


@pytest.mark.parametrize(
    ("module", "shapes", "message"),
    [
        (FiLM(3), [(4, 2)], r"FiLM works on \[batch, …, 3\], not \[4, 2\]"),
        (FiLM(3), [(4, 3), (4, 2)], "FiLM reads a second input only where condition_features"),
        (FiLM(3, 2), [(4, 3)], "FiLM has condition_features, and so needs a second input"),
        (FiLM(3, 2), [(4, 3), (4, 3)], r"the condition is \[batch, 2\], not \[4, 3\]"),
        (FiLM(3, 2), [(4, 3), (4, 5, 2)], r"the condition is \[batch, 2\], not \[4, 5, 2\]"),
        (Adapter(3, 2), [(4, 2)], r"Adapter works on \[batch, …, 3\], not \[4, 2\]"),
    ],
)
def test_inputs_that_do_not_suit_are_refused(module: nn.Module, shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(*map(torch.zeros, shapes))
