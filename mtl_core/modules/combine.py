"""Modules that join several inputs, or a path with its own input.

Shapes: B batch, … any further dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class Concat(nn.Module):
    """Joins its inputs along one dimension.

    Args:
        dim: The dimension to join along, never the batch's; default: the last.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Join inputs ``[B, …]`` that agree in every dimension but ``dim``."""
        return torch.cat(inputs, dim=self.dim)


class Add(nn.Module):
    """Adds its inputs element by element."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Add inputs ``[B, …]`` of one shape."""
        _same_shape("Add", inputs)
        return torch.stack(inputs).sum(dim=0)


class Multiply(nn.Module):
    """Multiplies its inputs element by element."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Multiply inputs ``[B, …]`` of one shape."""
        _same_shape("Multiply", inputs)
        return math.prod(inputs[1:], start=inputs[0])


class Residual(nn.Module):
    """Adds what its layers make of the input to the input itself (He et al., 2016, https://arxiv.org/abs/1512.03385).

    Args:
        layers: Applied one after the other; they must keep the input's shape.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x + layers(x)``, both ``[B, …]``."""
        transformed = self.layers(x)
        _same_shape("Residual", (x, transformed))
        return x + transformed


def _same_shape(name: str, tensors: tuple[torch.Tensor, ...]) -> None:
    shapes = [list(tensor.shape[1:]) for tensor in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"{name} needs one shape, not {' and '.join(map(str, shapes))}")
