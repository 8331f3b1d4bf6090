"""Output functions: a task's raw outputs → probabilities (or values) → predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtl_core.catalogue import Catalogue


class Output:
    """How raw outputs become probabilities, and probabilities predictions.

    Attributes:
        has_classes: Whether ``__call__`` yields class probabilities rather than values.
    """

    has_classes = True

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn raw outputs ``[n, …]`` into probabilities or values ``[n, …]``."""
        raise NotImplementedError

    def preds(self, probs: torch.Tensor) -> torch.Tensor:
        """Turn what ``__call__`` gave, ``[n, …]``, into predictions ``[n]`` or ``[n, …]``."""
        return probs.argmax(dim=1)


class Softmax(Output):
    """Probabilities over classes along dimension 1; the prediction is the likeliest class."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[n, k, …]`` in [0, 1] that sum to 1 along dimension 1."""
        return torch.softmax(logits, dim=1)


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
    "output", {"softmax": Softmax, "sigmoid": Sigmoid, "identity": Identity}
)
