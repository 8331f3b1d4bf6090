"""Mixtures of experts: several copies of one stack side by side, and gates that mix what they answer.

Shapes: B batch, E experts, D features of the gate's input, … what one expert answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.sized import OpenSize, Sized


class Experts(nn.Module):
    """Applies several modules to one input, side by side.

    Args:
        experts: The modules; what they answer must be of one shape.

    Example:
        >>> Experts(nn.Linear(3, 2) for _ in range(4))(torch.zeros(5, 3)).shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what each expert makes of ``x [B, …]``, as ``[B, E, …]``."""
        return torch.stack([expert(x) for expert in self.experts], dim=1)


class Gate(Sized):
    """Mixes experts by weights that it tells from its first input (MMoE's gate; Ma et al., 2018,
    https://doi.org/10.1145/3219819.3220007).

    The weights are the softmax of a linear map without bias.

    Args:
        in_features: Size of the first input.
        n_experts: How many experts the other inputs have together.
    """

    weight: nn.Parameter

    def __init__(self, in_features: int, n_experts: int) -> None:
        super().__init__(in_features)
        self.n_experts = n_experts
        self.make_parameters()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Sized.shapes`."""
        return {"weight": (self.n_experts, self.in_features)}

    def reset_parameters(self) -> None:
        """Draw the weights as torch's Linear does."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weight of each expert, ``[B, E]``, for ``x [B, D]``."""
        self.check_input(x, ndim=2)
        return functional.linear(x, self.weight).softmax(dim=-1)

    def forward(self, x: torch.Tensor, *experts: torch.Tensor) -> torch.Tensor:
        """Return the mixture ``[B, …]`` of all experts.

        Args:
            x: ``[B, D]``.
            experts: One tensor ``[B, E_i, …]`` or more, as :class:`Experts` answers them.

        Raises:
            ValueError: If the experts are not as many as the gate weighs, or of several shapes.
        """
        return mix(self.weigh(x), experts)


class LazyGate(OpenSize, Gate):
    """A Gate that takes the size of its first input from the data.

    Args:
        n_experts: How many experts the other inputs have together.
    """

    cls_to_become = Gate

    def __init__(self, n_experts: int) -> None:
        super().__init__(n_experts)


def mix(weights: torch.Tensor, experts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the sum of experts by their weights.

    Args:
        weights: ``[B, E]``.
        experts: Tensors ``[B, E_i, …]``, E in all.

    Returns:
        ``[B, …]``.

    Raises:
        ValueError: If the experts are not as many as the weights, or of several shapes.
    """
    shapes = [list(answers.shape[2:]) for answers in experts]
    if any(answers.ndim < 2 for answers in experts) or any(shape != shapes[0] for shape in shapes):
        answered = " and ".join(str(list(answers.shape[1:])) for answers in experts)
        raise ValueError(f"a gate reads experts [experts, …] of one shape, not {answered}")
    if (n := sum(answers.shape[1] for answers in experts)) != weights.shape[1]:
        raise ValueError(f"n_experts is {weights.shape[1]}, but the inputs have {n} experts")
    return torch.einsum("be,be...->b...", weights, torch.cat(experts, dim=1))
