"""What a loss is, and what several of them share: labels that are missing, examples that have weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from mtl_core.data import is_given


class LabelForm(NamedTuple):
    """What one example's label looks like.

    Attributes:
        shape: Its shape, ``[]`` for a single number.
        dtype: float32, or int64 where it is a class.
    """

    shape: list[int]
    dtype: torch.dtype


class Loss:
    """A loss ``(outputs [n, …], labels [n, …], weights [n]) → scalar``; every example has a label.

    Attributes:
        reduction: ``"mean"`` over the labels given, or their ``"sum"``.
        of_any_scale: Whether labels may be shifted and stretched, outputs with them, and nothing else be different.
    """

    reduction: Literal["mean", "sum"] = "mean"
    of_any_scale: bool = False

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

    def classes(self, output_shape: Sequence[int]) -> int | None:
        """Return how many classes there are labels of, numbered from 0; None where labels are values.

        Args:
            output_shape: Shape of one example's outputs.
        """
        return None

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return the form of a label that suits outputs; others may suit them too.

        Args:
            output_shape: Shape of one example's outputs.

        Raises:
            ValueError: If no label suits them.
        """
        return LabelForm(list(output_shape), torch.float32)


def aligned(outputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels in the outputs' dtype and shape, and which of them are given.

    Labels ``[n]`` meet outputs ``[n, 1]``; whatever else broadcasting would pair up wrongly is refused.

    Raises:
        ValueError: If the shapes do not match.
    """
    if labels.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] == 1:
        labels = labels.unsqueeze(1)
    if labels.shape != outputs.shape:
        raise ValueError("outputs and labels must have one shape")
    given = is_given(labels)
    return torch.where(given, labels, 0).to(outputs.dtype), given


def mean_of(losses: torch.Tensor, given: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Average losses ``[n, …]`` over the labels given, as booleans ``[n, …]``, weighted by the examples ``[n]``."""
    losses = torch.where(given, losses, 0)
    return losses.sum() / given.sum() if weights is None else weighted_mean(losses, given, weights)


def per_label(weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return weights of examples ``[n]`` so that they meet losses ``[n, …]``."""
    return weights.to(losses).reshape(-1, *[1] * (losses.ndim - 1))


def weighted_mean(losses: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average losses ``[n, …]``, weighted by the examples ``[n]``; ``counts [n, …]`` is what each weighs by itself."""
    weights = per_label(weights, losses)
    total = (counts * weights).sum()
    # Where nothing weighs anything the sum is 0, and so is its gradient.
    return (losses * weights).sum() / torch.where(total > 0, total, 1)
