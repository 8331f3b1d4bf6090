"""Attention pooling: the formula, steps that only fill up, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtl_core.modules.pooling import AttentionPooling

IDS = torch.tensor([[5, 2, 0, 0], [3, 3, 3, 3], [0, 0, 0, 0]])


def pooled(module: AttentionPooling, steps: torch.Tensor) -> np.ndarray:
    """One sequence pooled in NumPy, steps ``[L, D]``."""
    scores = steps.numpy() @ module.queries.detach().numpy().T
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    return (weights.T @ steps.numpy()).reshape(-1)


def test_each_head_averages_by_its_own_attention() -> None:
    module, x = AttentionPooling(5, heads=2), torch.randn(3, 4, 5)
    expected = np.stack([pooled(module, steps) for steps in x])
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    # Without a padding index, tokens make no difference.
    assert torch.equal(module(x, IDS), module(x))


def test_padding_gets_no_weight_and_a_row_of_it_is_zero() -> None:
    module, x = AttentionPooling(5, heads=2, padding_idx=0), torch.randn(3, 4, 5, requires_grad=True)
    output = module(x, IDS)
    np.testing.assert_allclose(output[0].detach(), pooled(module, x[0, :2].detach()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(output[1].detach(), pooled(module, x[1].detach()), rtol=1e-4, atol=1e-6)
    assert output[2].tolist() == [0.0] * 10
    output.square().sum().backward()
    assert x.grad is not None
    assert module.queries.grad is not None
    assert bool(module.queries.grad.isfinite().all())
    assert bool((x.grad[IDS == 0] == 0).all())
    assert bool((x.grad[IDS != 0] != 0).all())


def test_padding_is_masked_in_half_precision_too() -> None:
    module = AttentionPooling(5, padding_idx=0).half()
    output = module(torch.randn(3, 4, 5, dtype=torch.float16), IDS)
    assert bool(output.isfinite().all())
    assert output[2].tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([(3, 4, 5)], "has a padding_idx, and so needs the token indices as a second input"),
        ([(3, 4, 5), (3, 3)], r"token indices of shape \[3, 3\] do not suit steps \[3, 4, 5\]"),
        ([(3, 5), (3, 5)], r"works on \[batch, steps, 5\], not \[3, 5\]"),
        ([(3, 4, 6), (3, 4)], r"works on \[batch, steps, 5\], not \[3, 4, 6\]"),
    ],
)
def test_inputs_that_do_not_suit_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionPooling(5, padding_idx=0)(*map(torch.zeros, inputs))
