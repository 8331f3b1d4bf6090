"""Losses of one class an example, or a position: cross-entropy and what puts the hard ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.data import UNLABELLED
from mtl_core.errors import TaskloomError
from mtl_core.losses.loss import LabelForm, Loss, mean_of, per_label, weighted_mean


class _ClassLoss(Loss):
    """A loss of logits ``[n, k]`` or ``[n, k, d]``, one for each of ``k`` classes."""

    def classes(self, output_shape: Sequence[int]) -> int | None:
        """Return one class for each logit; None where there is no dimension of them."""
        return output_shape[0] if output_shape else None

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return one class, or one for each position."""
        if not output_shape:
            raise ValueError("a loss of classes needs one number for each class")
        return LabelForm(list(output_shape[1:]), torch.int64)


class CrossEntropy(_ClassLoss):
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
        self.weight = _class_weight(weight)
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
            return (losses * per_label(weights, losses)).sum()
        counts = torch.ones_like(losses)
        if not targets.is_floating_point():
            given = targets != UNLABELLED
            counts = counts * given if class_weight is None else class_weight[targets.where(given, 0)] * given
        return weighted_mean(losses, counts, weights)


class Focal(_ClassLoss):
    """Cross-entropy of logits ``[n, k]`` against classes ``[n]`` that counts less where the class is likely already.

    Logits ``[n, k, d]`` meet one class for each position, ``[n, d]``. A class of probability ``p`` counts
    ``(1 - p) ** gamma`` of its cross-entropy. The mean divides by the weights of the classes, as cross-entropy's does.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017.

    Args:
        gamma: How much likely classes are played down; default 2, at least 0, which is cross-entropy.
        weight: One weight a class, ``k`` of them; default: all 1.
    """

    def __init__(self, gamma: float = 2.0, weight: list[float] | None = None) -> None:
        self.gamma = check_gamma(gamma)
        self.weight = _class_weight(weight)

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given, in nats; with class weights, the weighted one."""
        if labels.shape != outputs.shape[:1] + outputs.shape[2:]:
            raise ValueError("labels must be one class for each example, or each of its positions")
        given = labels != UNLABELLED
        classes = torch.where(given, labels, 0).long()
        log_p = F.log_softmax(outputs, dim=1).gather(1, classes.unsqueeze(1)).squeeze(1)
        losses = -log_p * rarity(-torch.expm1(log_p), self.gamma)
        if self.weight is None:
            return mean_of(losses, given, weights)
        if len(self.weight) != outputs.shape[1]:
            raise ValueError(f"weight holds {len(self.weight)} numbers for {outputs.shape[1]} classes")
        counts = self.weight.to(outputs)[classes] * given
        return weighted_mean(
            losses * counts, counts, outputs.new_ones(len(outputs)) if weights is None else weights
        )


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


def check_gamma(gamma: float) -> float:
    """Return the exponent of a focal loss.

    Raises:
        ValueError: If it is below 0.
    """
    if gamma < 0:
        raise ValueError("gamma must be at least 0")
    return gamma


def rarity(missing: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return how much a label counts in a focal loss, by the probability ``[n, …]`` that it lacks."""
    # A power below 1 has no finite gradient at 0, where an example is certain.
    return missing.clamp(min=torch.finfo(missing.dtype).tiny) ** gamma


def _class_weight(weight: list[float] | None) -> torch.Tensor | None:
    if weight is not None and min(weight, default=-1.0) < 0:
        raise ValueError("weight must hold one number of at least 0 for each class")
    return None if weight is None else torch.tensor(weight, dtype=torch.float32)
