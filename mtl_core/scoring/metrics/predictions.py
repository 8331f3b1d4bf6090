"""Metrics of predicted classes against labelled ones."""

from __future__ import annotations

import numpy as np

from mtl_core.data import UNLABELLED
from mtl_core.scoring.metrics.metric import (
    Array,
    Metric,
    UndefinedMetricError,
    check_same_shape,
    given,
    ratio,
)


class Accuracy(Metric):
    """Share of examples whose prediction equals the label (for multi-label tasks: all of its labels)."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        check_same_shape(golds, preds)
        right = (golds == preds) | ~given(golds)
        return float(right.reshape(len(golds), -1).all(axis=1).mean())


class BalancedAccuracy(Metric):
    """Mean of the recalls of the classes that occur among the labels."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        confusion = _confusion(golds, preds)
        support = confusion.sum(axis=1)
        return float((confusion.diagonal()[support > 0] / support[support > 0]).mean())


class Coverage(Metric):
    """Share of examples, labelled or not, for which there is a prediction rather than -1."""

    inputs = ("preds",)
    leaves_out = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        return float((preds != UNLABELLED).reshape(len(preds), -1).any(axis=1).mean())


class FBeta(Metric):
    """F-beta of one class of two: the weighted harmonic mean of its precision and recall.

    Args:
        beta: Weight of recall against precision; default 1, above 0.
        pos_label: The class it is about; default 1.
    """

    def __init__(self, beta: float = 1.0, pos_label: int = 1) -> None:
        if beta <= 0:
            raise ValueError("beta must be above 0")
        self.beta = beta
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return F-beta, in [0, 1]; 0 where the class is neither labelled nor predicted."""
        tp, fp, fn = _binary_counts(golds, preds, self.pos_label)
        weight = self.beta**2
        return ratio((1 + weight) * tp, (1 + weight) * tp + weight * fn + fp)


class F1(FBeta):
    """F1 of one class of two: the harmonic mean of its precision and recall.

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        super().__init__(1.0, pos_label)


class Precision(Metric):
    """Share of the examples predicted as one class of two that are of it (0 when none is predicted).

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the precision, in [0, 1]."""
        tp, fp, _ = _binary_counts(golds, preds, self.pos_label)
        return ratio(tp, tp + fp)


class Recall(Metric):
    """Share of the examples of one class of two that are predicted as it (0 when there is none).

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the recall, in [0, 1]."""
        tp, _, fn = _binary_counts(golds, preds, self.pos_label)
        return ratio(tp, tp + fn)


class MacroF1(Metric):
    """Mean of the classes' F1, over the classes that occur among labels or predictions."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        confusion = _confusion(golds, preds)
        denominators = confusion.sum(axis=0) + confusion.sum(axis=1)
        occurs = denominators > 0
        return float((2 * confusion.diagonal()[occurs] / denominators[occurs]).mean())


class MicroF1(Metric):
    """F1 over the pooled decisions of all classes; with one label an example it equals accuracy."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the pooled F1, in [0, 1]."""
        check_same_shape(golds, preds)
        if golds.ndim == 2:
            predicted = (preds == 1) & given(golds)
            hits = float(((golds == 1) & predicted).sum())
            return ratio(2 * hits, float((golds == 1).sum() + predicted.sum()))
        return float((golds == preds).mean())


class MatthewsCorrelation(Metric):
    """Correlation of labels and predictions over any number of classes; 0 where one is constant.

    Source: Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the correlation, in [-1, 1]."""
        confusion = _confusion(golds, preds).astype(float)
        n, correct = confusion.sum(), confusion.trace()
        predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
        spread = (n**2 - (predicted**2).sum()) * (n**2 - (actual**2).sum())
        return ratio(correct * n - predicted @ actual, np.sqrt(spread))


def _binary_counts(golds: Array, preds: Array, pos_label: int) -> tuple[float, float, float]:
    """Return true positives, false positives, false negatives."""
    if golds.ndim != 1 or preds.ndim != 1:
        raise UndefinedMetricError("this metric is for one class an example")
    actual, predicted = golds == pos_label, preds == pos_label
    others = np.concatenate([golds[~actual], preds[~predicted]])
    if len(others) and others.min() != others.max():
        raise UndefinedMetricError(
            f"this metric is for two classes: there are {others.min()} and {others.max()} beside {pos_label}"
        )
    tp, fp = float((actual & predicted).sum()), float((~actual & predicted).sum())
    return tp, fp, float((actual & ~predicted).sum())


def _confusion(golds: Array, preds: Array) -> Array:
    """Return counts ``[k, k]``, labels down and predictions across."""
    if golds.ndim != 1 or preds.ndim != 1:
        raise UndefinedMetricError("this metric is for one class an example")
    _, codes = np.unique(np.concatenate([golds, preds]), return_inverse=True)
    k, n = int(codes.max()) + 1, len(golds)
    return np.bincount(codes[:n] * k + codes[n:], minlength=k * k).reshape(k, k)
