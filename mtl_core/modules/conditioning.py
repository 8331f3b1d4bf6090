"""Modules that fit shared layers to a task, or to what else an example is about.

Shapes: B batch, D features, C features of the condition, … any further dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.sized import OpenSize, Sized


class FiLM(nn.Module):
    """Scales and shifts each feature: by learnt numbers, or by what a second input says (Perez et al., 2018,
    https://arxiv.org/abs/1709.07871).

    With one input it is what a task has for itself of a layer that it shares. With a condition, scale and shift are
    linear in that. Either way it starts as the identity.

    Args:
        features: Size of the first input's last dimension.
        condition_features: Size of the second input; default: there is none.
    """

    def __init__(self, features: int, condition_features: int | None = None) -> None:
        super().__init__()
        self.features = features
        self.condition_features = condition_features
        self.gamma = nn.Parameter(torch.empty(features))
        self.beta = nn.Parameter(torch.empty(features))
        self.weight = (
            nn.Parameter(torch.empty(2 * features, condition_features)) if condition_features else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the module the identity; nothing is drawn."""
        nn.init.ones_(self.gamma)
        nn.init.zeros_(self.beta)
        if self.weight is not None:
            nn.init.zeros_(self.weight)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``x [B, …, D]`` scaled and shifted, by ``condition [B, C]`` where the module was built for one.

        Raises:
            ValueError: If an input is of another size, or the condition is missing or not expected.
        """
        if x.ndim < 2 or x.shape[-1] != self.features:
            raise ValueError(f"FiLM works on [batch, …, {self.features}], not {list(x.shape)}")
        if (condition is None) != (self.weight is None):
            if condition is None:
                raise ValueError("FiLM has condition_features, and so needs a second input, the condition")
            raise ValueError("FiLM reads a second input only where condition_features gives its size")
        if condition is None or self.weight is None:
            return x * self.gamma + self.beta
        if condition.ndim != 2 or condition.shape[1] != self.condition_features:
            raise ValueError(
                f"the condition is [batch, {self.condition_features}], not {list(condition.shape)}"
            )
        bias = torch.cat((self.gamma, self.beta))
        told = functional.linear(condition, self.weight, bias)
        gamma, beta = told.view(-1, *[1] * (x.ndim - 2), 2 * self.features).chunk(2, dim=-1)
        return x * gamma + beta

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"features={self.features}, condition_features={self.condition_features}"


class TaskEmbedding(nn.Module):
    """Answers one learnt vector for every example, such as the condition by which a task steers layers that it shares.

    Args:
        features: Numbers of the vector.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vector from a normal distribution, as torch's Embedding does."""
        nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the vector for each of the examples of ``x [B, …]``, of which nothing else matters: ``[B, D]``."""
        return self.weight.expand(x.shape[0], -1)

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"features={self.weight.shape[0]}"


class Adapter(Sized):
    """Adds to its input what a small bottleneck makes of it (Houlsby et al., 2019,
    https://arxiv.org/abs/1902.00751).

    The bottleneck is a linear layer, GELU and a linear layer that starts at 0, so the module starts as the identity.

    Args:
        in_features: Size of the input's last dimension.
        bottleneck: Size between the two layers.
    """

    down_weight: nn.Parameter
    down_bias: nn.Parameter
    up_weight: nn.Parameter
    up_bias: nn.Parameter

    def __init__(self, in_features: int, bottleneck: int) -> None:
        super().__init__(in_features)
        self.bottleneck = bottleneck
        self.make_parameters()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Sized.shapes`."""
        return {
            "down_weight": (self.bottleneck, self.in_features),
            "down_bias": (self.bottleneck,),
            "up_weight": (self.in_features, self.bottleneck),
            "up_bias": (self.in_features,),
        }

    def reset_parameters(self) -> None:
        """Draw the first layer's numbers as torch's Linear does; the second's are 0."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.down_weight, -bound, bound)
        nn.init.uniform_(self.down_bias, -bound, bound)
        nn.init.zeros_(self.up_weight)
        nn.init.zeros_(self.up_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x [B, …, D]`` with what the bottleneck makes of it added.

        Raises:
            ValueError: If the input's last dimension is of another size.
        """
        self.check_input(x)
        within = functional.gelu(functional.linear(x, self.down_weight, self.down_bias))
        return x + functional.linear(within, self.up_weight, self.up_bias)


class LazyAdapter(OpenSize, Adapter):
    """An Adapter that takes the size of its input from the data.

    Args:
        bottleneck: Size between the two layers.
    """

    cls_to_become = Adapter

    def __init__(self, bottleneck: int) -> None:
        super().__init__(bottleneck)
