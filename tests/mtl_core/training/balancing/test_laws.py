"""What every balancer keeps to, whatever it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .problems import COMBINERS, EVERY, LOOKING, Problem, combined, shared, spec_id, unscaled

every_balancer = pytest.mark.parametrize("spec", EVERY, ids=spec_id)
# They draw by the alphabet, and are held to the order of tasks alone; and fixed weights are bound to names.
DRAW = {"random", "pcgrad", "gradvac", "graddrop", "fixed"}


def _name(spec: Any) -> str:
    return spec if isinstance(spec, str) else spec["type"]


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rtol: float = 1e-4) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=rtol, atol=rtol * 1e-2) for name in a
    )


@every_balancer
def test_equal_tasks_get_equal_weights_and_the_sum_of_their_gradients(spec: Any) -> None:
    problem = Problem(alike=True)
    plain = problem.backward(problem.begin("sum"), "abc")
    balancer = problem.begin(spec)
    balanced = problem.backward(balancer, "abc")
    assert torch.allclose(shared(balanced), shared(plain), rtol=1e-3, atol=1e-4)
    if spec != "random":
        assert _same(balanced, plain, rtol=1e-3)
        assert list(balancer.weights().values()) == pytest.approx([1.0] * len(balancer.weights()), abs=1e-3)


@every_balancer
@pytest.mark.parametrize("trained", ["a", "abc"])
def test_one_task_gets_its_plain_gradient(spec: Any, trained: str) -> None:
    problem = Problem(trained)
    plain = problem.backward(problem.begin("sum"), "a")
    assert _same(problem.backward(problem.begin(spec), "a"), plain, rtol=1e-6)


@every_balancer
def test_the_order_of_tasks_means_nothing(spec: Any) -> None:
    steps: list[list[dict[str, torch.Tensor]]] = []
    for order in ("abc", "cab"):
        problem = Problem()
        balancer = problem.begin(spec, order)
        torch.manual_seed(3)
        steps.append(
            [problem.step(balancer, [name for name in order if name in on]) for on in ("abc", "ac", "bc")]
        )
        balancer.end_epoch()
    for first, second in zip(*steps, strict=True):
        assert _same(first, second)


@pytest.mark.parametrize("spec", [spec for spec in EVERY if _name(spec) not in DRAW], ids=spec_id)
def test_the_names_of_tasks_mean_nothing(spec: Any) -> None:
    jacobian = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 1.0, 0.2], [0.3, -0.4, 0.7]]) + 2
    there, weights = combined(spec, jacobian)
    order = [2, 0, 1]
    back, permuted = combined(spec, jacobian[order])
    assert torch.allclose(there, back, rtol=1e-4)
    if weights:
        assert [permuted[f"t{i}"] for i in range(3)] == pytest.approx(
            [weights[f"t{i}"] for i in order], rel=1e-3
        )


@every_balancer
def test_a_task_may_be_absent_for_long(spec: Any) -> None:
    problem = Problem()
    balancer = problem.begin(spec)
    problem.step(balancer, "abc")
    kept = balancer.state_dict() | {name: p.detach().clone() for name, p in balancer.parameters().items()}
    for step in range(5):
        gradients = problem.step(balancer, "ab" if step % 2 else "b") | problem.step(balancer, "a")
        assert all(value.isfinite().all() for value in gradients.values())
        assert not any("head_c" in name for name in gradients)
    now = balancer.state_dict() | balancer.parameters()
    own = [key for key in kept if key.endswith(":c")]
    assert all(torch.equal(kept[key], now[key]) for key in own)
    again = problem.step(balancer, "abc")
    assert all(value.isfinite().all() for value in again.values())
    assert any("head_c" in name for name in again)


@every_balancer
def test_state_goes_with_the_names(spec: Any) -> None:
    problem = Problem()
    balancer = problem.begin(spec)
    for present in ("abc", "ab", "abc"):
        problem.step(balancer, present)
        balancer.end_epoch()
    other = problem.begin(spec, "cba")
    other.load_state_dict(balancer.state_dict())
    with torch.no_grad():
        for name, parameter in other.parameters().items():
            parameter.copy_(balancer.parameters()[name])
    outcomes: list[dict[str, torch.Tensor]] = []
    for one in (balancer, other):
        torch.manual_seed(5)
        outcomes.append(problem.backward(one, "abc"))
    assert _same(*outcomes)
    ours, theirs = balancer.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key]) for key in ours)
    other.begin(problem.model, "abc")
    fresh = problem.begin(spec).state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in other.state_dict().items())


@every_balancer
def test_gradients_are_added_to_those_that_are_there(spec: Any) -> None:
    problem = Problem()
    torch.manual_seed(1)
    alone = problem.backward(problem.begin(spec), "ab")
    for parameter in problem.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    balancer = problem.begin(spec)
    cut = problem.cut(balancer)
    torch.manual_seed(1)
    balancer.backward(problem.losses("ab", cut), cut, unscaled)
    for name, value in problem.gradients().items():
        assert torch.allclose(value, alone.get(name, torch.zeros(())) + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", LOOKING, ids=spec_id)
def test_only_what_is_trained_gets_a_gradient(spec: Any) -> None:
    problem = Problem()
    frozen = problem.model.module_pool["trunk"][0].weight  # type: ignore[index]
    frozen.requires_grad_(False)
    gradients = problem.backward(problem.begin(spec), "abc")
    assert frozen.grad is None
    assert len(gradients) == len(list(problem.model.parameters())) - 1


@pytest.mark.parametrize("spec", LOOKING, ids=spec_id)
def test_gradients_that_are_not_finite_are_summed(spec: Any) -> None:
    problem = Problem()
    problem.Y["b"][0] = torch.inf
    gradients = problem.backward(problem.begin(spec), "abc")
    assert not shared(gradients).isfinite().any()
    assert all(value.isfinite().all() for name, value in gradients.items() if "head_a" in name)


@pytest.mark.parametrize("name", [*COMBINERS, "gradnorm"])
def test_a_task_without_a_gradient_takes_no_part(name: str) -> None:
    jacobian = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, -0.5]])
    there, _ = combined(name, jacobian)
    without, _ = combined(name, jacobian[[0, 2]])
    assert torch.allclose(there, without, rtol=1e-4)
    assert without.any()


@pytest.mark.parametrize("name", [*COMBINERS, "gradnorm"])
def test_without_a_shared_operation_gradients_are_those_of_parameters(name: str) -> None:
    problem = Problem(fields=True)
    outcomes: list[dict[str, torch.Tensor]] = []
    for on in ("parameters", "representation"):
        torch.manual_seed(2)
        outcomes.append(problem.backward(problem.begin({"type": name, "on": on}), "abc"))
    assert _same(*outcomes)


@pytest.mark.parametrize("on", ["parameters", "representation"])
def test_gradients_that_are_only_summed_are_the_plain_one(on: str) -> None:
    problem = Problem()
    plain = problem.backward(problem.begin("sum"), "abc")
    summed = problem.begin({"type": "graddrop", "leak": 1.0, "on": on})
    assert _same(problem.backward(summed, "abc"), plain)


PROMISED = [
    "mgda",
    {"type": "cagrad", "c": 1.0},
    "fairgrad",
    {"type": "fairgrad", "alpha": 4.0},
    "upgrad",
    "dualproj",
    "config",
]


@pytest.mark.parametrize("spec", PROMISED, ids=str)
@pytest.mark.parametrize(("m", "scale"), [(2, 1.0), (3, 1e-4), (6, 1e3)])
def test_every_task_descends_where_that_is_promised(spec: Any, m: int, scale: float) -> None:
    for seed in range(4):
        random = torch.Generator().manual_seed(seed)
        jacobian = torch.randn(m, 9, generator=random, dtype=torch.float64)
        # Some against others, and of sizes that differ.
        jacobian -= 0.6 * seed * jacobian.mean(0)
        jacobian *= torch.logspace(-1, 1, m, dtype=torch.float64)[:, None] * scale
        gradient, _ = combined(spec, jacobian)
        lengths = jacobian.norm(dim=1) * gradient.norm()
        cosines = jacobian @ gradient / lengths
        assert cosines.min() > -1e-3, cosines


@pytest.mark.parametrize("spec", LOOKING, ids=spec_id)
def test_lower_precision_is_taken(spec: Any) -> None:
    problem = Problem()
    balancer = problem.begin(spec)
    torch.manual_seed(0)
    exact = problem.backward(balancer, "abc")
    balancer.begin(problem.model, "abc")
    problem.model.zero_grad()
    cut = problem.cut(balancer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = problem.losses("abc", cut)
    torch.manual_seed(0)
    balancer.backward(losses, cut, unscaled)
    rough = problem.gradients()
    assert rough.keys() == exact.keys()
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert float(torch.cosine_similarity(shared(rough), shared(exact), dim=0)) > 0.9
