"""Losses of labels that are 0 or 1, one an example or several that do not exclude one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.losses.classes import check_gamma, rarity
from mtl_core.losses.loss import Loss, aligned, mean_of


class _BinaryLoss(Loss):
    """A loss of logits ``[n]`` or ``[n, k]`` against labels of 0 and 1 of the same shape."""

    def __init__(self, pos_weight: float | list[float]) -> None:
        listed = pos_weight if isinstance(pos_weight, list) else [pos_weight]
        if min(listed, default=0.0) <= 0:
            raise ValueError("pos_weight must be above 0, or one such number for each output")
        self.pos_weight = pos_weight

    def classes(self, output_shape: Sequence[int]) -> int | None:
        """Return 2: labels are 0 or 1."""
        return 2

    def _losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of every label, ``[n, …]``, positive ones weighted."""
        if isinstance(self.pos_weight, list) and outputs.shape[1:] != (len(self.pos_weight),):
            raise ValueError(f"pos_weight holds {len(self.pos_weight)} numbers, one for each output")
        pos_weight = outputs.new_tensor(self.pos_weight)
        return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction="none")


class BinaryCrossEntropy(_BinaryLoss):
    """Binary cross-entropy of logits ``[n]`` or ``[n, k]`` against 0/1 labels ``[n]`` or ``[n, k]``.

    Args:
        pos_weight: Factor on the loss of positive labels, above 0; a list has one for each of ``k`` outputs. Default 1.
        label_smoothing: Share of each label spread over 0 and 1; default 0, range [0, 1].
    """

    def __init__(self, pos_weight: float | list[float] = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(pos_weight)
        if not 0 <= label_smoothing <= 1:
            raise ValueError("label_smoothing must be between 0 and 1")
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given, in nats."""
        targets, given = aligned(outputs, labels)
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return mean_of(self._losses(outputs, targets), given, weights)


class BinaryFocal(_BinaryLoss):
    """Binary cross-entropy, as ``binary_cross_entropy``, that counts less where the label is likely already.

    A label of probability ``p`` counts ``(1 - p) ** gamma`` of its cross-entropy. The paper's ``alpha`` is a
    ``pos_weight`` of ``alpha / (1 - alpha)`` but for a factor on all labels.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017.

    Args:
        gamma: How much likely labels are played down; default 2, at least 0, which is binary cross-entropy.
        pos_weight: Factor on the loss of positive labels, above 0; a list has one for each of ``k`` outputs. Default 1.
    """

    def __init__(self, gamma: float = 2.0, pos_weight: float | list[float] = 1.0) -> None:
        super().__init__(pos_weight)
        self.gamma = check_gamma(gamma)

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given, in nats."""
        targets, given = aligned(outputs, labels)
        missing = outputs.sigmoid() * (1 - targets) + (-outputs).sigmoid() * targets
        return mean_of(self._losses(outputs, targets) * rarity(missing, self.gamma), given, weights)
