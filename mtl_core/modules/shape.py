"""Modules that pick from or rearrange the dimensions after the batch's.

Shapes: B batch, … any further dimensions.
"""

from __future__ import annotations

import torch
from torch import nn


class Take(nn.Module):
    """Takes one position along a dimension: the last step of a sequence with ``dim=1, index=-1``.

    Args:
        index: The position; negative counts from the end.
        dim: The dimension that goes away, never the batch's; default 1.
    """

    def __init__(self, index: int, dim: int = 1) -> None:
        super().__init__()
        self.index = index
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x [B, …]`` at the position, without that dimension."""
        return x.select(self.dim, self.index)


class Mean(nn.Module):
    """Averages over a dimension: a sequence's mean with ``dim=1``.

    Args:
        dim: The dimension that goes away, never the batch's; default 1.
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of ``x [B, …]`` over the dimension."""
        return x.mean(dim=self.dim)


class Permute(nn.Module):
    """Reorders the dimensions after the batch's.

    Args:
        dims: The new order, a permutation of 1 … the number of those dimensions.
    """

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        if sorted(dims) != list(range(1, len(dims) + 1)):
            raise ValueError(f"dims must be a permutation of 1 to {len(dims)}")
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x [B, …]`` with its other dimensions reordered."""
        return x.permute(0, *self.dims)
