from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_core.modules.combine import Add, Concat, Multiply, Residual
from mtl_core.modules.shape import Mean, Permute, Take

A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])


def test_concat_joins_along_its_dimension() -> None:
    assert Concat()(A, B).tolist() == [[1, 2, 3, 5]]
    assert Concat(dim=1)(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4)).shape == (2, 4, 4)


def test_add_and_multiply_work_element_by_element_on_any_number_of_inputs() -> None:
    assert Add()(A, B, B).tolist() == [[7, 12]]
    assert Multiply()(A, B, B).tolist() == [[9, 50]]


def test_residual_adds_its_input() -> None:
    assert Residual([nn.Identity(), nn.ReLU()])(torch.tensor([[-1.0, 2.0]])).tolist() == [[-1, 4]]


@pytest.mark.parametrize("module", [Add(), Multiply()])
def test_inputs_of_several_shapes_are_not_broadcast(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"needs one shape, not \[2\] and \[1\]"):
        module(A, torch.zeros(1, 1))


def test_a_residual_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="Residual needs one shape"):
        Residual([nn.Linear(2, 1)])(A)


def test_dimensions_are_taken_averaged_and_reordered() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(Take(-1)(x), x[:, -1])
    assert torch.equal(Take(0, dim=2)(x), x[..., 0])
    assert torch.equal(Mean()(x), x.mean(dim=1))
    assert torch.equal(Permute([2, 1])(x), x.transpose(1, 2))
    with pytest.raises(ValueError, match="permutation of 1 to 2"):
        Permute([0, 1])
