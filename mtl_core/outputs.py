"""Output functions: a task's raw outputs → probabilities (or values) → predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtl_core.catalogue import Catalogue
from mtl_core.quantiles import check_quantiles, middle_of


class Output:
    """How raw outputs become probabilities, and probabilities predictions.

    Attributes:
        has_classes: Whether ``__call__`` yields class probabilities rather than values.
    """

    has_classes = True

    def called(self, kind: str) -> str:
        """Return what an answer of a kind is called: values are no ``probs``, but ``outputs``."""
        return "outputs" if kind == "probs" and not self.has_classes else kind

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn raw outputs ``[n, …]`` into probabilities or values ``[n, …]``."""
        raise NotImplementedError

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Turn what ``__call__`` gave, ``[n, …]``, into predictions ``[n]`` or ``[n, …]``."""
        return probs.argmax(dim=1)

    def preds_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn raw outputs ``[n, …]`` into the predictions ``[n]`` or ``[n, …]`` of their probabilities or values."""
        return self.preds(self(logits))


class Softmax(Output):
    """Probabilities over classes along dimension 1; the prediction is the likeliest class."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[n, k, …]`` in [0, 1] that sum to 1 along dimension 1."""
        return torch.softmax(logits, dim=1)

    def preds_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits ``[n, k, …]`` into the likeliest classes, int64 ``[n, …]``, in most cases without probabilities.

        Where rounding could make equal probabilities of logits that differ, or one is not finite, they are computed.
        """
        is_full = logits.dtype in (torch.float32, torch.float64)
        if logits.ndim not in (2, 3) or logits.numel() < _FEW or not is_full:
            return super().preds_of(logits)
        if logits.ndim == 2 or logits.shape[1] > _MOST_CLASSES_CODED:
            highest, preds = logits.max(dim=1, keepdim=True)
            gaps = highest - logits
            clear = ((gaps > _ROUNDING) & (gaps < torch.inf)).sum(dim=1) == logits.shape[1] - 1
            preds = preds.squeeze(1)
        else:
            preds, clear = _coded_preds(logits)
        if int(clear.count_nonzero()) != clear.numel():
            unclear = ~clear
            preds[unclear] = super().preds_of(logits.movedim(1, -1)[unclear])
        return preds


def _coded_preds(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes of the highest logits ``[m, k, n]``, and where they are clear: int64 and bool ``[m, n]``.

    A reduction that keeps places takes ten times as long as a sum along many columns. So each class that is below the
    highest adds a number of its own, and the sum over all classes but one says which one it is.
    """
    k = logits.shape[1]
    own = torch.arange(k * k, k * k + k, dtype=logits.dtype, device=logits.device).unsqueeze(1)
    highest = logits.amax(dim=1, keepdim=True)
    below = (highest - logits).gt_(_ROUNDING).mul_(own).sum(dim=1)
    # Of an infinite logit, or one that is not a number, this is none.
    preds = below.neg_().add_(k**3 - k**2 + k * (k - 1) // 2).add_(highest.squeeze(1), alpha=0)
    return preds.long(), preds < k


_FEW = 2_048
"""Of fewer logits, the probabilities are computed sooner than it is found out that they need not be."""

_MOST_CLASSES_CODED = 100
"""Sums of numbers for so many classes are exact in float32."""

_ROUNDING = 1e-6
"""Logits that are further apart have different probabilities in float32, whose rounding is a tenth of that."""


class Sigmoid(Output):
    """An independent probability for every output; the prediction is 1 where it exceeds the threshold.

    Args:
        threshold: Probability above which the prediction is 1; default 0.5, range [0, 1].
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError("threshold must be between 0 and 1")
        self.threshold = threshold

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[n, …]`` in [0, 1], one for each logit."""
        return torch.sigmoid(logits)

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Turn probabilities ``[n, …]`` into int64 0/1 of the same shape; ``[n, 1]`` becomes ``[n]``."""
        return _squeezed((probs > self.threshold).long())


class Identity(Output):
    """The raw outputs themselves, for tasks without classes; the prediction is the value."""

    has_classes = False

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return ``logits [n, …]`` as they are."""
        return logits

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Return the values ``[n, …]``; ``[n, 1]`` becomes ``[n]``."""
        return _squeezed(probs)


class Ordinal(Output):
    """Probabilities over ``k`` classes in order, from the conditional logits ``[n, k - 1]`` of the loss ``corn``.

    The prediction is the number of classes that the label is above with a probability of more than 1/2: the median.

    Source: Shi, Cao and Raschka, Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
    Probabilities, 2021 (https://arxiv.org/abs/2111.08851).
    """

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[n, k]`` in [0, 1] that sum to 1 along dimension 1.

        Raises:
            ValueError: If the logits have another number of dimensions than two.
        """
        if logits.ndim != 2:
            raise ValueError("outputs must be [n, k - 1] for k classes in order")
        above = torch.sigmoid(logits).cumprod(dim=1)
        ones, zeros = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        return torch.cat([ones, above], dim=1) - torch.cat([above, zeros], dim=1)

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Turn probabilities ``[n, k]`` into classes, int64 ``[n]``."""
        above = probs.flip(1).cumsum(dim=1).flip(1)[:, 1:]
        return (above > 0.5).sum(dim=1)


class Exponential(Output):
    """The exponential of every output, for rates of counts as the loss ``poisson`` has them; it is the prediction."""

    has_classes = False

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return rates ``[n, …]`` above 0, one for each logarithm."""
        return logits.exp()

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Return the rates ``[n, …]``; ``[n, 1]`` becomes ``[n]``."""
        return _squeezed(probs)


class Quantiles(Output):
    """Values of the quantiles of a number, ``[n, q]`` or ``[n, d, q]``, put in order so that none cross.

    The prediction is the value of the quantile that is nearest to the median.

    Source: Chernozhukov, Fernández-Val and Galichon, Quantile and Probability Curves Without Crossing, 2010, for the
    reordering, which brings them no further from the true quantiles.

    Args:
        quantiles: Their probabilities, rising, each above 0 and below 1, as the loss ``pinball`` has them; default
            0.1, 0.5 and 0.9.
    """

    has_classes = False

    def __init__(self, quantiles: list[float] = [0.1, 0.5, 0.9]) -> None:  # noqa: B006 It is only read.
        check_quantiles(quantiles)
        self.quantiles = quantiles

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return values of the shape of ``logits``, rising along the last dimension.

        Raises:
            ValueError: If there is not one number for each quantile.
        """
        if logits.ndim < 2 or logits.shape[-1] != len(self.quantiles):
            raise ValueError(f"outputs must have one number for each of {len(self.quantiles)} quantiles")
        return logits.sort(dim=-1).values

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Return the middle values, ``[n]`` or ``[n, d]``."""
        return probs[..., middle_of(self.quantiles)]


class _Custom(Output):
    def __init__(self, func: Callable[[Any], torch.Tensor]) -> None:
        self.func = func

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return self.func(logits)


def _squeezed(preds: torch.Tensor) -> torch.Tensor:
    return preds.squeeze(1) if preds.ndim == 2 and preds.shape[1] == 1 else preds


def as_output(func: Output | Callable[[Any], torch.Tensor]) -> Output:
    """Return ``func`` as an :class:`Output`; a plain callable predicts the argmax over dimension 1."""
    return func if isinstance(func, Output) else _Custom(func)


OUTPUTS: Catalogue[Output] = Catalogue(
    "output",
    {
        "softmax": Softmax,
        "sigmoid": Sigmoid,
        "ordinal": Ordinal,
        "identity": Identity,
        "exp": Exponential,
        "quantiles": Quantiles,
    },
)
