"""The gate that comes to choose: its formula, what it promises of its weights, its penalty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import SpecError
from mtl_core.modules import build_module
from mtl_core.modules.dselect import DSelectK


def smooth_step(t: float, gamma: float) -> float:
    if abs(t) >= gamma / 2:
        return float(t > 0)
    return -2 / gamma**3 * t**3 + 3 / (2 * gamma) * t + 0.5


def entropies(gate: DSelectK, x: torch.Tensor) -> float:
    """The penalty of a gate of two selectors and two experts, from what each selector says."""
    maps = (x @ gate.weight.T + gate.bias).detach().double().numpy()
    steps = np.vectorize(smooth_step)(maps[:, 2:], gate.gamma)
    return float((-(steps * np.log(steps) + (1 - steps) * np.log(1 - steps))).sum(axis=1).mean())


@pytest.mark.parametrize(("n_experts", "n_bits"), [(2, 1), (4, 2), (8, 3)])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_weights_are_those_of_the_paper_where_codes_are_full(
    n_experts: int, n_bits: int, gamma: float
) -> None:
    k = 2
    gate = DSelectK(3, n_experts, k, gamma)
    with torch.no_grad():
        gate.weight.copy_(torch.randn_like(gate.weight) / 3)
    x = torch.randn(6, 3)
    maps = (x @ gate.weight.T + gate.bias).detach().double().numpy()
    expected = []
    for row in maps:
        selectors, codes = np.exp(row[:k]) / np.exp(row[:k]).sum(), row[k:].reshape(k, n_bits)
        per_code = {
            bits: sum(
                weight
                * np.prod(
                    [
                        smooth_step(t, gamma) if bit else 1 - smooth_step(t, gamma)
                        for t, bit in zip(code, bits, strict=True)
                    ]
                )
                for weight, code in zip(selectors, codes, strict=True)
            )
            for bits in itertools.product((0, 1), repeat=n_bits)
        }
        expected.append(sorted(per_code.values()))
    # In which order experts have their codes does not matter.
    np.testing.assert_allclose(gate.weigh(x).detach().sort(dim=1).values, expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**31 - 1), st.sampled_from([1e-3, 1.0, 1e3]))
def test_weights_sum_to_one_and_settle_on_k_experts_at_most(
    n_experts: int, k: int, seed: int, scale: float
) -> None:
    torch.manual_seed(seed)
    gate = DSelectK(4, n_experts, min(k, n_experts))
    with torch.no_grad():
        gate.weight.copy_(torch.randn_like(gate.weight) * scale)
    weights = gate.weigh(torch.randn(8, 4) + 2)
    assert weights.shape == (8, n_experts)
    assert bool((weights >= 0).all())
    assert torch.allclose(weights.sum(dim=1), torch.ones(8), atol=1e-5)
    settled = gate.eval()
    with torch.no_grad():
        # Away from 0 by half of gamma: no bit is between 0 and 1.
        settled.weight[settled.k :] = 0
        settled.bias[settled.k :] = torch.where(torch.rand_like(settled.bias[settled.k :]) < 0.5, -0.6, 0.6)
    assert int((settled.weigh(torch.randn(8, 4)) != 0).sum(dim=1).max()) <= settled.k


@pytest.mark.parametrize("n_experts", [1, 2, 3, 5, 6, 7, 8, 12])
def test_every_expert_can_be_chosen_alone(n_experts: int) -> None:
    gate = DSelectK(1, n_experts, 1)
    n_bits = gate.bias.numel() - 1
    chosen = set()
    for bits in itertools.product((-1.0, 1.0), repeat=n_bits):
        with torch.no_grad():
            gate.weight.zero_()
            gate.bias[1:] = torch.tensor(bits)
        (weights,) = gate.weigh(torch.zeros(1, 1)).tolist()
        assert sorted(weights) == [0.0] * (n_experts - 1) + [1.0]
        chosen.add(weights.index(1.0))
    assert chosen == set(range(n_experts))


def test_it_starts_without_a_choice_and_learns_one() -> None:
    torch.manual_seed(0)
    gate = DSelectK(4, 4, 2)
    x, answers = torch.randn(32, 4), torch.randn(32, 4, 3)
    assert float(gate.weigh(x).detach().min()) > 0.2
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (gate(x, answers) - answers[:, 2]).square().mean().backward()
        optimizer.step()
    assert float(gate.weigh(x)[:, 2].detach().mean()) > 0.95


def gradient(gate: DSelectK, x: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(gate.weigh(x)[:, 0].sum(), [gate.bias])
    return found


class TestPenalty:
    def test_its_gradient_is_that_of_the_weighted_entropy(self) -> None:
        torch.manual_seed(0)
        gate = DSelectK(3, 2, 2, entropy_weight=0.5).double()
        with torch.no_grad():
            gate.bias[2:] = torch.tensor([0.2, -0.1])
        x = torch.randn(5, 3, dtype=torch.float64)
        with_penalty = gradient(gate, x)
        gate.entropy_weight = 0.0
        found = with_penalty - gradient(gate, x)
        for i in range(4):
            numeric = 0.0
            for sign in (1, -1):
                with torch.no_grad():
                    gate.bias[i] += sign * 1e-5
                    numeric += sign * 0.5 * entropies(gate, x) / 2e-5
                    gate.bias[i] -= sign * 1e-5
            assert float(found[i]) == pytest.approx(numeric, abs=1e-6)

    def test_it_changes_no_weight_and_no_gradient_outside_training(self) -> None:
        torch.manual_seed(0)
        penalised, plain = DSelectK(3, 5, 2, entropy_weight=10.0), DSelectK(3, 5, 2, entropy_weight=0.0)
        plain.load_state_dict(penalised.state_dict())
        x = torch.randn(4, 3)
        assert torch.equal(penalised.weigh(x), plain.weigh(x))
        assert not torch.allclose(gradient(penalised, x), gradient(plain, x))
        assert torch.equal(gradient(penalised.eval(), x), gradient(plain, x))

    def test_settled_selectors_have_a_finite_gradient(self) -> None:
        gate = DSelectK(3, 5, 2, entropy_weight=1.0)
        with torch.no_grad():
            gate.bias[2:] = 5.0
        assert bool(gradient(gate, torch.zeros(4, 3)).isfinite().all())

    def test_it_is_no_part_of_the_gradients_of_tasks_beside(self) -> None:
        """As where the gradients of several losses are taken at once."""
        torch.manual_seed(0)
        gate = DSelectK(3, 4, 2, entropy_weight=1.0)
        x = torch.randn(6, 3, requires_grad=True)
        losses = torch.stack([gate.weigh(x)[:, 0].sum(), x.square().sum()])
        ours, theirs = torch.autograd.grad(
            losses, [gate.bias], grad_outputs=torch.eye(2), is_grads_batched=True
        )[0]
        assert torch.allclose(ours, gradient(gate, x.detach()), atol=1e-6)
        assert not bool(theirs.any())


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(SpecError, match="k is 3, but there are 2 experts to choose from"):
        build_module({"type": "DSelectK", "in_features": 4, "n_experts": 2, "k": 3})
