"""Losses of values: their mean, their median, other quantiles, and the rates of counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.losses.loss import LabelForm, Loss, aligned, mean_of
from mtl_core.quantiles import check_quantiles


class MeanSquaredError(Loss):
    """Mean squared error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    of_any_scale = True

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = aligned(outputs, labels)
        return mean_of(F.mse_loss(outputs, targets, reduction="none"), given, weights)


class MeanAbsoluteError(Loss):
    """Mean absolute error of values ``[n]`` or ``[n, k]`` against labels ``[n]`` or ``[n, k]``."""

    of_any_scale = True

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = aligned(outputs, labels)
        return mean_of(F.l1_loss(outputs, targets, reduction="none"), given, weights)


class Huber(Loss):
    """Squared error near zero, absolute error beyond ``delta`` (Huber, 1964).

    Args:
        delta: Where the two meet; default 1.
    """

    of_any_scale = True

    def __init__(self, delta: float = 1.0) -> None:
        if delta <= 0:
            raise ValueError("delta must be above 0")
        self.delta = delta

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given."""
        targets, given = aligned(outputs, labels)
        return mean_of(F.huber_loss(outputs, targets, delta=self.delta, reduction="none"), given, weights)


class Pinball(Loss):
    """Pinball loss of one value for each quantile, ``[n, q]`` or ``[n, d, q]``, against labels ``[n]`` or ``[n, d]``.

    Where it is least, the label lies below the value of quantile ``p`` with probability ``p``.

    Source: Koenker and Bassett, Regression Quantiles, 1978.

    Args:
        quantiles: Probabilities ``p`` of the quantiles, rising, each above 0 and below 1; default 0.1, 0.5 and 0.9.
    """

    of_any_scale = True

    def __init__(self, quantiles: list[float] = [0.1, 0.5, 0.9]) -> None:  # noqa: B006 It is only read.
        check_quantiles(quantiles)
        self.quantiles = quantiles

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given and the quantiles."""
        levels = outputs.new_tensor(self.quantiles)
        if outputs.ndim < 2 or outputs.shape[-1] != len(levels):
            raise ValueError(f"outputs must have one number for each of {len(levels)} quantiles")
        if labels.ndim == 2 and outputs.ndim == 2 and labels.shape[1] == 1:
            labels = labels.squeeze(1)
        targets, given = aligned(outputs[..., 0], labels)
        errors = targets.unsqueeze(-1) - outputs
        return mean_of(torch.maximum(levels * errors, (levels - 1) * errors).mean(dim=-1), given, weights)

    def label_form(self, output_shape: Sequence[int]) -> LabelForm:
        """Return one number for all the quantiles of it."""
        return LabelForm(list(output_shape[:-1]), torch.float32)


class Poisson(Loss):
    """Poisson loss of the logarithms of rates, ``[n]`` or ``[n, k]``, against counts ``[n]`` or ``[n, k]``.

    It is the negative log-likelihood of the counts but for what does not depend on the rate: ``exp(z) - y · z``.
    """

    def __call__(
        self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the labels given, in nats."""
        targets, given = aligned(outputs, labels)
        losses = F.poisson_nll_loss(outputs, targets, log_input=True, full=False, reduction="none")
        return mean_of(losses, given, weights)
