"""From a sequence to one vector, by attention.

Shapes: B batch, L steps, D features, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.sized import OpenSize, Sized


class AttentionPooling(Sized):
    """Averages a sequence's steps by learnt attention (Yang et al., 2016, https://doi.org/10.18653/v1/N16-1174; several
    heads: Lin et al., 2017, https://arxiv.org/abs/1703.03130).

    Each head has a learnt query; a step's weight is the softmax, over the steps, of its product with the query.

    Args:
        in_features: Size of a step.
        heads: How many weighted averages are taken, side by side.
        padding_idx: The token index that fills up short sequences: where a second input tells the tokens, these steps
            get no weight, and a sequence of nothing else is pooled to 0; default: none.

    Example:
        >>> AttentionPooling(in_features=4, heads=2)(torch.rand(5, 7, 4)).shape
        torch.Size([5, 8])
    """

    queries: nn.Parameter

    def __init__(self, in_features: int, heads: int = 1, padding_idx: int | None = None) -> None:
        super().__init__(in_features)
        self.heads = heads
        self.padding_idx = padding_idx
        self.make_parameters()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Sized.shapes`."""
        return {"queries": (self.heads, self.in_features)}

    def reset_parameters(self) -> None:
        """Draw the queries as torch's Linear does its weights."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.queries, -bound, bound)

    def forward(self, x: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return the averages, one head's after the other's, ``[B, H * D]``.

        Args:
            x: The sequence, ``[B, L, D]``.
            ids: The token indices that the sequence was embedded from, ``[B, L]``, int64; needed where ``padding_idx``
                is given.

        Raises:
            ValueError: If the sequence is of another size, or the indices are missing or of another shape.
        """
        self.check_input(x, ndim=3)
        scores = functional.linear(x, self.queries)
        if ids is not None and ids.shape != x.shape[:2]:
            raise ValueError(f"token indices of shape {list(ids.shape)} do not suit steps {list(x.shape)}")
        if self.padding_idx is None:
            weights = scores.softmax(dim=1)
        elif ids is None:
            raise ValueError(
                "AttentionPooling has a padding_idx, and so needs the token indices as a second input"
            )
        else:
            padding = (ids == self.padding_idx).unsqueeze(-1)
            # The least finite number: where all steps are padding, minus infinity would make the softmax NaN.
            scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=1).masked_fill(padding, 0)
        return torch.einsum("blh,bld->bhd", weights, x).flatten(1)


class LazyAttentionPooling(OpenSize, AttentionPooling):
    """An AttentionPooling that takes the size of a step from the data.

    Args:
        heads: How many weighted averages are taken, side by side.
        padding_idx: The token index that fills up short sequences; default: none.
    """

    cls_to_become = AttentionPooling

    def __init__(self, heads: int = 1, padding_idx: int | None = None) -> None:
        super().__init__(heads, padding_idx)
