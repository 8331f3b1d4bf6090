"""Loss functions by name: ``(outputs, labels) → scalar``, averaged over the labels given.

Examples without any label are left out before a loss is called; of an example with several labels, those that
are -1 (or NaN) do not count.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.catalogue import Catalogue
from mtl_core.data import UNLABELLED, is_given


class Loss:
    """A loss ``(outputs [n, …], labels [n, …]) → scalar``; every example has a label."""

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss averaged over the labels that are given.

        Raises:
            ValueError: If the shapes do not match.
        """
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy of logits ``[n, k]`` against integer classes ``[n]`` or float distributions ``[n, k]``.

    Logits ``[n, k, d]`` meet one class for each position, ``[n, d]``.

    Args:
        weight: One weight a class, ``k`` of them; default: all 1.
        label_smoothing: Share of each target spread over all classes; default 0, range [0, 1].
    """

    def __init__(self, weight: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError("label_smoothing must be between 0 and 1")
        if weight is not None and min(weight, default=-1.0) < 0:
            raise ValueError("weight must hold one number of at least 0 for each class")
        self.weight = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.label_smoothing = label_smoothing

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the labels given, in nats; with class weights, the weighted mean."""
        weight = None if self.weight is None else self.weight.to(outputs.device)
        targets = labels if labels.is_floating_point() else labels.long()
        return F.cross_entropy(
            outputs, targets, weight=weight, label_smoothing=self.label_smoothing, ignore_index=UNLABELLED
        )


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of logits ``[n]`` or ``[n, k]`` against 0/1 labels ``[n]`` or ``[n, k]``.

    Args:
        pos_weight: Factor on the loss of positive labels; default 1.
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        if pos_weight <= 0:
            raise ValueError("pos_weight must be above 0")
        self.pos_weight = pos_weight

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the labels given, in nats."""
        pos_weight = torch.tensor(self.pos_weight, device=outputs.device)
        targets, given = _aligned(outputs, labels)
        losses = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction="none")
        return _mean(losses, given)


class MeanSquaredError(Loss):
    """Mean squared error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.mse_loss(outputs, targets, reduction="none"), given)


class MeanAbsoluteError(Loss):
    """Mean absolute error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.l1_loss(outputs, targets, reduction="none"), given)


class Huber(Loss):
    """Squared error near zero, absolute error beyond ``delta`` (Huber, 1964).

    Args:
        delta: Where the two meet; default 1.
    """

    def __init__(self, delta: float = 1.0) -> None:
        if delta <= 0:
            raise ValueError("delta must be above 0")
        self.delta = delta

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.huber_loss(outputs, targets, delta=self.delta, reduction="none"), given)


def _aligned(outputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels in the outputs' dtype and shape, and which of them are given.

    Labels ``[n]`` meet outputs ``[n, 1]``; whatever else broadcasting would pair up wrongly is refused.
    """
    if labels.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] == 1:
        labels = labels.unsqueeze(1)
    if labels.shape != outputs.shape:
        raise ValueError("outputs and labels must have one shape")
    given = is_given(labels)
    return torch.where(given, labels, 0).to(outputs.dtype), given


def _mean(losses: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return torch.where(given, losses, 0).sum() / given.sum()


LOSSES: Catalogue[Loss] = Catalogue(
    "loss",
    {
        "cross_entropy": CrossEntropy,
        "binary_cross_entropy": BinaryCrossEntropy,
        "mse": MeanSquaredError,
        "mae": MeanAbsoluteError,
        "huber": Huber,
    },
)
