"""Modules through which one task hears of another.

Shapes: B batch, D features, T tasks, … any further dimensions.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.sized import OpenSize, Sized


class CrossStitch(nn.Module):
    """Gives each task a learnt mixture of all tasks' representations (Misra et al., 2016,
    https://arxiv.org/abs/1604.03539).

    Args:
        n_tasks: How many tasks, two at least.
        own: The weight that a task's own representation starts with, 0 to 1; the others share the rest equally.
    """

    def __init__(self, n_tasks: int, own: float = 0.9) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.own = own
        self.weight = nn.Parameter(torch.empty(n_tasks, n_tasks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give each task ``own`` of itself and the rest of the others; nothing is drawn."""
        with torch.no_grad():
            self.weight.fill_((1 - self.own) / (self.n_tasks - 1))
            self.weight.fill_diagonal_(self.own)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the mixture ``[B, …]`` of each of T tasks, for their representations ``[B, …]`` of one shape.

        Raises:
            ValueError: If the inputs are not one for each task, or of several shapes.
        """
        shapes = [list(x.shape[1:]) for x in inputs]
        if len(inputs) != self.n_tasks or any(shape != shapes[0] for shape in shapes):
            given = " and ".join(map(str, shapes))
            raise ValueError(f"CrossStitch needs {self.n_tasks} inputs of one shape, not {given}")
        return torch.einsum("ts,s...->t...", self.weight, torch.stack(inputs)).unbind(0)

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"n_tasks={self.n_tasks}, own={self.own}"


class InformationTransfer(Sized):
    """Attends to what the previous task passes on and to the task's own representation (AITM; Xi et al., 2021,
    https://arxiv.org/abs/2105.08489).

    Linear maps without bias, the same for both inputs, make queries, keys and values. An input's weight is the softmax,
    over the two, of its query times its key, divided by the square root of the size.

    Args:
        features: Size of both inputs.
    """

    weight: nn.Parameter

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.make_parameters()

    @property
    def features(self) -> int:
        """Size of both inputs."""
        return self.in_features

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Sized.shapes`: the maps to queries, keys and values, one below the other."""
        return {"weight": (3 * self.features, self.features)}

    def reset_parameters(self) -> None:
        """Draw the weights as torch's Linear does."""
        bound = 1 / math.sqrt(self.features)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, previous: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return ``[B, D]`` for what the previous task passes on and the task's own, both ``[B, D]``.

        Raises:
            ValueError: If an input is not of the size that the module was built for.
        """
        self.check_input(previous, ndim=2)
        self.check_input(own, ndim=2)
        both = torch.stack((previous, own), dim=1)
        queries, keys, values = functional.linear(both, self.weight).chunk(3, dim=-1)
        scores = (queries * keys).sum(dim=-1) / math.sqrt(self.features)
        return torch.einsum("bi,bid->bd", scores.softmax(dim=-1), values)


class LazyInformationTransfer(OpenSize, InformationTransfer):
    """An InformationTransfer that takes the size of its inputs from the data."""

    cls_to_become = InformationTransfer

    def __init__(self) -> None:
        super().__init__()


class JointProbability(nn.Module):
    """Answers the logit of a product of probabilities, each given by its logit (ESMM; Ma et al., 2018,
    https://arxiv.org/abs/1804.07931).

    It is computed from the logits alone, without passing through probabilities, so it holds its precision where they
    are next to 0 or 1.

    Example:
        >>> JointProbability()(torch.zeros(1, 1), torch.zeros(1, 1)).sigmoid()
        tensor([[0.2500]])
    """

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        """Return the logit ``[B, …]`` of the product for two or more logits ``[B, …]`` of one shape.

        Raises:
            ValueError: If there is one input only, or they are of several shapes.
        """
        shapes = [list(z.shape[1:]) for z in logits]
        if len(logits) < 2 or any(shape != shapes[0] for shape in shapes):
            given = " and ".join(map(str, shapes))
            raise ValueError(f"JointProbability needs two or more logits of one shape, not {given}")
        return functools.reduce(_joint, logits)


def _joint(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # 1/p is 1 + exp(-a), and the product's odds against are (1/p)(1/q) - 1.
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)
