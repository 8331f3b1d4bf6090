"""Loss functions by name: ``(outputs, labels, weights) → scalar``, averaged over the labels given.

Examples without any label are left out before a loss is called; of an example with several labels, those that
are -1 (or NaN) do not count. With example weights the average is ``sum(w · loss) / sum(w)``, so that an example of
weight 2 counts as two, and it is 0 where all weights are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.catalogue import Catalogue
from mtl_core.data import UNLABELLED, is_given
from mtl_core.errors import TaskloomError


class Loss:
    """A loss ``(outputs [n, …], labels [n, …], weights [n]) → scalar``; every example has a label.

    Attributes:
        reduction: ``"mean"`` over the labels given, or their ``"sum"``.
    """

    reduction: Literal["mean", "sum"] = "mean"

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss averaged, or summed, over the labels that are given.

        Args:
            outputs: ``[n, …]``.
            labels: ``[n, …]``.
            weights: One for each example, ``[n]``, float32 and at least 0; default: all 1.

        Raises:
            ValueError: If the shapes do not match.
        """
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy of logits ``[n, k]`` against integer classes ``[n]`` or float distributions ``[n, k]``.

    Logits ``[n, k, d]`` meet one class for each position, ``[n, d]``. A class's weight multiplies its share of the
    loss. As in torch, the mean over classes divides by their weights, that over distributions by ``n``: the latter is
    what :func:`cross_entropy_with_probs` gives.

    Args:
        weight: One weight a class, ``k`` of them; default: all 1.
        label_smoothing: Share of each target spread over all classes; default 0, range [0, 1].
        reduction: ``"mean"`` over the labels given, or their ``"sum"``, of which a batch with few labels for a task has
            little; default ``"mean"``.
    """

    def __init__(
        self,
        weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError("label_smoothing must be between 0 and 1")
        if weight is not None and min(weight, default=-1.0) < 0:
            raise ValueError("weight must hold one number of at least 0 for each class")
        self.weight = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean or sum over the labels given, in nats; with class weights, the weighted one.

        A label's weight is the product of its example's and, as in torch, its class's.
        """
        class_weight = None if self.weight is None else self.weight.to(outputs.device)
        targets = labels if labels.is_floating_point() else labels.long()

        def cross_entropy(reduction: str) -> torch.Tensor:
            return F.cross_entropy(
                *(outputs, targets, class_weight),
                label_smoothing=self.label_smoothing,
                ignore_index=UNLABELLED,
                reduction=reduction,
            )

        if weights is None:
            return cross_entropy(self.reduction)
        losses = cross_entropy("none")
        if self.reduction == "sum":
            return (losses * _per_label(weights, losses)).sum()
        counts = torch.ones_like(losses)
        if not targets.is_floating_point():
            given = targets != UNLABELLED
            counts = counts * given if class_weight is None else class_weight[targets.where(given, 0)] * given
        return _weighted_mean(losses, counts, weights)


def cross_entropy_with_probs(
    input: torch.Tensor,  # noqa: A002 The name that torch's cross_entropy has for it.
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> torch.Tensor:
    """Return the cross-entropy of logits against distributions over the classes, in nats.

    Args:
        input: Logits, floating ``[n, k]``.
        target: Shares of the classes, ``[n, k]``; they are taken as they are, whatever their sum.
        weight: Factor on each class's share of the loss, ``[k]``; default: all 1. The mean is not divided by it.
        reduction: ``"mean"`` over the ``n`` examples, their ``"sum"``, or ``"none"``; default ``"mean"``.

    Returns:
        A scalar, or ``[n]`` without reduction.

    Raises:
        TaskloomError: If shapes do not match or the reduction is unknown.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> round(cross_entropy_with_probs(logits, target).item(), 4)
        1.1269
    """
    if input.ndim != 2 or target.shape != input.shape:
        raise TaskloomError(
            f"logits and target should have one shape [n, k], not {list(input.shape)} and {list(target.shape)}"
        )
    shares = target.to(input.dtype)
    losses = -(F.log_softmax(input, dim=1) * (shares if weight is None else shares * weight)).sum(dim=1)
    match reduction:
        case "none":
            return losses
        case "mean":
            return losses.mean()
        case "sum":
            return losses.sum()
        case _:
            raise TaskloomError(f"reduction '{reduction}' is unknown; known: mean, sum, none")


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of logits ``[n]`` or ``[n, k]`` against 0/1 labels ``[n]`` or ``[n, k]``.

    Args:
        pos_weight: Factor on the loss of positive labels; default 1.
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        if pos_weight <= 0:
            raise ValueError("pos_weight must be above 0")
        self.pos_weight = pos_weight

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given, in nats."""
        pos_weight = torch.tensor(self.pos_weight, device=outputs.device)
        targets, given = _aligned(outputs, labels)
        losses = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction="none")
        return _mean(losses, given, weights)


class MeanSquaredError(Loss):
    """Mean squared error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.mse_loss(outputs, targets, reduction="none"), given, weights)


class MeanAbsoluteError(Loss):
    """Mean absolute error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.l1_loss(outputs, targets, reduction="none"), given, weights)


class Huber(Loss):
    """Squared error near zero, absolute error beyond ``delta`` (Huber, 1964).

    Args:
        delta: Where the two meet; default 1.
    """

    def __init__(self, delta: float = 1.0) -> None:
        if delta <= 0:
            raise ValueError("delta must be above 0")
        self.delta = delta

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = _aligned(outputs, labels)
        return _mean(F.huber_loss(outputs, targets, delta=self.delta, reduction="none"), given, weights)


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


def _mean(losses: torch.Tensor, given: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    losses = torch.where(given, losses, 0)
    return losses.sum() / given.sum() if weights is None else _weighted_mean(losses, given, weights)


def _per_label(weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return weights of examples ``[n]`` so that they meet losses ``[n, …]``."""
    return weights.to(losses).reshape(-1, *[1] * (losses.ndim - 1))


def _weighted_mean(losses: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average losses ``[n, …]``, weighted by the examples ``[n]``; ``counts [n, …]`` is what each weighs by itself."""
    weights = _per_label(weights, losses)
    total = (counts * weights).sum()
    # Where nothing weighs anything the sum is 0, and so is its gradient.
    return (losses * weights).sum() / torch.where(total > 0, total, 1)


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
