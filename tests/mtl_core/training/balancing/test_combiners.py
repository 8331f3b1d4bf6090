"""Combined gradients against what is known of them in other ways."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd.aggregation import GradVac as TorchjdGradVac

from mtl_core import SpecError
from mtl_core.training.balancing import BALANCERS
from mtl_core.training.balancing.projector import NonNegativeProjector
from mtl_core.training.balancing.solvers import conflict_averse_weights, min_norm_weights

from .problems import Problem, combined

AGAINST = torch.tensor([[2.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
WITH = torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def _random(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _close(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-4) -> bool:
    return torch.allclose(a, b.to(a.dtype), rtol=rtol, atol=rtol)


def test_pcgrad_takes_out_what_is_against_the_other() -> None:
    a, b = AGAINST
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    assert _close(combined("pcgrad", AGAINST)[0], expected)
    assert _close(combined("pcgrad", WITH)[0], WITH.sum(0))


def test_gradvac_begins_as_pcgrad_and_turns_gradients_towards_their_mean_cosine() -> None:
    for jacobian in (AGAINST, WITH):
        assert _close(combined("gradvac", jacobian)[0], combined("pcgrad", jacobian)[0])
    problem, reference = Problem("ab"), TorchjdGradVac(beta=0.5)
    ours, exact = (
        problem.begin({"type": "gradvac", "beta": 0.5}),
        problem.begin({"type": "graddrop", "leak": 1}),
    )
    for step in range(4):
        rows: list[torch.Tensor] = []
        for name in "ab":
            gradients = problem.backward(exact, name)
            rows.append(torch.cat([value.flatten() for key, value in gradients.items() if "trunk" in key]))
        expected = reference(torch.stack(rows))
        gradients = problem.step(ours, "ab", lr=0.2)
        found = torch.cat([value.flatten() for key, value in gradients.items() if "trunk" in key])
        assert _close(found, expected, rtol=1e-3), step


def test_graddrop_keeps_entries_that_all_agree_on_and_one_sign_of_others() -> None:
    jacobian = torch.tensor([[1.0, 2.0, -3.0] * 40, [1.0, -2.0, -1.0] * 40])
    gradient, weights = combined("graddrop", jacobian)
    agreed, disputed, negative = gradient.view(-1, 3).T
    assert torch.equal(agreed, torch.full((40,), 2.0))
    assert torch.equal(negative, torch.full((40,), -4.0))
    assert set(disputed.tolist()) == {2.0, -2.0}
    assert not weights
    leaked, _ = combined({"type": "graddrop", "leak": 1.0}, jacobian)
    assert torch.equal(leaked, jacobian.sum(0))


@pytest.mark.parametrize("jacobian", [AGAINST, WITH, WITH * torch.tensor([[0.1], [3.0]])])
def test_mgda_of_two_tasks_is_the_nearest_point_of_a_line(jacobian: torch.Tensor) -> None:
    a, b = jacobian
    share = float(((b - a) @ b / (a - b).square().sum()).clamp(0, 1))
    gradient, weights = combined("mgda", jacobian)
    assert _close(gradient, 2 * (share * a + (1 - share) * b), rtol=1e-3)
    assert weights == pytest.approx({"t0": 2 * share, "t1": 2 - 2 * share}, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(m=st.integers(2, 7), n=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_the_shortest_vector_of_a_hull_is_nearest_to_all_corners(m: int, n: int, seed: int) -> None:
    rows = _random(m, n, seed).numpy()
    weights = min_norm_weights(rows @ rows.T)
    shortest = weights @ rows
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    assert (rows @ shortest).min() >= shortest @ shortest - 1e-4 * np.square(rows).sum(1).max()


@pytest.mark.parametrize("c", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "jacobian", [AGAINST, WITH, torch.randn(3, 4, generator=torch.Generator().manual_seed(8))]
)
def test_cagrad_is_as_good_as_any_point_of_a_grid(c: float, jacobian: torch.Tensor) -> None:
    rows = jacobian.double()
    mean = rows.mean(0)

    def least_gain(direction: torch.Tensor) -> torch.Tensor:
        return (direction @ rows.T).amin(-1)

    weights = torch.from_numpy(conflict_averse_weights((rows @ rows.T).numpy(), c))
    direction = weights @ rows
    radius = c * mean.norm()
    assert (direction - mean).norm() <= radius * (1 + 1e-4)
    # The best direction lies in the span of the gradients.
    grid = torch.tensor(list(product(np.linspace(-1, 1, 41), repeat=len(rows))), dtype=torch.float64)
    basis = torch.linalg.svd(rows, full_matrices=False).Vh
    inside = grid[grid.norm(dim=1) <= 1] @ basis * radius + mean
    assert least_gain(direction) >= least_gain(inside).max() - 1e-6
    gradient, _ = combined({"type": "cagrad", "c": c}, jacobian)
    assert _close(gradient, direction * len(rows) / (1 + c), rtol=1e-3)


def test_cagrad_without_a_radius_is_the_sum() -> None:
    assert _close(combined({"type": "cagrad", "c": 0.0}, AGAINST)[0], AGAINST.sum(0))


def test_cagrad_stands_still_where_no_task_can_gain_only_if_it_may() -> None:
    opposed = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert _close(combined({"type": "cagrad", "c": 1.0}, opposed)[0], torch.zeros(2))
    assert _close(combined({"type": "cagrad", "c": 0.5}, opposed)[0] * 1.5, opposed.sum(0))


def test_imtl_g_gains_alike_along_all_gradients() -> None:
    jacobian = _random(3, 6, 1)
    gradient, weights = combined("imtl_g", jacobian)
    gains = jacobian @ gradient / jacobian.norm(dim=1)
    assert _close(gains, gains.mean().expand(3))
    assert sum(weights.values()) == pytest.approx(3)


def test_aligned_mtl_sums_gradients_at_right_angles_and_of_one_length() -> None:
    jacobian = _random(3, 6, 2)
    u, s, v = torch.linalg.svd(jacobian, full_matrices=False)
    for scale, length in (("min", s.min()), ("median", s.median()), ("rmse", s.square().mean().sqrt())):
        gradient, _ = combined({"type": "aligned_mtl", "scale": scale}, jacobian)
        assert _close(gradient, (u @ v * length).sum(0), rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_fairgrad_shares_out_gains_by_its_power(alpha: float) -> None:
    jacobian = _random(3, 6, 3)
    gradient, weights = combined({"type": "fairgrad", "alpha": alpha}, jacobian)
    gains = jacobian @ gradient
    products = gains**alpha * torch.tensor(list(weights.values()), dtype=torch.float64)
    assert _close(products / products.mean(), torch.ones(3, dtype=torch.float64), rtol=1e-2)
    assert sum(weights.values()) == pytest.approx(3)


def test_config_is_at_one_angle_to_all_gradients() -> None:
    jacobian = _random(3, 6, 5)
    gradient, _ = combined("config", jacobian)
    cosines = jacobian @ gradient / (jacobian.norm(dim=1) * gradient.norm())
    assert _close(cosines, cosines.mean().expand(3), rtol=1e-3)
    assert float(gradient.norm()) == pytest.approx(float(cosines @ jacobian.norm(dim=1)), rel=1e-3)


def test_the_dual_cone_methods_on_two_tasks() -> None:
    a, b = AGAINST
    brought = [a - (a @ b) / (b @ b) * b, b - (a @ b) / (a @ a) * a]
    assert _close(combined("upgrad", AGAINST)[0], brought[0] + brought[1])
    total = a + b
    # The sum is for the first and against neither, so it is its own projection.
    assert (AGAINST @ total).min() >= 0
    assert _close(combined("dualproj", AGAINST)[0], total)
    stronger = AGAINST * torch.tensor([[3.0], [1.0]])
    total = stronger.sum(0)
    assert _close(combined("dualproj", stronger)[0], total - (total @ b) / (b @ b) * b, rtol=1e-3)
    for name in ("upgrad", "dualproj"):
        assert _close(combined(name, WITH)[0], WITH.sum(0))


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 8), n=st.integers(1, 8), seed=st.integers(0, 10**6), sizes=st.floats(0, 3))
def test_projections_meet_the_conditions_of_the_optimum(m: int, n: int, seed: int, sizes: float) -> None:
    rows = _random(m, n, seed) * torch.logspace(-sizes / 2, sizes / 2, m, dtype=torch.float64)[:, None]
    U = torch.rand(3, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    W = NonNegativeProjector()(U, rows @ rows.T)  # type: ignore[arg-type]
    lengths = rows.norm(dim=1)
    gains = W @ rows @ rows.T / lengths
    size = (W * lengths).sum(1, keepdim=True)
    assert W.shape == U.shape
    assert bool((W >= U - 1e-12).all())
    assert bool((gains >= -1e-4 * size).all())
    # What was added to a task's weight stands only where that task gains nothing.
    assert bool((((W - U) * lengths * gains).abs() <= 1e-4 * size**2).all())


def test_nash_mtl_says_what_it_needs_or_agrees_with_fairgrad() -> None:
    missing = [name for name in ("cvxpy", "ecos") if find_spec(name) is None]
    if missing:
        with pytest.raises(SpecError, match=rf"{missing[0]}.*taskloom\[nash\]"):
            BALANCERS.build("nash_mtl")
    else:
        jacobian = _random(3, 6, 6)
        assert _close(combined("nash_mtl", jacobian)[0], combined("fairgrad", jacobian)[0], rtol=0.05)
