"""Modules through which tasks hear of one another, against formulas worked out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtl_core import SpecError
from mtl_core.modules import build_module
from mtl_core.modules.coupling import CrossStitch, InformationTransfer, JointProbability


class TestCrossStitch:
    def test_it_starts_with_mostly_the_own_and_shares_the_rest(self) -> None:
        stitch = CrossStitch(3, own=0.8)
        inputs = [torch.randn(4, 2, 5) for _ in range(3)]
        outputs = stitch(*inputs)
        assert isinstance(outputs, tuple)
        for i, output in enumerate(outputs):
            others = sum(inputs[j] for j in range(3) if j != i)
            assert torch.allclose(output, 0.8 * inputs[i] + 0.1 * others, atol=1e-6)

    def test_any_mixture_can_be_learnt(self) -> None:
        stitch, (a, b) = CrossStitch(2), torch.randn(2, 4, 3)
        with torch.no_grad():
            stitch.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        first, second = stitch(a, b)
        assert torch.allclose(first, a + 2 * b)
        assert torch.allclose(second, 0.5 * b - a)
        (first.sum() + second.square().sum()).backward()
        assert stitch.weight.grad is not None
        assert bool((stitch.weight.grad != 0).all())

    @pytest.mark.parametrize("shapes", [[(4, 3)], [(4, 3), (4, 2)], [(4, 3)] * 3])
    def test_inputs_that_are_not_one_for_each_task_are_refused(self, shapes: Any) -> None:
        with pytest.raises(ValueError, match="CrossStitch needs 2 inputs of one shape, not"):
            CrossStitch(2)(*map(torch.zeros, shapes))

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [({"n_tasks": 1}, "/n_tasks"), ({"n_tasks": 65}, "/n_tasks"), ({"own": 1.1}, "/own")],
    )
    def test_arguments_have_bounds(self, changes: dict[str, Any], pointer: str) -> None:
        with pytest.raises(SpecError) as caught:
            build_module({"type": "CrossStitch", "n_tasks": 2} | changes)
        assert caught.value.faults[0].pointer == pointer


class TestInformationTransfer:
    def test_it_attends_to_both_inputs(self) -> None:
        transfer, (p, q) = InformationTransfer(3), torch.randn(2, 4, 3)
        to_query, to_key, to_value = np.split(transfer.weight.detach().numpy(), 3)
        scores, values = [], []
        for u in (p.numpy(), q.numpy()):
            scores.append(((u @ to_query.T) * (u @ to_key.T)).sum(axis=1) / np.sqrt(3))
            values.append(u @ to_value.T)
        weights = np.exp(scores) / np.exp(scores).sum(axis=0)
        expected = sum(weight[:, None] * value for weight, value in zip(weights, values, strict=True))
        np.testing.assert_allclose(transfer(p, q).detach().numpy(), expected, rtol=1e-4, atol=1e-6)

    def test_two_equal_inputs_are_their_value(self) -> None:
        transfer, p = InformationTransfer(3), torch.randn(4, 3)
        assert torch.allclose(transfer(p, p), p @ transfer.weight[6:].T, atol=1e-6)

    def test_inputs_of_another_size_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"works on \[batch, 3\], not \[4, 2\]"):
            InformationTransfer(3)(torch.zeros(4, 3), torch.zeros(4, 2))


class TestJointProbability:
    def test_it_is_the_logit_of_the_product(self) -> None:
        logits = torch.randn(3, 50, 1, dtype=torch.float64)
        product = torch.sigmoid(logits).prod(dim=0)
        assert torch.allclose(JointProbability()(*logits), torch.logit(product), atol=1e-9)

    @pytest.mark.parametrize("n", [2, 3])
    def test_it_holds_far_out_with_finite_gradients(self, n: int) -> None:
        ends = torch.tensor([-100.0, -30.0, -1e-3, 0.0, 1.0, 30.0, 100.0])
        grid = torch.cartesian_prod(*[ends] * n).T.contiguous().requires_grad_()
        joint = JointProbability()(*grid)
        precise = grid.detach().double()
        # The odds against a product are the odds against one times the whole of the others, and so on.
        against = torch.zeros_like(precise[0])
        for logits in precise:
            against = torch.expm1(torch.log1p(against) + torch.log1p(torch.exp(-logits)))
        assert torch.allclose(joint.detach().double(), -against.log(), rtol=1e-5, atol=1e-5)
        assert bool((joint <= grid.amin(dim=0) + 1e-5).all())
        joint.sum().backward()
        assert grid.grad is not None
        assert bool(grid.grad.isfinite().all())

    @pytest.mark.parametrize("shapes", [[(4, 1)], [(4, 1), (4,)], [(4, 1), (4, 2)]])
    def test_inputs_that_are_not_two_or_more_of_one_shape_are_refused(self, shapes: Any) -> None:
        with pytest.raises(ValueError, match="JointProbability needs two or more logits of one shape, not"):
            JointProbability()(*map(torch.zeros, shapes))
