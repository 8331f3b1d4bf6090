"""The module that makes a trained task's probabilities as sure as they are right.

Shapes: B batch, K classes or outputs, … any further dimensions.
"""

from __future__ import annotations

import torch
from torch import nn


class Temperature(nn.Module):
    """Divides logits by temperatures that no training changes (Guo et al., 2017,
    https://arxiv.org/abs/1706.04599).

    They start at 1, and are fitted when all else is trained: :func:`mtl_core.calibrate` does that. Above 1, the
    probabilities become less sure, below 1 surer.

    Args:
        n_classes: How many temperatures: 1 for all logits together, or one for each class or output, along the first
            dimension after the batch's; default 1.
    """

    temperature: torch.Tensor

    def __init__(self, n_classes: int = 1) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("temperature", torch.ones(n_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x [B, …]``, or ``[B, K, …]`` where each class has a temperature, divided by it.

        Raises:
            ValueError: If there is not one number for each temperature.
        """
        if self.n_classes == 1:
            return x / self.temperature
        if x.ndim < 2 or x.shape[1] != self.n_classes:
            raise ValueError(f"Temperature works on [batch, {self.n_classes}, …], not {list(x.shape)}")
        return x / self.temperature.view(-1, *[1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"n_classes={self.n_classes}"
