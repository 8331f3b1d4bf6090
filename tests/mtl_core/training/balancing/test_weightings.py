"""Weights on losses against what is known of them in other ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchjd import scalarization

from mtl_core import SpecError, TaskloomError
from mtl_core.training.balancing import BALANCERS, Balancer
from mtl_core.training.balancing.task_adam import TaskAdam

from .problems import Problem, combined, shared, unscaled


def _hear(balancer: Balancer, **losses: float) -> dict[str, float]:
    """Let a balancer take losses whose gradients do not matter, and return their weights."""
    leaf = torch.ones((), requires_grad=True)
    balancer.backward({name: leaf * value for name, value in losses.items()}, None, unscaled)
    return {name: balancer.weights()[name] for name in losses}


def _descend(balancer: Balancer, lr: float) -> None:
    for parameter in balancer.parameters().values():
        assert parameter.grad is not None
        parameter.data -= lr * parameter.grad
        parameter.grad = None


def test_fixed_weights_multiply_gradients() -> None:
    problem = Problem("ab")
    a, b = (shared(problem.backward(problem.begin("sum"), name)) for name in "ab")
    balancer = problem.begin({"type": "fixed", "weights": {"a": 0.5}})
    assert torch.allclose(shared(problem.backward(balancer, "ab")), a / 2 + b, atol=1e-5)
    assert balancer.weights() == {"a": 0.5, "b": 1.0}


@pytest.mark.parametrize(
    "spec", [{"type": "fixed", "weights": {"z": 1}}, {"type": "famo", "min_losses": {"z": 1}}]
)
def test_tasks_that_are_not_trained_are_named(spec: Any) -> None:
    with pytest.raises(TaskloomError, match=r"'z'.*\['a', 'b', 'c'\]"):
        Problem().begin(spec)


def test_log_variances_find_the_losses_sizes() -> None:
    problem = Problem("ab")
    balancer = problem.begin("uncertainty")
    parameters = balancer.parameters()
    assert parameters.keys() == {"log_variance:a", "log_variance:b"}
    for _ in range(60):
        _hear(balancer, a=0.25, b=4.0)
        _descend(balancer, 0.6)
    # The minimum of exp(-s) l + s / 2 is at s = log 2l.
    assert _hear(balancer, a=0.25, b=4.0) == pytest.approx({"a": 2.0, "b": 0.125}, rel=0.05)


def test_losses_below_0_do_not_drive_weights_beyond_bounds() -> None:
    balancer = Problem("ab").begin("uncertainty")
    for _ in range(10):
        weights = _hear(balancer, a=-1.0, b=1.0)
        _descend(balancer, 5.0)
    assert weights["a"] == pytest.approx(math.exp(10))


def test_dwa_weighs_by_how_slowly_losses_fall() -> None:
    balancer = Problem("abc").begin("dwa")
    for losses in ([1.0, 2.0, 3.0], [0.5, 1.9, 3.0], [0.4, 1.0, 3.3]):
        assert sum(_hear(balancer, **dict(zip("abc", losses, strict=True))).values()) == pytest.approx(3)
        balancer.end_epoch()
    weights = _hear(balancer, a=1.0, b=1.0, c=1.0)
    expected = 3 * (torch.tensor([0.4 / 0.5, 1.0 / 1.9, 3.3 / 3.0]) / 2).softmax(0)
    assert list(weights.values()) == pytest.approx(expected.tolist(), rel=1e-4)


def test_random_weights_are_drawn_anew_and_are_1_on_average() -> None:
    balancer = Problem("ab").begin("random")
    draws = torch.tensor([list(_hear(balancer, a=1.0, b=1.0).values()) for _ in range(500)])
    assert torch.allclose(draws.sum(1), torch.tensor(2.0))
    assert draws.std(0).min() > 0.2
    assert torch.allclose(draws.mean(0), torch.ones(2), atol=0.1)


def test_famo_follows_torchjd_where_all_tasks_are_present() -> None:
    balancer, reference = Problem("abc").begin("famo"), scalarization.FAMO(3)
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        before, after = torch.rand(2, 3, generator=random) + torch.tensor([0.1, 1.0, 5.0])
        leaves = before.clone().requires_grad_()
        reference(leaves).backward()
        weights = _hear(balancer, **dict(zip("abc", before.tolist(), strict=True)))
        assert leaves.grad is not None
        assert [weight / 3 for weight in weights.values()] == pytest.approx(leaves.grad.tolist(), rel=1e-3)
        reference.update(after)
        balancer.after_step(lambda after=after: dict(zip("abc", after, strict=True)))


def test_famo_refuses_losses_below_their_least() -> None:
    balancer = Problem("ab").begin("famo")
    with pytest.raises(TaskloomError, match=r"'a' is -1.*min_losses"):
        _hear(balancer, a=-1.0, b=1.0)
    shifted = Problem("ab").begin({"type": "famo", "min_losses": {"a": -3.0}})
    assert _hear(shifted, a=-1.0, b=2.0) == pytest.approx({"a": 1.0, "b": 1.0})


def test_gradnorm_brings_gradients_to_one_length_and_keeps_the_sum_of_weights() -> None:
    problem = Problem("ab")
    balancer = problem.begin({"type": "gradnorm", "alpha": 0, "lr": 0.05})
    lengths = {name: shared(problem.backward(problem.begin("sum"), name)).norm() for name in "ab"}
    for _ in range(120):
        problem.backward(balancer, "ab")
    weights = balancer.weights()
    ratio = float(weights["a"] * lengths["a"] / (weights["b"] * lengths["b"]))
    assert float(lengths["a"] / lengths["b"]) != pytest.approx(1, rel=0.2)
    assert ratio == pytest.approx(1, rel=0.1)
    assert sum(weights.values()) == pytest.approx(2)


@pytest.mark.parametrize(("alpha", "lags"), [(1.5, True), (0.0, False)])
def test_gradnorm_raises_the_weight_of_a_task_that_lags(alpha: float, lags: bool) -> None:
    problem = Problem("ab", alike=True)
    balancer = problem.begin({"type": "gradnorm", "alpha": alpha})
    problem.backward(balancer, "ab")
    state = dict(balancer.state_dict())
    state["first:b"] = state["first:b"] * 4
    balancer.load_state_dict(state)
    for _ in range(2):
        problem.backward(balancer, "ab")
    weights = balancer.weights()
    assert (weights["a"] > weights["b"] + 0.01) == lags


def test_gradnorm_multiplies_the_gradients_of_heads_too() -> None:
    problem = Problem("ab")
    balancer = problem.begin("gradnorm")
    problem.step(balancer, "ab")
    plain = problem.backward(problem.begin("sum"), "ab")
    gradients = problem.backward(balancer, "ab")
    head = next(name for name in plain if "head_a" in name)
    assert torch.allclose(gradients[head], plain[head] * balancer.weights()["a"], rtol=1e-4)


def test_adam_moves_like_torchs() -> None:
    theirs = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.Adam([theirs], lr=0.1, weight_decay=0.01)
    ours = TaskAdam({"a": 0.0, "b": 0.0}, lr=0.1, weight_decay=0.01)
    for step in range(5):
        gradient = torch.tensor([1.0, step - 3.0], dtype=torch.float64)
        theirs.grad = gradient.clone()
        optimizer.step()
        ours.step({"a": float(gradient[0]), "b": float(gradient[1])})
    assert list(ours.values.values()) == pytest.approx(theirs.tolist())


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("adam", ""),
        ("fixed", "/weights"),
        ({"type": "fixed", "weights": {}}, "/weights"),
        ({"type": "fixed", "weights": {"a": -1}}, "/weights"),
        ({"type": "fixed", "weights": {"a": math.inf}}, "/weights"),
        ({"type": "dwa", "temperature": 0}, "/temperature"),
        ({"type": "cagrad", "c": -0.1}, "/c"),
        ({"type": "fairgrad", "alpha": 0}, "/alpha"),
        ({"type": "mgda", "on": "losses"}, "/on"),
        ({"type": "uncertainty", "on": "parameters"}, "/on"),
        ({"type": "famo", "lr": "fast"}, "/lr"),
        ({"type": "gradvac", "beta": 1.1}, "/beta"),
    ],
)
def test_arguments_out_of_range_are_refused(spec: Any, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        BALANCERS.build(spec)
    assert caught.value.faults[0].pointer == (where or "/type" if isinstance(spec, dict) else where)


def test_a_weighted_sum_of_losses_is_scaled() -> None:
    for spec in ("sum", "dwa", "uncertainty"):
        problem = Problem("ab")
        balancer = problem.begin(spec)
        plain = problem.backward(balancer, "ab")
        problem.model.zero_grad()
        balancer.backward(problem.losses("ab"), None, lambda loss: loss * 8)
        assert all(torch.allclose(value, plain[name] * 8) for name, value in problem.gradients().items())


def test_weights_are_told_of_tasks_that_took_part() -> None:
    _, weights = combined("mgda", torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    assert weights == pytest.approx({"t0": 1.0, "t1": 1.0}, abs=1e-3)
