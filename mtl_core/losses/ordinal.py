"""Losses of classes that have an order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.data import is_given
from mtl_core.losses.loss import LabelForm, Loss, mean_of


class Corn(Loss):
    """Conditional ordinal regression: logits ``[n, k - 1]`` against classes ``[n]`` that rise from 0 to ``k - 1``.

    Logit ``j`` is of the probability that the class is above ``j``, given that it is above ``j - 1``; only labels that
    high count for it. Their products, which the output function ``ordinal`` makes, never rise with ``j``.

    Source: Shi, Cao and Raschka, Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
    Probabilities, 2021 (https://arxiv.org/abs/2111.08851).
    """

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean, in nats, over all logits that the labels given count for."""
        if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
            raise ValueError("outputs must be [n, k - 1] for k classes, and labels [n]")
        above = labels.unsqueeze(1) > torch.arange(outputs.shape[1], device=labels.device)
        counts = torch.cat([torch.ones_like(above[:, :1]), above[:, :-1]], dim=1)
        losses = F.binary_cross_entropy_with_logits(outputs, above.to(outputs.dtype), reduction="none")
        return mean_of(losses, counts & is_given(labels).unsqueeze(1), weights)

    def classes(self, output_shape: Sequence[int]) -> int | None:
        """Return one class more than there are logits."""
        return output_shape[0] + 1 if output_shape else None

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return one class."""
        return LabelForm([], torch.int64)
