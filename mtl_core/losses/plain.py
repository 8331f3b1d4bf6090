"""The three most common losses in their plain form, which those of several tasks can be computed together in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mtl_core.losses.binary import BinaryCrossEntropy
from mtl_core.losses.classes import CrossEntropy
from mtl_core.losses.values import MeanSquaredError


@dataclass(frozen=True)
class LossKind:
    """A loss of the three most common ones, without weights of classes or smoothed labels.

    Attributes:
        name: Which one.
        reduction: ``"mean"`` over the labels given, or their ``"sum"``.
    """

    name: Literal["cross_entropy", "binary_cross_entropy", "mse"]
    reduction: Literal["mean", "sum"] = "mean"

    @property
    def label_dtype(self) -> torch.dtype:
        """The dtype in which labels are looked at."""
        return torch.int64 if self.name == "cross_entropy" else torch.float32

    def label_shape(self, width: int) -> list[int]:
        """Return the shape of one example's label for ``width`` outputs."""
        return [] if self.name == "cross_entropy" else [width]

    def fits(self, labels: torch.Tensor, width: int) -> bool:
        """Say whether labels ``[n, …]`` are of the form that the loss takes for ``width`` outputs."""
        if self.name == "cross_entropy":
            return labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
        shape = labels.shape[1:]
        return shape == (width,) or (not shape and width == 1)


def kind_of(loss: object) -> LossKind | None:
    """Return which of the common losses a loss function is in its plain form; None where it is none of them."""
    # A class derived from one of these may compute something else.
    kind: type = type(loss)
    if (
        kind is CrossEntropy
        and isinstance(loss, CrossEntropy)
        and loss.weight is None
        and not loss.label_smoothing
    ):
        return LossKind("cross_entropy", loss.reduction)
    if kind is BinaryCrossEntropy and isinstance(loss, BinaryCrossEntropy):
        return None if loss.pos_weight != 1 or loss.label_smoothing else LossKind("binary_cross_entropy")
    return LossKind("mse") if kind is MeanSquaredError else None
