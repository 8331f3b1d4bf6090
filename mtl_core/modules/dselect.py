"""The gate that comes to choose a few experts, DSelect-k (Hazimeh et al., 2021, https://arxiv.org/abs/2106.03760).

Shapes: B batch, E experts, D features of the gate's input, K selectors, … what one expert answers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from mtl_core.modules.experts import mix
from mtl_core.modules.sized import OpenSize, Sized

_SELECTOR_BOUND = 0.05


class DSelectK(Sized):
    """Mixes at most k experts, which it chooses for each example while it stays smooth (Hazimeh et al., 2021,
    https://arxiv.org/abs/2106.03760).

    Each of k selectors tells an expert by the bits of its binary code. A bit is a smooth step of a linear map of the
    input: between 0 and 1 at first, so that the selector spreads over experts and all of them learn, and exactly 0
    or 1 once the map is ``gamma / 2`` from 0. A softmax weighs the selectors. Where the number of experts is no power
    of two, some experts have a code that is one bit shorter, so that every code is an expert's and the weights sum to
    1; the paper instead penalises the codes that are nobody's.

    While training, the selectors' entropy, summed over selectors and averaged over the batch, is a penalty that
    drives them to choose. Its gradient joins in where that of the loss comes by, so that no loss needs to know of it;
    neither the weight of the task's loss nor the scale that float16 training puts on it apply to the penalty.

    Args:
        in_features: Size of the first input.
        n_experts: How many experts the other inputs have together.
        k: How many of them an example uses at most.
        gamma: Width of the smooth step; the smaller, the sooner a bit is settled.
        entropy_weight: Weight of the penalty; 0: none.

    Raises:
        ValueError: If ``k`` is larger than ``n_experts``.

    Example:
        >>> gate = DSelectK(in_features=3, n_experts=5, k=2)
        >>> gate(torch.rand(7, 3), torch.rand(7, 5, 4)).shape
        torch.Size([7, 4])
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, in_features: int, n_experts: int, k: int, gamma: float = 1.0, entropy_weight: float = 1e-6
    ) -> None:
        super().__init__(in_features)
        if k > n_experts:
            raise ValueError(f"k is {k}, but there are {n_experts} experts to choose from")
        self.n_experts = n_experts
        self.k = k
        self.gamma = gamma
        self.entropy_weight = entropy_weight
        self.make_parameters()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Sized.shapes`: a row for each selector's weight, then its bits, selector by selector."""
        n_rows = self.k * (1 + self._n_bits)
        return {"weight": (n_rows, self.in_features), "bias": (n_rows,)}

    def reset_parameters(self) -> None:
        """Draw small values: those of the bits so small that no bit is settled yet."""
        bits = self.gamma / 100
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter[: self.k], -_SELECTOR_BOUND, _SELECTOR_BOUND)
            nn.init.uniform_(parameter[self.k :], -bits, bits)

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weight of each expert, ``[B, E]``, for ``x [B, D]``."""
        self.check_input(x, ndim=2)
        mapped = functional.linear(x, self.weight, self.bias)
        selectors = mapped[:, : self.k].softmax(dim=-1)
        chosen = self._choose(mapped[:, self.k :].reshape(x.shape[0], self.k, self._n_bits))
        weights = torch.einsum("bk,bke->be", selectors, chosen)
        if self.training and self.entropy_weight:
            return cast("Any", _Penalty).apply(weights, self.entropy_weight * _entropy(chosen))
        return weights

    def forward(self, x: torch.Tensor, *experts: torch.Tensor) -> torch.Tensor:
        """Return the mixture ``[B, …]`` of the chosen experts.

        Args:
            x: ``[B, D]``.
            experts: One tensor ``[B, E_i, …]`` or more, as :class:`~mtl_core.modules.experts.Experts` answers them.

        Raises:
            ValueError: If the experts are not as many as the gate weighs, or of several shapes.
        """
        return mix(self.weigh(x), experts)

    @property
    def _n_bits(self) -> int:
        return (self.n_experts - 1).bit_length()

    def _choose(self, codes: torch.Tensor) -> torch.Tensor:
        """Return how likely each selector's code, ``[B, K, bits]`` before the smooth step, tells each expert."""
        t = (codes / self.gamma).clamp(-0.5, 0.5)
        bits = -2 * t**3 + 1.5 * t + 0.5
        likely = codes.new_ones((*codes.shape[:-1], 1))
        for i in range(self._n_bits):
            bit = bits[..., i : i + 1]
            # A further bit tells two experts apart; the last one only as many pairs as are still needed.
            n_pairs = min(likely.shape[-1], self.n_experts - likely.shape[-1])
            pairs, settled = likely[..., :n_pairs], likely[..., n_pairs:]
            likely = torch.cat([pairs * (1 - bit), pairs * bit, settled], dim=-1)
        return likely


class LazyDSelectK(OpenSize, DSelectK):
    """A DSelectK that takes the size of its first input from the data.

    Args:
        n_experts: How many experts the other inputs have together.
        k: How many of them an example uses at most.
        gamma: Width of the smooth step; the smaller, the sooner a bit is settled.
        entropy_weight: Weight of the penalty on the selectors' entropy; 0: none.
    """

    cls_to_become = DSelectK

    def __init__(self, n_experts: int, k: int, gamma: float = 1.0, entropy_weight: float = 1e-6) -> None:
        super().__init__(n_experts, k, gamma, entropy_weight)


def _entropy(chosen: torch.Tensor) -> torch.Tensor:
    """Return the entropy of ``[B, K, E]`` over experts, summed over selectors, the batch's mean."""
    # The logarithm of 0 has no gradient.
    logs = chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log()
    return -(chosen * logs).sum(dim=(1, 2)).mean()


class _Penalty(torch.autograd.Function):
    """Answers its first input as it is; on the way back, its second input gets the gradient of a loss of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (grad,) = grad_outputs
        # Where gradients of several tasks are taken at once, those of tasks that do not use the gate come by as zeros,
        # and the penalty is no part of theirs.
        return grad, (grad != 0).any().to(grad.dtype)
