"""Models whose tasks' gradients are known, and the balancers that all laws are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task
from mtl_core.model.cut import Cut
from mtl_core.training.balancing import BALANCERS, Balancer

LOSS_WEIGHTINGS: list[Any] = [
    "sum",
    {"type": "fixed", "weights": {"a": 1}},
    "uncertainty",
    "dwa",
    "random",
    "famo",
]
COMBINERS = [
    *(
        "pcgrad",
        "gradvac",
        "graddrop",
        "mgda",
        "cagrad",
        "imtl_g",
        "aligned_mtl",
        "fairgrad",
        "upgrad",
        "dualproj",
    ),
    *("config", *(["nash_mtl"] if find_spec("cvxpy") and find_spec("ecos") else [])),
]
# How the representation takes the parameters' place is the same for all.
_ON_BOTH = ("pcgrad", "graddrop", "mgda", "gradnorm")
LOOKING: list[Any] = [
    *({"type": name, "on": "parameters"} for name in (*COMBINERS, "gradnorm")),
    *({"type": name, "on": "representation"} for name in _ON_BOTH),
]
EVERY: list[Any] = [*LOSS_WEIGHTINGS, *LOOKING]


def spec_id(spec: Any) -> str:
    return spec if isinstance(spec, str) else f"{spec['type']}-{spec.get('on', '')}".rstrip("-")


def unscaled(loss: torch.Tensor) -> torch.Tensor:
    return loss


class Problem:
    """Tasks with heads of their own on a trunk that all share; losses are squared errors on one batch.

    Args:
        names: The tasks.
        alike: Whether all tasks have the same head and the same labels.
        fields: Whether each task reads a field of its own.
    """

    def __init__(self, names: Sequence[str] = "abc", alike: bool = False, fields: bool = False) -> None:
        random = torch.Generator().manual_seed(4)
        trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh())
        for parameter in trunk.parameters():
            nn.init.normal_(parameter, generator=random)
        tasks: list[Task] = []
        self.X: dict[str, torch.Tensor] = {}
        self.Y: dict[str, torch.Tensor] = {}
        for name in sorted(names):
            seed = torch.Generator().manual_seed(0 if alike else ord(name))
            head = nn.Linear(4, 1)
            nn.init.normal_(head.weight, generator=seed)
            nn.init.normal_(head.bias, generator=seed)
            field = f"x_{name}" if fields else "x"
            self.X[field] = torch.randn(16, 5, generator=random)
            self.Y[name] = torch.randn(16, generator=seed)
            tasks.append(
                Task(
                    name,
                    {"trunk": trunk, f"head_{name}": head},
                    [Operation("trunk", [("_input_", field)]), Operation(f"head_{name}", ["trunk"])],
                    loss_func=squared_error,
                )
            )
        self.model = MultitaskClassifier(tasks, device="cpu")

    def begin(self, spec: Any, names: Sequence[str] | None = None) -> Balancer:
        balancer = BALANCERS.build(spec)
        balancer.begin(self.model, names or list(self.model.tasks))
        return balancer

    def losses(self, names: Sequence[str], cut: Cut | None = None) -> dict[str, torch.Tensor]:
        losses, _ = self.model.calculate_loss(self.X, {name: self.Y[name] for name in names}, cut)
        return {name: losses[name] for name in names}

    def cut(self, balancer: Balancer) -> Cut | None:
        return Cut() if balancer.cuts else None

    def backward(self, balancer: Balancer, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the gradients of a step, by parameter."""
        cut = self.cut(balancer)
        self.model.zero_grad()
        balancer.backward(self.losses(names, cut), cut, unscaled)
        return self.gradients()

    def gradients(self) -> dict[str, torch.Tensor]:
        return {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def step(self, balancer: Balancer, names: Sequence[str], lr: float = 0.05) -> dict[str, torch.Tensor]:
        """Go one step against the gradient, as a trainer does, and return the gradient."""
        gradients = self.backward(balancer, names)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(lr * parameter.grad)
            if balancer.wants_losses_again:
                balancer.after_step(lambda: self.losses(names))
        return gradients


def shared(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if "trunk" in name])


def squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.squeeze(1) - labels).square().mean()


def combined(spec: Any, jacobian: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return what a balancer makes of given gradients ``[m, n]`` of one shared parameter, and its weights."""
    theta = nn.Linear(1, jacobian.shape[1], bias=False).to(jacobian.dtype)
    nn.init.ones_(theta.weight)
    tasks: list[Task] = []
    for i, row in enumerate(jacobian):
        head = nn.Linear(len(row), 1, bias=False).to(jacobian.dtype)
        head.weight.data = row[None].clone()
        head.requires_grad_(False)
        path = [Operation("theta", [("_input_", "x")]), Operation(f"h{i}", ["theta"])]
        tasks.append(Task(f"t{i}", {"theta": theta, f"h{i}": head}, path, loss_func=first_output))
    model = MultitaskClassifier(tasks, device="cpu")
    balancer = BALANCERS.build(spec)
    balancer.begin(model, list(model.tasks))
    X = {"x": torch.ones(1, 1, dtype=jacobian.dtype)}
    cut = Cut() if balancer.cuts else None
    losses, _ = model.calculate_loss(X, dict.fromkeys(model.tasks, torch.zeros(1)), cut)
    torch.manual_seed(0)
    balancer.backward(losses, cut, unscaled)
    gradient = model.module_pool["theta"].weight.grad
    assert isinstance(gradient, torch.Tensor)
    return gradient.flatten(), balancer.weights()


def first_output(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return outputs.sum()
